"""What another policy would have been worth, from the log of the one that acted, with intervals.

Each row of a log is a decision: the probability with which the logged policy took the act that it took, the probability
with which the other one would take it, and the reward. Estimators: inverse propensity scores (IPS; Horvitz and Thompson
1952), self-normalised (SNIPS; Swaminathan and Joachims 2015), and doubly robust with a model of the reward (Dudík,
Langford and Li 2011), which is right where the propensities or the model are.

People repeat themselves, so a row says less than a user: an interval is of the users. It is the empirical likelihood's
(Owen 1990): the values that some weighting of the users makes the estimate, unlikely by no more than Fisher's F allows
for the degrees of freedom that Kish's effective number of users leaves. It leans to where the weights do, as an
interval around the estimate cannot: few decisions carry much of such a log.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array

Method = Literal["ips", "snips", "doubly_robust"]
METHODS: tuple[Method, ...] = ("ips", "snips", "doubly_robust")

MOST_WEIGHT = 100.0
"""The largest ratio of two probabilities that counts: beyond, a little bias is better than a variance without end."""

LEAST_USERS = 20
"""With fewer users nothing is promoted."""

LEAST_EFFECTIVE = 8.0
"""With fewer users that count, an interval is without end: nobody has seen yet how the weights fall."""

_STEPS = 60
_WIDENINGS = 20
_PRECISION = 1e-6
_END_PRECISION = 1e-4
"""Of the end of an interval, in parts of its distance from the estimate."""


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


@dataclass(frozen=True)
class Evaluation:
    """What another policy would have gained for a decision: from how many decisions, of which share of them both would
    have acted alike, what the logged one was worth, and the gain by each estimator."""

    decisions: int
    agreement: float
    held: float
    gains: Mapping[Method, Estimate]

    @property
    def gain(self) -> Estimate:
        """By the estimator that decides: the doubly robust one."""
        return self.gains["doubly_robust"]

    @property
    def is_gain(self) -> bool:
        """Whether it is better beyond chance, on evidence enough."""
        return self.gain.low > 0 and self.gain.users >= LEAST_USERS

    @property
    def reason(self) -> str:
        """Whether it may be promoted, in words."""
        if self.gain.users < LEAST_USERS:
            return f"decisions of {self.gain.users} users: {LEAST_USERS} are the least"
        if self.gain.effective < LEAST_EFFECTIVE:
            return f"decisions that count of {self.gain.effective:.1f} users: {LEAST_EFFECTIVE:g} are the least"
        interval = f"{self.gain.value:+.4f}, {self.gain.low:+.4f} to {self.gain.high:+.4f}"
        return f"a gain of {interval}" if self.is_gain else f"the interval of the gain is not above 0: {interval}"


def evaluation(log: Log, decisions: int, agreement: float) -> Evaluation:
    """What a log says of another policy. Raises ValueError for an empty log and for one without a model."""
    gains: dict[Method, Estimate] = {method: gain(log, method) for method in METHODS}
    return Evaluation(decisions, agreement, float(log.rewards.mean()), gains)


def estimate(log: Log, method: Method = "snips") -> Estimate:
    """What the other policy would have been worth. Raises ValueError for an empty log, and for `doubly_robust` without
    a model."""
    values, shares = _terms(log, method)
    return _with_interval(log, values, shares)


def gain(log: Log, method: Method = "snips") -> Estimate:
    """How much more the other policy is worth than the logged one was, on the same decisions. Raises as `estimate`."""
    values, shares = _terms(log, method)
    held = float(log.rewards.mean())
    return _with_interval(log, values - held * shares - (log.rewards - held), shares)


def _terms(log: Log, method: Method) -> tuple[Array, Array]:
    """For each decision its part of the value and of what the value is divided by: (n,) each."""
    if not len(log.rewards):
        raise ValueError("nothing is logged")
    weights = log.weights
    if method == "doubly_robust":
        if log.predicted is None or log.expected is None:
            raise ValueError("a doubly robust estimate needs a model of the reward")
        return log.expected + weights * (log.rewards - log.predicted), np.ones_like(weights)
    return weights * log.rewards, weights if method == "snips" else np.ones_like(weights)


def _with_interval(log: Log, values: Array, shares: Array) -> Estimate:
    """The ratio of two sums with its interval between users; without end where too little says how wide."""
    above, below, weight = (_sums(log.users, each) for each in (values, shares, log.weights))
    users = len(above)
    effective = float(weight.sum() ** 2 / max(float((weight**2).sum()), 1e-12))
    total = float(below.sum())
    value = float(above.sum()) / total if total > 0 else 0.0
    if total <= 0 or users < 2 or effective < LEAST_EFFECTIVE:
        return Estimate(value, -math.inf, math.inf, users, effective)
    moved = above - value * below
    error = math.sqrt(users / (users - 1) * float((moved**2).sum())) / total
    most = _student(min(effective, users) - 1.0)
    low, high = (_end(above, below, value, direction * error, most) for direction in (-1.0, 1.0))
    return Estimate(value, low, high, users, effective)


def _end(above: Array, below: Array, value: float, step: float, most: float) -> float:
    """Where the signed root of the empirical likelihood ratio of `above` / `below` reaches `most`, on the side of
    `value` that `step` (a standard error) points to; without end where it does not."""
    if step == 0.0:
        return value
    inside, outside = 0.0, most
    while _root(above - (value + outside * step) * below) < most:
        inside, outside = outside, 1.6 * outside
        if outside > most * 1.6**_WIDENINGS:
            return math.copysign(math.inf, step)
    while outside - inside > _END_PRECISION * outside:
        middle = 0.5 * (inside + outside)
        if _root(above - (value + middle * step) * below) < most:
            inside = middle
        else:
            outside = middle
    return value + outside * step


def _root(moved: Array) -> float:
    """The root of twice the log empirical likelihood ratio of "the mean of `moved` is 0"; without end where no
    weighting of them makes it 0."""
    largest, least = float(moved.max()), float(moved.min())
    if largest <= 0.0 or least >= 0.0:
        return 0.0 if largest == least == 0.0 else math.inf
    low, high = -1.0 / largest, -1.0 / least
    at = 0.0
    for _ in range(_STEPS):  # the derivative falls in `at`: Newton's steps, halved into the bracket where they leave it
        shares = moved / (1.0 + at * moved)
        slope = float(shares.sum())
        low, high = (at, high) if slope > 0 else (low, at)
        step = slope / float(shares @ shares)
        if abs(step) <= _PRECISION * (high - low):
            break
        at = at + step if low < at + step < high else 0.5 * (low + high)
    return math.sqrt(max(0.0, 2.0 * float(np.log1p(at * moved).sum())))


def _sums(users: NDArray[np.int64], values: Array) -> Array:
    _, at = np.unique(users, return_inverse=True)
    return np.bincount(at, weights=values).astype(np.float64)


def _student(freedom: float) -> float:
    """The 97.5 % point of Student's distribution, the root of Fisher's F with one degree of freedom, by Cornish and
    Fisher's expansion about the normal's; exact to 1 % from three degrees of freedom on, and never below it."""
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
