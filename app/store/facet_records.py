"""The shapes of stored facets and of what speaks of them, for those that somebody hands in."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Mean = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
"""Of a value of 0 to 1; a normal's may lie outside a little."""

Variance = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Leanings = dict[str, Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Carried(_Record):
    mean: Mean
    variance: Variance
    evidence: Count
    at: AwareDatetime


class _Facet(_Record):
    """As `app.store.facets` stores it."""

    mean: Mean
    variance: Variance
    evidence: Count
    evidence_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    start: tuple[Mean, Variance]
    told_at: AwareDatetime | None = None
    is_pinned: bool = False
    carried: _Carried | None = None


class _Beta(_Record):
    """As releases before it did."""

    value: Annotated[float, Field(ge=0, le=1)]
    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Evidence(_Record):
    shown: list[Leanings]
    chosen: Count
    remark: Leanings

    @model_validator(mode="after")
    def _check_chosen(self) -> "_Evidence":
        if self.chosen >= max(1, len(self.shown)):
            raise ValueError("the chosen option was not shown")
        return self


_FACETS = TypeAdapter(dict[str, _Facet | _Beta])
_LEANINGS = TypeAdapter(Leanings)


def check_facets(document: Mapping[str, Any]) -> None:
    """Raise ValueError unless it holds facets, as they are stored or were by an earlier release."""
    _FACETS.validate_python(document)


def check_evidence(document: Mapping[str, Any]) -> None:
    """Raise ValueError unless it is a piece of evidence."""
    _Evidence.model_validate(document)


def check_leanings(document: Any) -> None:
    """Raise ValueError unless it tells how an option leans."""
    _LEANINGS.validate_python(document)
