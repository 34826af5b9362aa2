"""Personas: facets, each with what is believed of it and how sure that is.

What is believed of a facet is a mean and a variance of its value in 0..1 (0.5 is neutral), out of the user's evidence
(`app.domain.facet_evidence`), at a moment. From then on the evidence fades, and the belief goes back to what it would
be without any.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from app.domain.embeddings import Vector

DEFAULT_FACETS = ("concise", "formal", "code_first", "step_by_step")
NEUTRAL = 0.5
NEUTRAL_VARIANCE = 1 / 12
"""Of a value of which nothing is known: that of any value in 0..1, each as probable as the others."""

MOST_FACETS = 64
"""Of one user: what is believed of them together takes the cube of their number."""

TOLD_VARIANCE = 1 / 120
"""Of what users say of themselves outright: that of 20 remarks."""

INTERVAL_Z = 1.28
"""Half-width, in standard deviations, of the interval (about 80 %) that has to exclude neutral before a
facet shapes a prompt: personalising on a guess is worse than not personalising."""

CENTROID_HALF_LIFE_DAYS = 30.0


class Belief(NamedTuple):
    """A mean and a variance of a facet's value."""

    mean: float = NEUTRAL
    variance: float = NEUTRAL_VARIANCE


NOTHING_KNOWN = Belief()


@dataclass(frozen=True)
class Carried:
    """What was believed of a facet when its evidence was not kept yet, out of so many pieces of it."""

    belief: Belief
    evidence: int
    at: datetime


@dataclass(frozen=True)
class Facet:
    """One trait of how a user likes to be answered: what is believed of it at `updated_at`, and what would be without
    evidence (`start`). `evidence`: how many pieces of it speak of the facet, `evidence_at` the latest. `told_at`: since
    when it is what the user said outright. Nothing but the user moves a facet that is pinned."""

    name: str
    mean: float = NEUTRAL
    variance: float = NEUTRAL_VARIANCE
    evidence: int = 0
    evidence_at: datetime | None = None
    updated_at: datetime | None = None
    start: Belief = NOTHING_KNOWN
    told_at: datetime | None = None
    is_pinned: bool = False
    carried: Carried | None = None

    @property
    def value(self) -> float:
        """The mean, 0..1."""
        return min(1.0, max(0.0, self.mean))

    @property
    def uncertainty(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.variance)

    @property
    def interval(self) -> tuple[float, float]:
        """The values that are probable, about 80 % of what is believed."""
        half = INTERVAL_Z * self.uncertainty
        return max(0.0, min(1.0, self.mean - half)), min(1.0, max(0.0, self.mean + half))

    @property
    def is_expressed(self) -> bool:
        """Whether the interval excludes neutral by what this user did or said, so that the facet may shape a prompt.
        What other users like is no reason."""
        is_own = self.evidence > 0 or self.told_at is not None
        return is_own and abs(self.mean - NEUTRAL) > INTERVAL_Z * self.uncertainty


@dataclass(frozen=True)
class Persona:
    """A user's facets by name, with the version that guards them against lost updates. `known_since` tells a
    user from a later one of the same id: between the two lies an erasure."""

    user_id: str
    facets: Mapping[str, Facet]
    version: int = 0
    vector: Vector | None = None
    updated_at: datetime | None = None
    known_since: datetime | None = None


@dataclass(frozen=True)
class Signal:
    """Anything that teaches: what happened, in the words of the caller where there are any. `shown`: how the options
    of a choice lean on each facet; the one at `chosen` was taken."""

    kind: Literal["selection", "rejection", "feedback", "correction", "preference"]
    facets: Mapping[str, Facet]
    chosen_text: str = ""
    rejected_texts: tuple[str, ...] = ()
    comment: str = ""
    rating: float | None = None
    is_success: bool | None = None
    shown: tuple[Mapping[str, float], ...] = field(default=(), kw_only=True)
    chosen: int = field(default=0, kw_only=True)

    @property
    def has_words(self) -> bool:
        """Whether there is anything to judge beside the choice itself."""
        said = self.chosen_text or self.rejected_texts or self.comment
        return bool(said) or self.rating is not None or self.is_success is not None

    @property
    def document(self) -> dict[str, Any]:
        """What happened, as a model is told it and a training sample keeps it: the two have to be the same."""
        return {
            "kind": self.kind,
            "chosen": self.chosen_text,
            "rejected": list(self.rejected_texts),
            "feedback": self.comment,
            "rating": self.rating,
            "success": self.is_success,
        }


