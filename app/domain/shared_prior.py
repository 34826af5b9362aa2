"""The prior that tenants share: where the calibration of a tenant begins, learned from those of the others.

A tenant's parameters are taken for a draw around a common mean, and the mean for what is shipped until there are
several tenants: the average of the tenants' fits, each counted the more the more outcomes it has, at most once, beside
the shipped prior, which counts as SHIPPED_WORTH tenants. Weights are averaged by their logarithms: they are scales. No
tenant moves it by more than its share, however far out its fit is, and there is none of fewer than LEAST_TENANTS.

What it tells of a tenant to the others is its share of two or three averaged numbers: no text, no user, no count. It is
not differentially private: all the other tenants together could compute the fit of the last one.
"""

import math
from collections.abc import Sequence

from app.domain.calibration import Calibration

LEAST_TENANTS = 5
LEAST_OUTCOMES = 20
"""Tenants with fewer outcomes say nothing."""

HALF_OUTCOMES = 100
"""Outcomes with which a tenant's fit counts half as much as one with no end of them."""

SHIPPED_WORTH = 5.0

FURTHEST = 4.0
"""A weight counts as at most so many times the shipped one, or that part of it."""

FURTHEST_NONE = 2.0
"""A `none_score` counts as at most so far from the shipped one."""


def shared_prior(fits: Sequence[Calibration], shipped: Calibration) -> Calibration | None:
    """The prior of a tenant, given the fits of the others; None where they are too few."""
    known = [each for each in fits if each.outcomes >= LEAST_OUTCOMES and each.weights.keys() == shipped.weights.keys()]
    if len(known) < LEAST_TENANTS:
        return None
    counts = [each.outcomes / (each.outcomes + HALF_OUTCOMES) for each in known]
    total = SHIPPED_WORTH + sum(counts)
    weights: dict[str, float] = {}
    for name, held in shipped.weights.items():
        moves = [_within(math.log(each.weights[name] / held), math.log(FURTHEST)) for each in known]
        weights[name] = held * math.exp(sum(n * move for n, move in zip(counts, moves, strict=True)) / total)
    moves = [_within(each.none_score - shipped.none_score, FURTHEST_NONE) for each in known]
    none_score = shipped.none_score + sum(n * move for n, move in zip(counts, moves, strict=True)) / total
    return Calibration(weights, none_score)


def _within(value: float, most: float) -> float:
    return min(most, max(-most, value))
