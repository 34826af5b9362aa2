"""Whether a question is worth its cost.

The value of a question is the expected gain of the best act: what acting on the most probable hypothesis is worth
after the answer, less what it is worth now (Howard 1966). One asks while the gain is at least the cost.

Where nothing is learned yet, an answer is modelled as a channel: with probability TELLING it names a meaning, the
right one with probability ACCURACY and each other one alike; else it says nothing. `GainModel` learns the gain from
what answers did to beliefs: it depends on how sure one is and on how many answers there were. Not on the question: of
people's answers to ClariQ's questions, what question they were to explains nothing that its request does not.
"""

from dataclasses import dataclass

import numpy as np

from app.domain.logit import Array
from app.domain.need import Ridge, fit_ridge

TELLING = 0.65
ACCURACY = 0.97
"""Of people's answers to clarifying questions that many tell, and that many of those tell the truth (ClariQ's train
part, read by `app.domain.belief`)."""

_PENALTY = 10.0


@dataclass(frozen=True)
class GainModel:
    """The learned expected gain of a question, in the probability of a right act."""

    ridge: Ridge

    def predict(self, features: Array) -> Array:
        """The gains (m,) of a question in states with features (m, f), at least 0."""
        return np.maximum(0.0, self.ridge.predict(features))


def gain_features(probabilities: Array, answers: int) -> Array:
    """(10,): what the gain of one more question depends on, after so many answers."""
    size = len(probabilities)
    order = np.sort(probabilities)
    doubt = 1.0 - order[-1]
    rival = order[-2] if size > 1 else 0.0
    entropy = -float((probabilities * np.log(probabilities + 1e-12)).sum())
    state = [doubt, doubt**2, rival, entropy, doubt * (order[-1] - rival), doubt * np.log(size)]
    return np.array([*state, doubt * (answers == 1), doubt * (answers == 2), doubt * (answers > 2), doubt > 0])


def fit_gain(features: Array, before: Array, after: Array) -> GainModel:
    """The model of what questions gained: features (m, f), and the greatest probability (m,) before and after the
    answer. Where probabilities are true, that is the probability of a right act. Raises ValueError without any."""
    if not len(features):
        raise ValueError("gains are learned from at least one answer")
    return GainModel(fit_ridge(features, after - before, _PENALTY))


def expected_gain(
    probabilities: Array, telling: float = TELLING, accuracy: float = ACCURACY, *, now: float | None = None
) -> float:
    """How much more probable a right act is after the answer of the channel above, at least 0.

    sum over named meanings g of max over h of p(h) p(g | h), less how probable it is `now` (by itself the max over h
    of p(h)), times `telling`.
    """
    size = len(probabilities)
    if size < 2:
        return 0.0
    slip = (1.0 - accuracy) / (size - 1)
    order = np.sort(probabilities)
    rival = np.full(size, order[-1])
    rival[int(probabilities.argmax())] = order[-2]
    after = np.maximum(probabilities * accuracy, rival * slip).sum()
    return max(0.0, float(telling * (after - (order[-1] if now is None else now))))
