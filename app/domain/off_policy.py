"""What another policy would have been worth, from the log of the one that acted, with intervals.

Each row of a log is a decision: the probability with which the logged policy took the act that it took, the probability
with which the other one would take it, and the reward. Estimators: inverse propensity scores (IPS; Horvitz and Thompson
1952), self-normalised (SNIPS; Swaminathan and Joachims 2015), and doubly robust with a model of the reward (Dudík,
Langford and Li 2011), which is right where the propensities or the model are.

People repeat themselves, so a row says less than a user: variances are between users. The interval is Student's with
the degrees of freedom that Kish's effective number of users leaves, widest where few rows carry all the weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array

Method = Literal["ips", "snips", "doubly_robust"]

MOST_WEIGHT = 50.0
"""The largest ratio of two probabilities that counts: beyond, a little bias is better than a variance without end."""

LEAST_USERS = 20
"""With fewer users nothing is promoted."""


@dataclass(frozen=True)
class Log:
    """n decisions: whose each was (n,), `logged` and `other` the probabilities of the act taken (n,), `rewards` (n,);
    and where there is a model of the reward, what it `predicted` for the act (n,) and what it is `expected` to be under
    the other policy (n,)."""

    users: NDArray[np.int64]
    logged: Array
    other: Array
    rewards: Array
    predicted: Array | None = None
    expected: Array | None = None

    @property
    def weights(self) -> Array:
        """How much more likely the other policy would have acted so, up to MOST_WEIGHT: (n,)."""
        return np.minimum(self.other / np.maximum(self.logged, 1e-12), MOST_WEIGHT)


@dataclass(frozen=True)
class Estimate:
    """What a policy is worth for a decision, with its 95 % interval, from how many users, of whom so many count."""

    value: float
    low: float
    high: float
    users: int
    effective: float


def estimate(log: Log, method: Method = "snips") -> Estimate:
    """What the other policy would have been worth. Raises ValueError for an empty log, and for `doubly_robust` without
    a model."""
    value, moved = _value(log, method)
    return _with_interval(log, value, moved)


def gain(log: Log, method: Method = "snips") -> Estimate:
    """How much more the other policy is worth than the logged one was, on the same decisions. Raises as `estimate`."""
    value, moved = _value(log, method)
    held = float(log.rewards.mean())
    return _with_interval(log, value - held, moved - (log.rewards - held))


def _value(log: Log, method: Method) -> tuple[float, Array]:
    """What the other policy is worth, and what each decision moves that by, times n: (n,)."""
    if not len(log.rewards):
        raise ValueError("nothing is logged")
    weights = log.weights
    if method == "doubly_robust":
        if log.predicted is None or log.expected is None:
            raise ValueError("a doubly robust estimate needs a model of the reward")
        values, shares = log.expected + weights * (log.rewards - log.predicted), np.ones_like(weights)
    else:
        values, shares = weights * log.rewards, weights if method == "snips" else np.ones_like(weights)
    total = shares.sum()
    if total <= 0:  # nothing that was done would the other policy do
        return 0.0, np.full(len(values), math.nan)
    value = float(values.sum() / total)
    return value, (values - value * shares) * (len(values) / total)


def _with_interval(log: Log, value: float, moved: Array) -> Estimate:
    """A value with its interval, by the delta method between users; without end where nothing says how wide."""
    by_user, weight_by_user = _sums(log.users, moved), _sums(log.users, log.weights)
    users = len(by_user)
    effective = float(weight_by_user.sum() ** 2 / max(float((weight_by_user**2).sum()), 1e-12))
    if users < 2 or not np.isfinite(by_user).all():
        return Estimate(value, -math.inf, math.inf, users, effective)
    error = math.sqrt(users / (users - 1) * float((by_user**2).sum())) / len(moved)
    half = _student(max(1.0, min(effective, users) - 1.0)) * error
    return Estimate(value, value - half, value + half, users, effective)


def _sums(users: NDArray[np.int64], values: Array) -> Array:
    _, at = np.unique(users, return_inverse=True)
    return np.bincount(at, weights=values).astype(np.float64)


def _student(freedom: float) -> float:
    """The 97.5 % point of Student's distribution, by Cornish and Fisher's expansion about the normal's; exact to 1 %
    from three degrees of freedom on, and never below it."""
    z = 1.959963984540054
    if freedom < 3:
        return (12.71, 12.71, 4.30)[int(freedom)]
    terms: Sequence[float] = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
