"""Hypotheses: readings of an input, their probabilities, and whether to ask."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from app.domain.calibration import Calibration, Features, probabilities, score
from app.domain.catalogue import Catalogue, IntentMatch, SlotValues
from app.domain.leanings import leanings_of
from app.domain.ordering import Order
from app.domain.outcomes import OutcomeKind
from app.domain.persona import Facet
from app.domain.ranker import Ranker
from app.domain.ranking import Ranked
from app.domain.wording import content_words

SPECIFIC_WORDS = 10
"""An input with this many content words is as specific as length alone can make it."""

Origin = Literal["memory", "choice", "cohort", "option", "answer", "model"]


@dataclass(frozen=True)
class Turn:
    """One message of the conversation so far."""

    role: str
    content: str


@dataclass(frozen=True)
class PastChoice:
    """What this user chose (or turned down) for an earlier input; `similarity` is that input's cosine to
    the present one. `request` is the reading's own wording, which tells readings without slots apart. `outcome` says
    how it was chosen or turned down, at which `place` of the list, from 1, and `weight` what that counts."""

    intent: str | None
    slots: Mapping[str, str]
    answer: str
    input_text: str
    evidence: tuple[UUID, ...]
    similarity: float
    is_chosen: bool
    request: str = ""
    outcome: OutcomeKind = "selected"
    place: int = 1
    weight: float = 1.0


@dataclass(frozen=True)
class CohortChoice:
    """What other users of the tenant chose for near inputs: only values of the vocabulary, and only when
    at least k of them did. `share` is their part, 0..1, of all users who chose for near inputs."""

    slots: Mapping[str, str]
    users: int
    share: float


@dataclass(frozen=True)
class HypothesisContext:
    """All that is known when an input is read. Memories come best first."""

    input_text: str
    now: datetime
    catalogue: Catalogue
    intent: IntentMatch | None = None
    memories: Sequence[Ranked] = ()
    past_choices: Sequence[PastChoice] = ()
    cohort_choices: Sequence[CohortChoice] = ()
    facets: Mapping[str, Facet] = field(default_factory=dict[str, Facet])
    conversation: Sequence[Turn] = ()
    count: int = 3


@dataclass(frozen=True)
class Reading:
    """A candidate reading of an input. `score` is a raw log-odds, and `features` what a calibration turns into a
    probability (the score alone where there are none); `request` says the same as `question` in the user's own
    voice."""

    question: str
    request: str
    rationale: str
    score: float
    origin: Origin
    slots: Mapping[str, str] = field(default_factory=dict[str, str])
    evidence: tuple[UUID, ...] = ()
    features: Features = field(default_factory=dict[str, float])
    leanings: Mapping[str, float] | None = None
    """How it leans on each facet of a persona, -1..1; None: as its words say."""

    @property
    def measured(self) -> Features:
        """What its probability is read from."""
        return self.features or {"score": self.score}


@dataclass(frozen=True)
class Hypothesis:
    """A reading that is shown, with its calibrated probability of being what the user means."""

    id: str
    question: str
    request: str
    rationale: str
    confidence: float
    score: float
    origin: Origin
    slots: Mapping[str, str]
    evidence: tuple[UUID, ...]
    features: Features
    leanings: Mapping[str, float] | None = None
    """As those of a reading."""
    rank: int = 1
    """The place, from 1, at which it is to be shown."""
    propensity: float = 1.0
    """The probability with which the policy shows this reading at this place; 1 where no order is drawn."""

    @property
    def leans(self) -> Mapping[str, float]:
        """How it leans on each facet, as its words say where nothing else does."""
        return leanings_of(self.request) if self.leanings is None else self.leanings


def shown_hypotheses(readings: Sequence[Reading], calibration: Calibration, count: int) -> list[Hypothesis]:
    """The best `count` readings as hypotheses `h1`…, sorted by confidence.

    The probabilities are over the shown ones and "none of these": a reading that is not shown is part of
    "none of these".
    """
    best = sorted(readings, key=lambda reading: -score(reading.measured, calibration))[:count]
    return numbered(best, probabilities([reading.measured for reading in best], calibration))


def numbered(readings: Sequence[Reading], confidences: Sequence[float]) -> list[Hypothesis]:
    """Readings as hypotheses `h1`…, in their order, with a confidence each."""
    return [
        Hypothesis(
            id=f"h{index}",
            question=reading.question,
            request=reading.request,
            rationale=reading.rationale,
            confidence=confidence,
            score=reading.score,
            origin=reading.origin,
            slots=reading.slots,
            evidence=reading.evidence,
            features=reading.measured,
            rank=index,
            leanings=reading.leanings,
        )
        for index, (reading, confidence) in enumerate(zip(readings, confidences, strict=True), start=1)
    ]


def ranked_readings(readings: Sequence[Reading], ranker: Ranker) -> list[Reading]:
    """The readings of the built-in rules with the weights of their origins in their log-odds; others stay."""
    return [
        each if each.features else replace(each, score=each.score + ranker.get(each.origin, 0.0)) for each in readings
    ]


def ordered(hypotheses: Sequence[Hypothesis], order: Order) -> list[Hypothesis]:
    """The same hypotheses in the same sequence, each with its place in an order and the probability of that."""
    return [
        replace(each, rank=order.ranks[place], propensity=order.propensity_at(place))
        for place, each in enumerate(hypotheses)
    ]


def by_rank(hypotheses: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Stored hypotheses in the order in which they were shown; those of earlier releases were shown as they come."""
    return sorted(hypotheses, key=lambda each: each.get("rank", 0))


def reading_document(reading: Reading | Hypothesis) -> dict[str, Any]:
    """What a reading says, as it is stored: what a hypothesis has of it, too."""
    return {
        "question": reading.question,
        "request": reading.request,
        "rationale": reading.rationale,
        "score": reading.score,
        "origin": reading.origin,
        "slots": dict(reading.slots),
        "evidence": [str(memory_id) for memory_id in reading.evidence],
        "features": dict(reading.features),
        **({} if reading.leanings is None else {"leanings": dict(reading.leanings)}),
    }


def specificity(input_text: str, slots: SlotValues, intent: IntentMatch | None) -> float:
    """How much an input says by itself, 0..1: half by its content words, half by the slots it fills."""
    by_length = min(1.0, len(set(content_words(input_text))) / SPECIFIC_WORDS)
    wanted = intent.intent.required if intent else ()
    by_slots = sum(slot in slots for slot in wanted) / len(wanted) if wanted else min(1.0, len(slots) / 2)
    return 0.5 * by_length + 0.5 * by_slots


def clarification_need(confidences: Sequence[float], specific: float) -> float:
    """How much a question would help, 0..1: the normalised entropy of the distribution over the
    hypotheses and "none of these", times how vague the input is (1 - specificity)."""
    if not confidences:
        return 1.0 - specific
    full = [*confidences, max(0.0, 1.0 - sum(confidences))]
    entropy = -sum(p * math.log(p) for p in full if p > 0)
    return min(1.0, max(0.0, entropy / math.log(len(full)) * (1.0 - specific)))
