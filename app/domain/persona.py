"""Personas: facets with uncertainty, and what moves them.

A facet is a Beta belief: `value` is its mean in 0..1 (0.5 is neutral) and `strength` the number of
observations it is worth, so that a facet that was heard often moves slowly and knows that it is sure.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np

from app.domain.embeddings import Vector
from app.domain.wording import has_negation, normalise

DEFAULT_FACETS = ("concise", "formal", "code_first", "step_by_step")
NEUTRAL = 0.5
PRIOR_STRENGTH = 2.0
MAX_STRENGTH = 60.0
"""A ceiling, so that people can still change their mind after years."""

OBSERVATIONS_PER_UNIT = 10.0
"""A delta of 0.1 counts as one observation."""

INTERVAL_Z = 1.28
"""Half-width, in standard deviations, of the interval (about 80 %) that has to exclude neutral before a
facet shapes a prompt: personalising on a guess is worse than not personalising."""

CENTROID_HALF_LIFE_DAYS = 30.0


@dataclass(frozen=True)
class Facet:
    """One trait of how a user likes to be answered."""

    name: str
    value: float = NEUTRAL
    strength: float = PRIOR_STRENGTH

    @property
    def uncertainty(self) -> float:
        """Standard deviation of the belief, sqrt(v(1-v)/(strength+1)) as of a Beta; 0..0.5."""
        return math.sqrt(self.value * (1.0 - self.value) / (self.strength + 1.0))

    @property
    def is_expressed(self) -> bool:
        """Whether the belief's interval excludes neutral, so that the facet may shape a prompt."""
        # A value at the very edge has no variance of its own; half an observation keeps it honest.
        spread = max(self.uncertainty, 0.5 / (self.strength + 1.0))
        return abs(self.value - NEUTRAL) > INTERVAL_Z * spread


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
    """Anything that teaches: what happened, in the words of the caller where there are any."""

    kind: Literal["selection", "rejection", "feedback", "correction"]
    facets: Mapping[str, Facet]
    chosen_text: str = ""
    rejected_texts: tuple[str, ...] = ()
    comment: str = ""
    rating: float | None = None
    is_success: bool | None = None

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
    """One facet's move, and the signal that caused it."""

    facet: str
    before: float
    after: float
    uncertainty: float
    reason: str


def moved(facet: Facet, delta: float) -> Facet:
    """`facet` after evidence of size |delta| (-1..1) toward 1 or, where negative, toward 0.

    Conjugate Beta update: v' = (v*n + t*w) / (n + w) with w = OBSERVATIONS_PER_UNIT * |delta|.
    """
    weight = OBSERVATIONS_PER_UNIT * min(1.0, abs(delta))
    if weight == 0.0 or not math.isfinite(delta):
        return facet
    target = 1.0 if delta > 0 else 0.0
    value = (facet.value * facet.strength + target * weight) / (facet.strength + weight)
    low, high = sorted((facet.value, target))  # a sum of floats may miss its place between the two by the last digit
    return replace(facet, value=min(high, max(low, value)), strength=min(MAX_STRENGTH, facet.strength + weight))


def apply_deltas(persona: Persona, deltas: Mapping[str, float], reason: str) -> tuple[Persona, list[FacetChange]]:
    """The persona after `deltas`, its version one higher, and what moved. Facets it lacks start neutral."""
    facets = dict(persona.facets)
    changes: list[FacetChange] = []
    for name, delta in deltas.items():
        before = facets.get(name, Facet(name))
        after = moved(before, delta)
        if after == before:
            continue
        facets[name] = after
        changes.append(FacetChange(name, before.value, after.value, after.uncertainty, reason))
    if not changes:
        return persona, []
    return replace(persona, facets=facets, version=persona.version + 1), changes


