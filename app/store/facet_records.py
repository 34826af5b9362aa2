"""The shapes of stored facets and of what speaks of them, for those that somebody hands in."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from app.domain.persona import MOST_FACETS

MOST_SHOWN = 20
"""Options of one choice."""

Mean = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
"""Of a value of 0 to 1; a normal's may lie outside a little."""

Variance = Annotated[float, Field(ge=1e-6, le=1, allow_inf_nan=False)]
"""Its inverse is what evidence weighs: nobody is surer than a million observations."""

Count = Annotated[int, Field(ge=0, lt=2**31)]
Leanings = Annotated[
    dict[str, Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]], Field(max_length=MOST_FACETS)
]


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
    shown: Annotated[list[Leanings], Field(max_length=MOST_SHOWN)]
    chosen: Count
    remark: Leanings

    @model_validator(mode="after")
    def _check_chosen(self) -> "_Evidence":
        if self.chosen >= max(1, len(self.shown)):
            raise ValueError("the chosen option was not shown")
        return self


_FACETS = TypeAdapter(Annotated[dict[str, _Facet | _Beta], Field(max_length=MOST_FACETS)])
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
