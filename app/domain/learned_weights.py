"""Weights of a search that are learned from what was helpful: a pairwise fit, and an estimate of what they would gain.

Who judged a recall judged what stood in front of them, and what stands first is looked at more. So a helpful memory
counts by the inverse of the chance that it was looked at where it stood (inverse propensity scores; Joachims,
Swaminathan and Schnabel 2017), in the fit and in the estimate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.relevance import ARMS

Floats = NDArray[np.float64]

LOOKED_AT = 0.5
"""How fast attention falls with the place k: it is looked at with a chance of k ** -LOOKED_AT."""

MOST_WEIGHT = 5.0
"""The largest inverse propensity."""

PRIOR = 2.0
"""How strongly the weights are held to those that hold: by this much evidence, in judged recalls, for a change of a
weight by a quarter of what it is."""

FOLDS = 5
STEPS = 25
RESAMPLES = 2_000
CONFIDENCE = 0.95
LEAST_RECALLS = 50
LEAST_USERS = 10
"""With fewer nothing is promoted."""


@dataclass(frozen=True)
class Judged:
    """A recall that was judged: whose it was, what the arms say of each of its n memories in the order in which they
    were shown (n, len(ARMS)), what else moved their log-odds (n,), and which were helpful (n,)."""

    user_id: str
    arms: Floats
    rest: Floats
    helpful: NDArray[np.bool_]

    @property
    def can_teach(self) -> bool:
        """Whether some were helpful and some were not."""
        return bool(self.helpful.any() and not self.helpful.all())


@dataclass(frozen=True)
class Estimate:
    """What other weights would have gained: the mean discounted gain of those that held and of the others, the
    difference with its interval, and from how much that is known."""

    held: float
    learned: float
    gain: float
    low: float
    high: float
    recalls: int
    users: int

    @property
    def is_gain(self) -> bool:
        """Whether the others are better beyond chance, on evidence enough."""
        return self.low > 0 and self.recalls >= LEAST_RECALLS and self.users >= LEAST_USERS


def judged_of(
    user_id: str, shown: Sequence[Mapping[str, Any]], helpful: Sequence[str], weights: Sequence[float]
) -> Judged | None:
    """A recall as it was written down, when `weights` held; None where it cannot teach."""
    ranked = [each for each in shown if len(each.get("arms") or ()) == len(ARMS) and each.get("log_odds") is not None]
    if len(weights) != len(ARMS) or not ranked:
        return None
    arms = np.array([each["arms"] for each in ranked], dtype=float)
    rest = np.array([each["log_odds"] for each in ranked], dtype=float) - arms @ np.array(weights)
    found = Judged(user_id, arms, rest, np.array([each["id"] in helpful for each in ranked], dtype=bool))
    return found if found.can_teach else None


def fit(judged: Sequence[Judged], held: Floats) -> Floats:
    """The weights under which helpful memories come before the others of their recall, pair by pair (a logistic loss),
    held to those that hold by PRIOR; none is turned to the other sign."""
    scale = np.maximum(np.abs(held) / 4.0, 0.25)
    weights = held.copy()
    pairs = [_pairs(each) for each in judged]
    for _ in range(STEPS):
        gradient = PRIOR * (weights - held) / scale**2
        curvature = np.diag(PRIOR / scale**2)
        for difference, rest, share in pairs:
            doubt = 1.0 / (1.0 + np.exp(np.clip(difference @ weights + rest, -35.0, 35.0)))
            gradient -= difference.T @ (share * doubt)
            curvature += (difference * (share * doubt * (1.0 - doubt))[:, None]).T @ difference
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step / scale).max() < 1e-6:
            break
    return np.where(np.sign(weights) == np.sign(held), weights, 0.0)


def estimate(judged: Sequence[Judged], held: Floats, seed: int = 7) -> Estimate:
    """What learned weights gain on users they were not learned from: in each of FOLDS parts of the users by weights
    that were fitted on the others; with a bootstrap over users."""
    users = sorted({each.user_id for each in judged})
    order: list[int] = np.random.default_rng(seed).permutation(len(users)).tolist()
    fold_of = {users[at]: place % FOLDS for place, at in enumerate(order)}
    gains: dict[str, list[tuple[float, float, float]]] = {}
    for fold in range(min(FOLDS, len(users))):
        others = [each for each in judged if fold_of[each.user_id] != fold]
        learned = fit(others, held) if others else held
        for each in judged:
            if fold_of[each.user_id] == fold:
                gains.setdefault(each.user_id, []).append((*_gain(each, held), _gain(each, learned)[0]))
    sums = np.array([np.sum(gains[user], axis=0) for user in users]).reshape(-1, 3)
    if not len(sums):
        return Estimate(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    before, weight, after = sums.sum(axis=0)
    picks = np.random.default_rng(seed + 1).integers(0, len(users), size=(RESAMPLES, len(users)))
    resampled = sums[picks].sum(axis=1)
    differences = (resampled[:, 2] - resampled[:, 0]) / np.maximum(resampled[:, 1], 1e-9)
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    held_gain, learned_gain = before / weight, after / weight
    return Estimate(
        float(held_gain),
        float(learned_gain),
        float(learned_gain - held_gain),
        float(low),
        float(high),
        len(judged),
        len(users),
    )


def _propensities(count: int) -> Floats:
    """The inverse chance that each place was looked at."""
    return np.minimum(np.arange(1, count + 1, dtype=float) ** LOOKED_AT, MOST_WEIGHT)


def _pairs(judged: Judged) -> tuple[Floats, Floats, Floats]:
    """For each pair of a helpful memory and one that was not: the difference of the arms, of the rest, and the pair's
    share of its recall."""
    better, worse = np.flatnonzero(judged.helpful), np.flatnonzero(~judged.helpful)
    first, second = np.repeat(better, len(worse)), np.tile(worse, len(better))
    share = _propensities(len(judged.helpful))[first]
    return (
        judged.arms[first] - judged.arms[second],
        judged.rest[first] - judged.rest[second],
        share / len(first),
    )


def _gain(judged: Judged, weights: Floats) -> tuple[float, float]:
    """The discounted gain (Järvelin and Kekäläinen 2002) of a recall's helpful memories where these weights put them,
    by inverse propensity; and the sum of those."""
    odds = judged.arms @ weights + judged.rest
    place = np.empty(len(odds))
    place[np.argsort(-odds, kind="stable")] = np.arange(1, len(odds) + 1)
    share = _propensities(len(odds))[judged.helpful]
    return float(np.sum(share / np.log2(1.0 + place[judged.helpful]))), float(share.sum())
