"""Calibration: scores become probabilities that are true as often as they say.

The hypotheses of one input and "none of these" are one distribution,

    p_i = exp(a * s_i) / (exp(b) + sum_j exp(a * s_j)),      p_none = exp(b) / (the same),

with s_i the raw score (a log-odds) of hypothesis i. `a` (an inverse temperature) and `b` are fitted on
what users chose, by maximum a posteriori with Gaussian priors around the prior calibration, so that few
outcomes move it little. See Guo et al. 2017, "On Calibration of Modern Neural Networks", for the
temperature; the outside option is McFadden's conditional logit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PRIOR_SD_LOG_SLOPE = 0.35
_PRIOR_SD_NONE = 0.7
_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """Parameters of the distribution above; `version` counts the fits of one tenant, 0 is the prior."""

    slope: float = 1.0
    none_score: float = 0.4
    version: int = 0
    outcomes: int = 0


PRIOR = Calibration()


@dataclass(frozen=True)
class Outcome:
    """What a user did with one hypothesis set: the raw `scores` shown, and the index of the chosen one,
    or None where the user said none of them was meant."""

    scores: tuple[float, ...]
    chosen: int | None


def probabilities(scores: Sequence[float], calibration: Calibration = PRIOR) -> list[float]:
    """The probability of each hypothesis, in order; they sum to less than 1, the rest is "none of these", which
    is never ruled out entirely."""
    logits = [calibration.slope * score for score in scores]
    top = max([*logits, calibration.none_score])
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights) + max(1e-9, math.exp(calibration.none_score - top))
    return [weight / total for weight in weights]


def fit(outcomes: Sequence[Outcome], version: int, prior: Calibration = PRIOR) -> Calibration:
    """The calibration most probable after `outcomes`, by damped Newton steps on (log slope, none_score).

    With no outcomes it equals `prior` but for the version.
    """
    if not outcomes:
        return Calibration(prior.slope, prior.none_score, version, 0)
    width = max(len(outcome.scores) for outcome in outcomes)
    scores = np.full((len(outcomes), width), -np.inf)
    for row, outcome in enumerate(outcomes):
        scores[row, : len(outcome.scores)] = outcome.scores
    chosen = np.array([-1 if outcome.chosen is None else outcome.chosen for outcome in outcomes])
    at: NDArray[np.float64] = np.array([math.log(prior.slope), prior.none_score])
    centre = at.copy()
    best = _loss(at, centre, scores, chosen)
    for _ in range(_STEPS):
        gradient, curvature = _slopes(at, centre, scores, chosen)
        step = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while scale > 1e-4 and _loss((at - scale * step).astype(np.float64), centre, scores, chosen) > best:
            scale *= 0.5
        at = (at - scale * step).astype(np.float64)
        loss = _loss(at, centre, scores, chosen)
        if best - loss < 1e-9:
            break
        best = loss
    return Calibration(float(math.exp(at[0])), float(at[1]), version, len(outcomes))


def _loss(
    at: NDArray[np.float64], centre: NDArray[np.float64], scores: NDArray[np.float64], chosen: NDArray[np.int64]
) -> float:
    """Negative log posterior, up to a constant."""
    slope, none_score = math.exp(min(3.0, max(-3.0, at[0]))), at[1]
    logits = np.concatenate([slope * scores, np.full((len(scores), 1), none_score)], axis=1)
    top = logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    picked = logits[np.arange(len(chosen)), chosen]
    penalty = ((at - centre) / np.array([_PRIOR_SD_LOG_SLOPE, _PRIOR_SD_NONE])) ** 2
    return float((log_total - picked).sum() + 0.5 * penalty.sum())


def _slopes(
    at: NDArray[np.float64], centre: NDArray[np.float64], scores: NDArray[np.float64], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradient, and a curvature made positive, by central differences: two parameters need no algebra."""
    size = 1e-4
    unit = np.eye(2) * size
    here = _loss(at, centre, scores, chosen)
    ups = [_loss(at + unit[i], centre, scores, chosen) for i in range(2)]
    downs = [_loss(at - unit[i], centre, scores, chosen) for i in range(2)]
    gradient = np.array([(ups[i] - downs[i]) / (2 * size) for i in range(2)])
    diagonal = [(ups[i] - 2 * here + downs[i]) / size**2 for i in range(2)]
    both = _loss(at + unit[0] + unit[1], centre, scores, chosen)
    mixed = (both - ups[0] - ups[1] + here) / size**2
    curvature = np.array([[diagonal[0], mixed], [mixed, diagonal[1]]])
    lowest = float(np.linalg.eigvalsh(curvature)[0])
    return gradient, curvature + np.eye(2) * max(0.0, 1e-3 - lowest)
