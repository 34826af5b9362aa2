"""The manifest of models: profiles, their roles, and the model that plays each role. Pure: bytes in, values out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from app.domain.errors import InvalidInput, NotFound
from app.domain.manifest_fields import (
    PATH_RULE,
    Place,
    flag_at,
    name_at,
    object_at,
    parameters_at,
    path_at,
    refuse,
    refuse_unknown,
    role_name_at,
    sha256_at,
    text_at,
    url_at,
)
from app.domain.manifest_json import read_json
from app.domain.sampling import Sampling

Provider = Literal["ollama", "vllm", "huggingface", "local", "llamacpp"]
DEFAULT_PROVIDER: Provider = "ollama"

COMMON = ("name", "provider", "auto_download", "parameters", "description")
OWN: Mapping[Provider, tuple[str, ...]] = {
    "ollama": ("url",),
    "vllm": ("url",),
    "huggingface": ("revision", "files"),
    "local": ("path", "files"),
    "llamacpp": ("url", "path", "sha256"),
}
"""The fields that only some providers know."""

UNSAID = Sampling()

OVERRIDES = "LLM_MODELS_OVERRIDES"
"""How faults of the overrides name their place."""


@dataclass(frozen=True)
class Model:
    """One model at one provider; two roles with equal ones share it. `auto_download` true: brought at the service's
    start; None: when it is asked for; False: never, only looked for. `files` are (path, SHA-256 or None), in order."""

    name: str
    provider: Provider = DEFAULT_PROVIDER
    auto_download: bool | None = None
    url: str | None = None
    path: str | None = None
    revision: str | None = None
    sha256: str | None = None
    files: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Role:
    """What a profile calls a model for. `alias_of` is the role that it borrows; `overridden` are the fields that the
    settings changed, e.g. `parameters.temperature`."""

    name: str
    model: Model
    sampling: Sampling = UNSAID
    description: str = ""
    alias_of: str | None = None
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """The roles that belong together."""

    name: str
    roles: Mapping[str, Role] = field(default_factory=dict[str, Role])
    description: str = ""

    def role(self, name: str) -> Role:
        """A role by name. Raises NotFound."""
        if name not in self.roles:
            raise NotFound(f"the profile {self.name} has no such role; it has {', '.join(self.roles) or 'none'}")
        return self.roles[name]


@dataclass(frozen=True)
class Manifest:
    """The active profile with its overrides, and the names of all."""

    active: Profile
    profiles: tuple[str, ...]


def parse_manifest(content: bytes, profile: str, overrides: Mapping[str, Any] | None = None) -> Manifest:
    """A manifest's content with `profile` active and `overrides` (role to long or short form) merged into it.

    Every profile is checked, whichever is active. Raises InvalidInput, whose message is one line: the place of the
    first fault (`profiles.default.models.general.url`) and what is wrong there.
    """
    document = object_at(read_json(content), ())
    refuse_unknown(document, ("profiles",), ())
    given = object_at(document.get("profiles"), ("profiles",), what="an object of profiles")
    if not given:
        raise refuse(("profiles",), "is empty: a manifest has at least one profile")
    parsed = {name: _profile(name, raw, ("profiles", name), {}) for name, raw in given.items()}
    if profile not in parsed:
        raise InvalidInput(f"there is no profile {profile}: LLM_MODELS_PROFILE is one of {', '.join(parsed)}")
    active = _profile(profile, given[profile], ("profiles", profile), overrides or {})
    return Manifest(active, tuple(parsed))


def parse_overrides(content: str) -> Mapping[str, Any]:
    """The overrides as a setting holds them: a JSON object, role to long or short form. Raises InvalidInput."""
    document = object_at(read_json(content.encode("utf-8", "surrogatepass")), (OVERRIDES,))
    for role, raw in document.items():
        role_name_at(role, (OVERRIDES, role))
        if not isinstance(raw, str | Mapping):
            raise refuse((OVERRIDES, role), "has to be an object or text")
    return document


def _profile(name: str, raw: Any, place: Place, overrides: Mapping[str, Any]) -> Profile:
    role_name_at(name, place)
    document = object_at(raw, place)
    refuse_unknown(document, ("models", "description"), place)
    models = object_at(document.get("models"), (*place, "models"), what="an object of roles")
    if not models:
        raise refuse((*place, "models"), "is empty: a profile has at least one role")
    for role in overrides:
        if role not in models:
            raise refuse((OVERRIDES, role), f"is no role of the profile {name}, which has {', '.join(models)}")
    roles: dict[str, Role] = {}
    for role in models:
        role_name_at(role, (*place, "models", role))
        target = _target(role, models, (*place, "models"))
        own = _long(models[target])
        # A role that borrows another has that one's overrides, too; its own are merged last.
        changes = [overrides[one] for one in dict.fromkeys((target, role)) if one in overrides]
        whole, changed = own, dict[str, None]()
        for change in changes:
            whole, fields = _merged(whole, _long(change))
            changed |= dict.fromkeys(fields)
        at = (OVERRIDES, role) if changes else (*place, "models", target)
        made = _role(role, whole, at, is_short=isinstance(models[target], str))
        alias_of = target if target != role else None
        roles[role] = Role(role, made.model, made.sampling, made.description, alias_of, tuple(changed))
    return Profile(name, roles, text_at(document.get("description", ""), (*place, "description")))


def _target(role: str, models: Mapping[str, Any], place: Place) -> str:
    """The role whose model a role has: itself, or the end of its chain of aliases. Raises InvalidInput for a circle."""
    seen = [role]
    while isinstance(named := models[seen[-1]], str) and named in models:
        if named in seen:
            circle = " → ".join([*seen[seen.index(named) :], named])
            raise refuse((*place, role), f"is an alias that leads back to itself: {circle}")
        seen.append(named)
    return seen[-1]


def _long(raw: Any) -> Any:
    """The long form of what may be a model's name alone."""
    return {"name": raw} if isinstance(raw, str) else raw


