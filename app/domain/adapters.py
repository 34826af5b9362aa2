"""The adapter registry: one document that says which adapters there are and which of them serves.

API workers, the runtime and Ray replicas read it as a file; its fields are explained in docs/bundles.md.
"""

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.domain.deployments import Route
from app.domain.errors import InvalidInput
from app.domain.runs import answered_share


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Adapter(_Part):
    """An adapter as the registry knows it. Relative paths count from the registry's own folder; `sha256` is that of its
    weights, `share` that of its tenant's users whom it answers, 0..1."""

    run_id: Annotated[str, Field(min_length=1)]
    name: str
    path: str
    checkpoint: str | None
    sha256: str
    base_model: str
    created_at: AwareDatetime
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    metrics: dict[str, Any] = Field(default_factory=dict[str, Any])
    dataset: dict[str, Any] = Field(default_factory=dict[str, Any])


class Registry(_Part):
    """Every adapter, and `current`, the one that answers whoever names none (None: the base model). `deployment` is
    the newest change of the default tenant's route that `current` follows."""

    schema_version: Literal[1] = 1
    updated_at: AwareDatetime | None = None
    deployment: Annotated[int, Field(ge=0)] = 0
    current: str | None = None
    adapters: tuple[Adapter, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [one.run_id for one in self.adapters]
        if len(names) != len(set(names)):
            raise ValueError("two adapters have one run_id")
        if self.current is not None and self.current not in names:
            raise ValueError(f"current names {self.current}, which is not among the adapters")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The run_id of every adapter."""
        return frozenset(one.run_id for one in self.adapters)

    def with_adapter(self, adapter: Adapter) -> "Registry":
        """The registry with an adapter, in the place of an older one of its run_id, whose share it keeps."""
        kept = {one.run_id: one for one in self.adapters}
        if adapter.run_id in kept:
            adapter = adapter.model_copy(update={"share": kept[adapter.run_id].share})
        return self._with({**kept, adapter.run_id: adapter}.values())

    def with_route(self, own: Collection[str], route: Route) -> "Registry":
        """The registry with the shares that a tenant's route gives to its `own` adapters."""
        shares = {name: answered_share(route, name) for name in own}
        return self._with(one.model_copy(update={"share": shares.get(one.run_id, one.share)}) for one in self.adapters)

    def following(self, number: int, stable: str | None) -> "Registry":
        """The registry that follows a change of the default tenant's route; one that it knows already, or an older
        one, leaves it as it is."""
        if number <= self.deployment:
            return self
        return self.pointing_at(stable).model_copy(update={"deployment": number})

    def pointing_at(self, run_id: str | None) -> "Registry":
        """The registry with another `current`. Raises InvalidInput for an adapter that it does not hold."""
        if run_id is not None and run_id not in self.names:
            known = ", ".join(sorted(self.names)) or "none"
            raise InvalidInput(f"{run_id} is not in the registry, which holds: {known}.", "run_id")
        return self.model_copy(update={"current": run_id})

    def _with(self, adapters: Iterable[Adapter]) -> "Registry":
        return self.model_copy(update={"adapters": tuple(adapters)})


def parse_registry(content: bytes, name: str) -> Registry:
    """The registry in a JSON document. Raises InvalidInput, one line, where it is none."""
    try:
        return Registry.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{name} is no adapter registry: {f'{place}: ' if place else ''}{message}") from None
