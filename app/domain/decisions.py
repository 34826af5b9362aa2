"""What to do about an input: ask, go ahead with the best reading, or leave it as it is.

Each is worth the probability p that it leads to what the user means, less the loss where it does not,
u = p - loss (1 - p): a gain of p is worth (1 + loss) times as much. The best reading is right with its confidence. An
input that is left as it is says itself what is meant (specificity s), or else whoever answers it takes the best reading
every other time: s + (1 - s) GUESSED p. Asking is worth what the best of these is worth after the answer
(`app.domain.value_of_information`), less the cost of a question. The service never goes ahead below a floor of
confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from app.domain.value_of_information import expected_gain

Decision = Literal["ask", "auto_advance", "proceed"]

GUESSED = 0.5
"""How often a reading is taken by whoever answers an input that does not say it."""

NEVER = 1e6
"""A cost that no gain reaches."""

POLICY_VERSION = 1
"""Counts the forms that this rule has had: a decision is replayed by the one that made it."""


@dataclass(frozen=True)
class Stakes:
    """What a question costs, in right acts; what a wrong act loses beyond what a right one gains; and from which
    confidence on the service may go ahead by itself."""

    question_cost: float = 0.1
    loss: float = 0.0
    floor: float = 0.86


@dataclass(frozen=True)
class Decided:
    """A decision with all that it was made of: `gain` is what a question would bring, in right acts, its cost not yet
    taken off, and `utility` what the decision is expected to be worth."""

    decision: Decision
    gain: float
    utility: float
    specificity: float
    stakes: Stakes
    version: int = POLICY_VERSION

    @property
    def record(self) -> dict[str, Any]:
        """What it is replayed from, beside the confidences."""
        return asdict(self)


def decide(confidences: Sequence[float], specificity: float, stakes: Stakes) -> Decided:
    """A question where it pays, else going ahead where that may be, else leaving the input as it is; given the
    confidences of the readings, best first, and how much the input says by itself (0..1). Without a reading there is
    nothing to ask or to go ahead with."""
    if not confidences:
        return Decided("proceed", 0.0, _utility(specificity, stakes), specificity, stakes)
    worth = worth_of(confidences, specificity, stakes)
    decision: Decision = "auto_advance" if confidences[0] >= stakes.floor else "proceed"
    if worth.gain >= stakes.question_cost:
        decision = "ask"
    return Decided(decision, worth.gain, worth.utilities[decision], specificity, stakes)


@dataclass(frozen=True)
class Worth:
    """What each act is expected to be worth, and what of that the answer to a question gains, its cost not taken off,
    in right acts."""

    utilities: Mapping[Decision, float]
    gain: float


def worth_of(confidences: Sequence[float], specificity: float, stakes: Stakes) -> Worth:
    """What each act is expected to be worth; there has to be a reading."""
    best = confidences[0]
    left = specificity + (1.0 - specificity) * GUESSED * best
    now = max(left, best) if best >= stakes.floor else left
    full = np.array([*confidences, max(0.0, 1.0 - sum(confidences))])
    gain = (1.0 + stakes.loss) * expected_gain(full, now=now)
    utilities: Mapping[Decision, float] = {
        "ask": _utility(now, stakes) + gain - stakes.question_cost,
        "auto_advance": _utility(best, stakes),
        "proceed": _utility(left, stakes),
    }
    return Worth(utilities, gain)


def _utility(right: float, stakes: Stakes) -> float:
    return right - stakes.loss * (1.0 - right)


def replayed(confidences: Sequence[float], record: Mapping[str, Any]) -> Decided:
    """The decision made again from its record. Raises ValueError where another form of the rule made it."""
    if record["version"] != POLICY_VERSION:
        raise ValueError(f"this was decided by policy version {record['version']}, and here is {POLICY_VERSION}")
    return decide(confidences, record["specificity"], Stakes(**record["stakes"]))