# What people say about an answer, and which way it points. Phrases are matched inside the normalised
# comment, the longest first, each stretch of the comment once.
_COMMENT_PHRASES: Mapping[str, Sequence[tuple[str, float]]] = {
    "concise": (
        ("too brief", -0.1),
        ("too short", -0.1),
        ("too terse", -0.1),
        ("more detail", -0.1),
        ("more explanation", -0.08),
        ("explain more", -0.08),
        ("elaborate", -0.08),
        ("not enough detail", -0.1),
        ("too long", 0.1),
        ("too wordy", 0.1),
        ("too verbose", 0.1),
        ("too much detail", 0.1),
        ("too much text", 0.1),
        ("get to the point", 0.1),
        ("shorter", 0.08),
        ("be brief", 0.1),
        ("tl;dr", 0.08),
        ("keep it short", 0.1),
    ),
    "formal": (
        ("too casual", 0.1),
        ("too informal", 0.1),
        ("more formal", 0.1),
        ("more professional", 0.1),
        ("too formal", -0.1),
        ("too stiff", -0.1),
        ("more casual", -0.1),
        ("less formal", -0.1),
        ("friendlier", -0.08),
    ),
    "code_first": (
        ("show me the code", 0.1),
        ("show me code", 0.1),
        ("just the code", 0.1),
        ("just code", 0.1),
        ("code first", 0.1),
        ("more code", 0.1),
        ("need code", 0.1),
        ("no code", -0.1),
        ("less code", -0.1),
        ("too much code", -0.1),
        ("too technical", -0.08),
    ),
    "step_by_step": (
        ("step by step", 0.1),
        ("step-by-step", 0.1),
        ("one step at a time", 0.1),
        ("walk me through", 0.1),
        ("skipped steps", 0.1),
        ("hard to follow", 0.08),
        ("too brief", 0.05),
        ("too many steps", -0.1),
        ("skip the steps", -0.1),
        ("just the result", -0.08),
        ("just the answer", -0.08),
    ),
}

# A chosen or rejected reading says a little about form too.
_FORM_WORDS: Mapping[str, Sequence[str]] = {
    "step_by_step": ("step by step", "step-by-step", "tutorial", "walkthrough"),
    "code_first": ("code", "script", "snippet"),
    "concise": ("short", "brief", "summary", "one-page"),
    "formal": ("formal", "report", "official"),
}


def heuristic_deltas(signal: Signal) -> dict[str, float]:
    """Facet deltas of one signal by plain rules: what the comment says, what form was chosen or rejected,
    and whether the result, shaped by the facets that were expressed, was liked."""
    deltas: dict[str, float] = {}

    def add(name: str, delta: float) -> None:
        deltas[name] = max(-1.0, min(1.0, deltas.get(name, 0.0) + delta))

    comment = normalise(signal.comment).replace("’", "'")
    for name, phrases in _COMMENT_PHRASES.items():
        rest = comment
        for phrase, delta in sorted(phrases, key=lambda item: -len(item[0])):
            if found := _spot(phrase, rest):
                add(name, -0.5 * delta if _is_denied(rest[: found.start()]) else delta)
                rest = f"{rest[: found.start()]},{rest[found.end() :]}"
    chosen = normalise(signal.chosen_text)
    rejected = [normalise(text) for text in signal.rejected_texts]
    for name, forms in _FORM_WORDS.items():
        if any(_spot(form, chosen) for form in forms):
            add(name, 0.05)
        elif any(_spot(form, text) for text in rejected for form in forms):
            add(name, -0.02)
    verdict = signal.rating if signal.rating is not None else _verdict(signal.is_success)
    if verdict and not comment:
        for name, facet in signal.facets.items():
            if facet.is_expressed:
                add(name, 0.03 * verdict * math.copysign(1.0, facet.value - NEUTRAL))
    return {name: delta for name, delta in deltas.items() if delta}


def _spot(phrase: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text)


def _is_denied(before: str) -> bool:
    """Whether the last words of the clause that `before` ends in deny what follows."""
    clause = re.split(r"[,.;:!?]", before)[-1]
    return has_negation(" ".join(clause.split()[-3:]))


def _verdict(is_success: bool | None) -> float:
    return 0.0 if is_success is None else (0.5 if is_success else -0.5)


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
