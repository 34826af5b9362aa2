"""The fields of a manifest, checked one by one; each fault is a line with its place."""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast
from urllib.parse import urlsplit

from app.domain.errors import InvalidInput
from app.domain.manifest_json import JsonObject
from app.domain.sampling import Sampling

Place = tuple[str, ...]
"""The keys that lead to a field."""

MAX_TOKENS = 1_000_000
MOST_TOKENS = ("max_tokens", "num_predict", "max_new_tokens")
"""One parameter in the words of OpenAI, Ollama and transformers."""

PARAMETERS = ("temperature", "top_p", *MOST_TOKENS, "presence_penalty", "frequency_penalty", "seed")

PATH_RULE = "has to be a path below its folder, like models/tiny: not absolute, without `..`"

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_OLLAMA = re.compile(r"[A-Za-z0-9][\w.:/-]{0,199}", re.ASCII)
_NAMES = {
    "huggingface": (_REPOSITORY, "has to be a repository's name, like org/model"),
    "ollama": (_OLLAMA, "has to be a model as Ollama names it, like llama3.2:1b"),
}
_KINDS: Sequence[tuple[type, str]] = ((bool, "true or false"), (str, "text"), (list, "a list"), (dict, "an object"))


def refuse(place: Place, what: str) -> InvalidInput:
    """The error of a fault at a place."""
    return InvalidInput(f"{_shown(place)} {what}" if place else what)


def refuse_unknown(document: Mapping[str, Any], known: Sequence[str], place: Place) -> None:
    """Raises InvalidInput for a key that is not among `known`, with the one that was probably meant."""
    for name in document:
        if name not in known:
            meant = get_close_matches(name, known, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"known are {', '.join(known)}"
            raise refuse((*place, name), f"is not known; {hint}")


def object_at(value: Any, place: Place, what: str = "an object") -> Mapping[str, Any]:
    """An object without a key given twice."""
    if value is None:
        raise refuse(place, f"is missing: it has to be {what}" if place else f"the manifest has to be {what}")
    if not isinstance(value, dict):
        raise refuse(place, f"has to be {what}, not {_kind(value)}")
    if isinstance(value, JsonObject) and value.twice is not None:
        raise refuse((*place, value.twice), "is there twice")
    return cast("Mapping[str, Any]", value)


def text_at(value: Any, place: Place) -> str:
    """Text on one line that any file can hold."""
    if not isinstance(value, str):
        raise refuse(place, f"has to be text, not {_kind(value)}")
    if len(value) > 1000:
        raise refuse(place, "is longer than 1,000 characters")
    if _CONTROL.search(value) or not _is_encodable(value):
        raise refuse(place, "holds a character that is no text")
    return value


def role_name_at(value: str, place: Place) -> str:
    """The name of a profile or a role."""
    if not _ROLE.fullmatch(value):
        raise refuse(place, "is no name: letters, digits and . _ - after a letter, 64 at most")
    return value


def name_at(value: Any, place: Place, provider: str) -> str:
    """A model's name as its provider takes it."""
    name = text_at(value, place)
    if not name or name != name.strip() or len(name) > 200:
        raise refuse(place, "has to be a model's name, 1 to 200 characters without spaces around it")
    pattern, rule = _NAMES.get(provider, (None, ""))
    if pattern is not None and (not pattern.fullmatch(name) or ".." in name or "--" in name):
        raise refuse(place, rule)
    return name


def flag_at(value: Any, place: Place) -> bool | None:
    """True, false, or unset."""
    if value is not None and not isinstance(value, bool):
        raise refuse(place, f"has to be true or false, not {_kind(value)}")
    return value


def url_at(value: Any, place: Place) -> str | None:
    """The address of a server, without a slash at its end."""
    if value is None:
        return None
    url = text_at(value, place)
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable, parts = False, urlsplit("")
    if not is_usable or " " in url or parts.query or parts.fragment:
        raise refuse(place, "has to be an http:// or https:// address")
    if parts.username is not None or parts.password is not None:
        raise refuse(place, "holds a user or password: a manifest is no place for secrets")
    return url.rstrip("/")


def path_at(value: Any, place: Place) -> str | None:
    """A path below some folder, its parts separated by `/`."""
    if value is None:
        return None
    path = text_at(value, place)
    if not path or path.startswith(("/", "~")) or "\\" in path or {"", ".", ".."} & set(path.split("/")):
        raise refuse(place, PATH_RULE)
    return path


def sha256_at(value: Any, place: Place) -> str | None:
    """A SHA-256 in hex."""
    if value is None:
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise refuse(place, "has to be a SHA-256: 64 digits of 0-9 and a-f")
    return value


def parameters_at(value: Any, place: Place) -> Sampling:
    """A role's parameters; the three words for the most tokens are one."""
    document = object_at(value, place)
    refuse_unknown(document, PARAMETERS, place)
    said = [name for name in MOST_TOKENS if name in document]
    if len(said) > 1:
        raise refuse((*place, said[1]), f"says the same as {said[0]}: give one of them")
    return Sampling(
        temperature=_number(document, "temperature", place, 0.0, 2.0),
        top_p=_number(document, "top_p", place, 0.0, 1.0, is_open=True),
        max_tokens=_whole(document, said[0], place, 1, MAX_TOKENS) if said else None,
        presence_penalty=_number(document, "presence_penalty", place, -2.0, 2.0),
        frequency_penalty=_number(document, "frequency_penalty", place, -2.0, 2.0),
        seed=_whole(document, "seed", place, 0, 2**32 - 1),
    )


def _number(
    document: Mapping[str, Any], name: str, place: Place, least: float, most: float, *, is_open: bool = False
) -> float | None:
    """A number in least..most, without `least` itself where that is open."""
    value = document.get(name)
    if value is None and name not in document:
        return None
    rule = (
        f"has to be a number from {least:g} to {most:g}"
        if not is_open
        else f"has to be above {least:g}, {most:g} at most"
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse((*place, name), f"{rule}, not {_kind(value)}")
    if not least <= value <= most or (is_open and value == least):
        raise refuse((*place, name), f"is {_kind(value)}: it {rule}")
    return float(value)


def _whole(document: Mapping[str, Any], name: str, place: Place, least: int, most: int) -> int | None:
    value = document.get(name)
    if value is None and name not in document:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise refuse((*place, name), f"is {_kind(value)}: it has to be a whole number from {least:,} to {most:,}")
    return value


def _kind(value: Any) -> str:
    """What a value is, in a word or as the number itself."""
    if value is None:
        return "null"
    for kind, word in _KINDS:
        if isinstance(value, kind):
            return word
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"[:20]


def _shown(place: Place) -> str:
    """A place with dots between its keys; a key that is no plain name is quoted."""
    return ".".join(key if re.fullmatch(r"[\w/-]+", key, re.ASCII) else json.dumps(key)[:80] for key in place)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
