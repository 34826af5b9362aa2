"""Judging: held-out choices as questions to a model, and figures of its answers.

A choice is a prompt, the readings that were shown and the one that the user chose. Nothing here depends on the order in
which the readings or the rows come.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, Field, ValidationError

from app.domain.calibration import WORDS_PRIOR, probabilities, words_features
from app.domain.embeddings import Vectors
from app.domain.telemetry import CALIBRATION_BINS

MATCH_COSINE = 0.6
"""Below this a model's own reading is not what the user chose, however far the other readings are."""


@dataclass(frozen=True)
class Choice:
    """A held-out choice: the chat prompt, the different requests shown (in an order of their own), and the index of the
    chosen one. `key` is the choice's own, `user` the user's name in datasets; `shown` counts the readings asked for."""

    key: str
    user: str
    messages: tuple[Mapping[str, str], ...]
    requests: tuple[str, ...]
    chosen: int
    shown: int


class _Message(BaseModel):
    role: str
    content: str


class _Meta(BaseModel):
    user: str


class _Row(BaseModel):
    prompt: list[_Message] = Field(min_length=1)
    completion: list[_Message] = Field(min_length=1)
    meta: _Meta


class _Reading(BaseModel):
    request: str = Field(min_length=1)


class _Answer(BaseModel):
    hypotheses: list[_Reading] = Field(min_length=1)


def choice_of(row: Any) -> Choice | None:
    """A row of `hypotheses_chat`, whose completion says the chosen reading first; None where it is no such row, or
    where nothing else was shown than what was chosen."""
    try:
        parsed = _Row.model_validate(row)
        readings = _Answer.model_validate(orjson.loads(parsed.completion[0].content)).hypotheses
    except (ValidationError, orjson.JSONDecodeError):
        return None
    chosen, *others = (reading.request for reading in readings)
    requests = sorted({chosen, *others}, key=_digest)
    if len(requests) < 2:
        return None
    messages = tuple(message.model_dump() for message in parsed.prompt)
    key = _digest([parsed.meta.user, messages, chosen, requests])
    return Choice(key, parsed.meta.user, messages, tuple(requests), requests.index(chosen), len(readings))


def sampled(choices: Sequence[Choice], most: int) -> list[Choice]:
    """At most `most` different choices, the same ones in the same order whatever the order given."""
    different = {choice.key: choice for choice in choices}
    return [different[key] for key in sorted(different)[:most]]


def reciprocal_rank(scores: Sequence[float], chosen: int) -> float:
    """Of the chosen one, the highest score first; those of one score share their mean rank."""
    better = sum(score > scores[chosen] for score in scores)
    tied = sum(score == scores[chosen] for score in scores)
    return 1.0 / (better + (tied + 1) / 2)


def hit(scores: Sequence[float], chosen: int) -> float:
    """Whether the chosen one has the highest score; a share of 1 where several have it."""
    top = max(scores)
    return 1.0 / sum(score == top for score in scores) if scores[chosen] == top else 0.0


def beliefs(likelihoods: Sequence[float]) -> list[float]:
    """The probabilities of readings of these mean log-probabilities, "none of these" beside, before any outcome."""
    return probabilities([words_features(one) for one in likelihoods], WORDS_PRIOR)


def rank_of_choice(own: Vectors, shown: Vectors, chosen: int) -> int | None:
    """From 1, the place of the first of the model's `own` readings that says what was chosen: it is nearer to the
    chosen one than to any other `shown` one, and by MATCH_COSINE at least. None without one. Shapes (readings, d)."""
    for place, cosines in enumerate(_unit(own) @ _unit(shown).T, start=1):
        others = np.delete(cosines, chosen)
        if cosines[chosen] >= MATCH_COSINE and cosines[chosen] > others.max(initial=-1.0):
            return place
    return None


def calibration_sums(pairs: Sequence[tuple[float, bool]]) -> list[float]:
    """Sums that a calibration error is made of, and that add up over users: by bin what was said minus what came true,
    then the number of pairs. See `app.domain.telemetry.calibration_error`."""
    sums = [0.0] * (CALIBRATION_BINS + 1)
    for said, is_true in pairs:
        sums[bin_of(said)] += said - is_true
    sums[-1] = float(len(pairs))
    return sums


def bin_of(said: float) -> int:
    """The bin of a probability, from 0."""
    return min(CALIBRATION_BINS - 1, int(said * CALIBRATION_BINS))


def reliability(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, float, int]]:
    """For each bin that has any: the mean of what was said, the share that came true, how many."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for said, is_true in pairs:
        bins.setdefault(bin_of(said), []).append((said, is_true))
    return [
        (sum(said for said, _ in items) / len(items), sum(is_true for _, is_true in items) / len(items), len(items))
        for _, items in sorted(bins.items())
    ]


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _digest(value: object) -> str:
    return hashlib.blake2b(orjson.dumps(value), digest_size=16).hexdigest()