@dataclass(frozen=True)
class FacetChange:
    """One facet's move, and what caused it."""

    facet: str
    before: float
    after: float
    uncertainty: float
    reason: str


def share_left(since: datetime, now: datetime, half_life_days: float) -> float:
    """What evidence of `since` counts at `now`: half as much every `half_life_days`, by whole days, so that what is
    computed twice on a day is the same."""
    return 0.5 ** (max(0, (now - since).days) / half_life_days)


def faded(facets: Mapping[str, Facet], now: datetime, half_life_days: float) -> dict[str, Facet]:
    """What is believed of each facet at `now`: the evidence counts less, and the variance grows back to that without
    any. What was told does not fade, and neither does what is pinned.

    The precision of all evidence together, and what it points to, fade alike:
    P(t) = P_start + f · (P - P_start), (P m)(t) = P_start m_start + f · (P m - P_start m_start).
    """
    return {name: _faded(facet, now, half_life_days) for name, facet in facets.items()}


def _faded(facet: Facet, now: datetime, half_life_days: float) -> Facet:
    share = 1.0 if facet.updated_at is None else share_left(facet.updated_at, now, half_life_days)
    if share == 1.0 or facet.is_pinned:
        return facet
    start, held = 1.0 / facet.start.variance, 1.0 / facet.variance
    precision = start + share * (held - start)
    pointed = start * facet.start.mean + share * (held * facet.mean - start * facet.start.mean)
    return replace(facet, mean=pointed / precision, variance=1.0 / precision, updated_at=now)


def told(facet: Facet, value: float, now: datetime, *, is_pinned: bool) -> Facet:
    """The facet as the user says it is: whatever was concluded before counts no more."""
    said = Belief(value, TOLD_VARIANCE)
    return Facet(facet.name, *said, updated_at=now, start=said, told_at=now, is_pinned=is_pinned)


def moved_centroid(
    centroid: Vector | None, weight: float, moved_at: datetime | None, said: Vector, now: datetime
) -> tuple[Vector, float]:
    """The recency-weighted mean of what a user said, with `said` (dimension,) added, and its weight.

    What was heard before counts half as much every CENTROID_HALF_LIFE_DAYS. Not normalised: its length
    says how much the user's topics agree.
    """
    if centroid is None or moved_at is None or centroid.shape != said.shape:
        return said.astype(np.float32), 1.0
    days = max(0.0, (now - moved_at).total_seconds() / 86400.0)
    faded = weight * 0.5 ** (days / CENTROID_HALF_LIFE_DAYS)
    total = faded + 1.0
    return ((centroid * faded + said) / total).astype(np.float32), total


def describe(facets: Mapping[str, Facet]) -> list[str]:
    """How to answer this user, one sentence per expressed facet, surest first."""
    wordings = {
        "concise": ("Answer briefly.", "Answer in full detail."),
        "formal": ("Use a formal tone.", "Use a relaxed, informal tone."),
        "code_first": ("Show code first, then explain.", "Explain in words; show code only where asked."),
        "step_by_step": ("Work step by step.", "Give the result without walking through every step."),
    }
    expressed = sorted(
        (facet for facet in facets.values() if facet.is_expressed),
        key=lambda facet: (-abs(facet.value - NEUTRAL) / (facet.uncertainty + 1e-9), facet.name),
    )
    lines: list[str] = []
    for facet in expressed:
        label = facet.name.replace("_", " ")
        high, low = wordings.get(facet.name, (f"Lean towards: {label}.", f"Lean away from: {label}."))
        lines.append(high if facet.value > NEUTRAL else low)
    return lines
