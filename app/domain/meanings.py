"""What a user may mean by one input: a distribution over its readings and "none of these", moved by every answer.

    log p(h | answers) = log p(h) + sum over answers of log p(answer | h)  (up to a constant)

over the full set, the readings that were never shown included: an answer makes some less likely and rules out none.
People who pick an option, or turn some down, mean what they say with the probability ACCURACY. What they say in their
own words is likelier the nearer it is to what they mean, by SHARPNESS per unit of cosine; where these name values of
slots, they are read as those: the right value with the probability ACCURACY, each other one of the slot alike.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np

from app.domain.calibration import Calibration, score
from app.domain.catalogue import Catalogue, SlotValues
from app.domain.hypotheses import Hypothesis, Reading, numbered, reading_document
from app.domain.logit import Array, softmax
from app.domain.value_of_information import ACCURACY

MOST_READINGS = 12
"""Readings that are kept: what is less likely than so many others is a part of "none of these"."""

SHARPNESS = 16.0
"""Of the cosine between an answer and what is meant, by the built-in model (ClariQ's train part)."""

OTHER_COSINE = 0.4
"""How near an answer is to what is meant where that is none of the readings: nearer than to a reading that is not."""

LEAST = 1e-9


@dataclass(frozen=True)
class Meanings:
    """The readings of an input, most likely first when they were made, with log-probabilities (n + 1,), the last one of
    "none of these"; after how many answers; and which of them each question has shown, by position."""

    readings: tuple[Reading, ...]
    log_odds: Array
    answers: int = 0
    asked: tuple[tuple[int, ...], ...] = ()

    @property
    def probabilities(self) -> Array:
        """(n + 1,), summing to 1."""
        return softmax(self.log_odds)

    @property
    def best(self) -> list[int]:
        """The readings by position, the most likely first."""
        return np.argsort(-self.log_odds[:-1], kind="stable").tolist()

    def has_asked(self, shown: Collection[int]) -> bool:
        """Whether a question with these options was put already."""
        return any(set(each) == set(shown) for each in self.asked)

    def showing(self, shown: Sequence[int]) -> "Meanings":
        """The same once a question with these options is put."""
        return replace(self, asked=(*self.asked, tuple(shown)))

    def after_choice(self, chosen: int) -> "Meanings":
        """Once a reading was picked."""
        others = (1.0 - ACCURACY) / max(1, len(self.readings))
        return self._after([ACCURACY if at == chosen else others for at in range(len(self.readings) + 1)])

    def after_rejection(self, rejected: Collection[int]) -> "Meanings":
        """Once readings were turned down."""
        return self._after([1.0 - ACCURACY if at in rejected else ACCURACY for at in range(len(self.readings) + 1)])

    def after_words(self, cosines: Array) -> "Meanings":
        """Once something was said in the user's own words, with these cosines (n,) to the readings."""
        return self._heard(SHARPNESS * np.append(cosines, OTHER_COSINE))

    def after_values(self, said: SlotValues, denied: SlotValues, catalogue: Catalogue, told: Reading) -> "Meanings":
        """Once the user's own words named values of slots, or denied some. A reading that leaves a slot open, and "none
        of these", go with any of its values alike. Where no reading has all that was said, what of "none of these" goes
        with it is a reading of its own: `told`."""
        named = [catalogue.values_in(each.request) for each in self.readings]
        gone = [at for at, own in enumerate(named) if any(_meets(own.get(slot, ()), denied[slot]) for slot in denied)]
        before = self.after_rejection(gone) if denied else self
        if not said:
            return before
        sizes = Counter(catalogue.vocabulary.values())
        nothing: SlotValues = {}
        moved = before._heard(np.log([_likelihood(said, own, sizes) for own in (*named, nothing)]))
        moved = replace(moved, answers=self.answers + 1)
        if any(all(_meets(values, own.get(slot, ())) for slot, values in said.items()) for own in named):
            return moved
        split = moved.log_odds[-1] + np.log([ACCURACY, 1.0 - ACCURACY])
        return replace(moved, readings=(*self.readings, told), log_odds=np.append(moved.log_odds[:-1], split))

    def _after(self, likelihoods: Sequence[float]) -> "Meanings":
        return self._heard(np.log(np.asarray(likelihoods)))

    def _heard(self, log_likelihoods: Array) -> "Meanings":
        return replace(self, log_odds=self.log_odds + log_likelihoods, answers=self.answers + 1)


def _likelihood(said: SlotValues, named: SlotValues, sizes: Mapping[str, int]) -> float:
    """How likely somebody says these values who means a reading that names those; `sizes` counts a slot's values."""
    likelihood = 1.0
    for slot, values in said.items():
        size, held = max(2, sizes[slot]), named.get(slot, ())
        wrong = (1.0 - ACCURACY) / (size - 1)
        likelihood *= ACCURACY if _meets(values, held) else wrong if held else min(ACCURACY, len(values) / size)
    return likelihood


def _meets(said: Sequence[str], named: Sequence[str]) -> bool:
    return not set(said).isdisjoint(named)


def meanings_of(readings: Sequence[Reading], calibration: Calibration, shown: Sequence[Hypothesis]) -> Meanings:
    """The distribution that a set of hypotheses is the head of: the shown ones have their confidences, and what is left
    is shared between the readings that are not shown and "none of these" by the calibration."""
    best = sorted(readings, key=lambda reading: -score(reading.measured, calibration))[:MOST_READINGS]
    confidences = [each.confidence for each in shown]
    behind = [score(each.measured, calibration) for each in best[len(shown) :]]
    rest = max(LEAST, 1.0 - sum(confidences)) * softmax(np.array([*behind, calibration.none_score]))
    return Meanings(tuple(best), np.log(np.maximum(LEAST, np.array([*confidences, *rest.tolist()]))))


def hypotheses_of(meanings: Meanings, count: int) -> list[Hypothesis]:
    """The most likely `count` readings as hypotheses `h1`…, with their probabilities."""
    probabilities, best = meanings.probabilities, meanings.best[:count]
    return numbered([meanings.readings[at] for at in best], [float(probabilities[at]) for at in best])


def as_document(meanings: Meanings) -> dict[str, Any]:
    """As JSON."""
    return {
        "readings": [reading_document(each) for each in meanings.readings],
        "log_odds": meanings.log_odds.tolist(),
        "answers": meanings.answers,
        "asked": [list(each) for each in meanings.asked],
    }


def from_document(document: Mapping[str, Any]) -> Meanings:
    """The same the other way round."""
    asked = tuple(tuple(each) for each in document["asked"])
    readings = tuple(_reading(each) for each in document["readings"])
    return Meanings(readings, np.array(document["log_odds"]), document["answers"], asked)


def _reading(document: Mapping[str, Any]) -> Reading:
    fields: dict[str, Any] = {**document, "evidence": tuple(UUID(each) for each in document["evidence"])}
    return Reading(**fields)