def _merged(below: Any, above: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """`above` over `below`, parameters one by one; and which fields it sets."""
    if not isinstance(below, Mapping):
        return above, list(above)
    whole = dict(cast("Mapping[str, Any]", below))
    changed: list[str] = []
    for name, value in above.items():
        held = whole.get(name)
        if name == "parameters" and isinstance(value, Mapping) and isinstance(held, Mapping):
            inner = cast("Mapping[str, Any]", value)
            whole[name] = {**cast("Mapping[str, Any]", held), **inner}
            changed += [f"{name}.{one}" for one in inner]
        else:
            whole[name] = value
            changed.append(name)
    return whole, changed


def _role(role: str, raw: Any, place: Place, *, is_short: bool) -> Role:
    what = "a model's name, the name of a role, or an object"
    document = object_at(raw, place, what=what)
    provider = document.get("provider", DEFAULT_PROVIDER)
    if provider not in get_args(Provider) or not isinstance(provider, str):
        raise refuse((*place, "provider"), f"is no provider: it is one of {', '.join(get_args(Provider))}")
    known = cast("Provider", provider)
    for name in document:
        owners = [one for one, fields in OWN.items() if name in fields]
        if owners and known not in owners:
            raise refuse((*place, name), f"is for {' and '.join(owners)}, and the provider is {known}")
    refuse_unknown(document, (*COMMON, *OWN[known]), place)
    if "name" not in document:
        raise refuse(place, "has no name: which model is it?")
    model = Model(
        name=name_at(document["name"], place if is_short and len(document) == 1 else (*place, "name"), known),
        provider=known,
        auto_download=flag_at(document.get("auto_download"), (*place, "auto_download")),
        url=url_at(document.get("url"), (*place, "url")),
        path=path_at(document.get("path"), (*place, "path")),
        revision=_revision(document.get("revision"), (*place, "revision")),
        sha256=sha256_at(document.get("sha256"), (*place, "sha256")),
        files=_files(document.get("files"), (*place, "files")),
    )
    _check_whole(model, place)
    sampling = parameters_at(document.get("parameters", {}), (*place, "parameters"))
    description = text_at(document.get("description", ""), (*place, "description"))
    return Role(role, model, sampling, description)


def _check_whole(model: Model, place: Place) -> None:
    """Raises InvalidInput for fields that mean nothing together."""
    if model.provider == "llamacpp" and model.url is None and model.path is None:
        raise refuse(place, "needs a url (a running server) or a path (a GGUF file): llamacpp downloads nothing")
    if model.sha256 is not None and model.path is None:
        raise refuse((*place, "sha256"), "is that of the file at path, and there is no path")
    if model.provider == "local" and model.path is None and path_at(model.name, (*place, "name")) is None:
        raise refuse((*place, "name"), PATH_RULE)


def _revision(value: Any, place: Place) -> str | None:
    if value is None:
        return None
    revision = text_at(value, place)
    if path_at(revision, place) is None or any(character in revision for character in " ?#%:"):
        raise refuse(place, "has to be a branch, a tag or a commit")
    return revision


def _files(value: Any, place: Place) -> tuple[tuple[str, str | None], ...]:
    if value is None:
        return ()
    document = object_at(value, place, what="an object of paths, each with its SHA-256 or null")
    for path in document:
        path_at(path, (*place, path))
    return tuple((path, sha256_at(held, (*place, path))) for path, held in document.items())
