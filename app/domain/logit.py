"""Conditional logit: which of several alternatives is chosen, as a linear score of their features.

    P(i | set) = exp(w · x_i) / sum_j exp(w · x_j)

fitted by maximum a posteriori with a Gaussian prior on standardised weights (McFadden 1974; the loss is that of
ListNet with top-one probabilities, Cao et al. 2007, where several alternatives are right). The loss is convex, so
damped Newton steps find the one optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Numbers as float64; shapes are said where they matter."""

_STEPS = 40
_LEAST_STEP = 1e-3
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Choices:
    """Sets of alternatives, padded to the largest: `features` (sets, width, d), `is_there` (sets, width), and `target`
    (sets, width), the share of each alternative in what was chosen; a set's targets sum to its weight."""

    features: Array
    is_there: NDArray[np.bool_]
    target: Array

    def part(self, rows: NDArray[np.bool_]) -> "Choices":
        """The sets where `rows` (sets,) is true."""
        return Choices(self.features[rows], self.is_there[rows], self.target[rows])


@dataclass(frozen=True)
class Logit:
    """Weights (d,) of a fitted conditional logit, on the features as they come."""

    weights: Array

    def score(self, features: Array) -> Array:
        """Log-odds up to a constant per set: (..., d) to (...)."""
        return features @ self.weights


def padded(alternatives: Sequence[Array], chosen: Sequence[int]) -> Choices:
    """Sets of alternatives (n_i, d), one of which was chosen, as one array."""
    width = max(len(each) for each in alternatives)
    features = np.zeros((len(alternatives), width, alternatives[0].shape[1]))
    is_there = np.zeros(features.shape[:2], dtype=np.bool_)
    target = np.zeros(features.shape[:2])
    for row, (each, index) in enumerate(zip(alternatives, chosen, strict=True)):
        features[row, : len(each)] = each
        is_there[row, : len(each)] = True
        target[row, index] = 1.0
    return Choices(features, is_there, target)


def fit_logit(choices: Choices, precision: float = 1.0) -> Logit:
    """The weights most probable after `choices`, with the prior precision `precision` on weights of features that are
    scaled to unit variance. Without any set the weights are 0."""
    width = int(choices.features.shape[2])
    if not len(choices.features):
        return Logit(np.zeros(width))
    there = choices.features[choices.is_there]
    scale = there.std(axis=0) + 1e-9
    centred = (choices.features - there.mean(axis=0)) / scale
    at: Array = np.zeros(width)
    loss, share = _loss(at, centred, choices, precision)
    for _ in range(_STEPS):
        step = _newton_step(at, centred, choices, share, precision)
        pace = 1.0
        while pace > _LEAST_STEP:
            tried, shares = _loss(at - pace * step, centred, choices, precision)
            if tried < loss:
                break
            pace *= 0.5
        else:
            break
        at = (at - pace * step).astype(np.float64)
        is_done = loss - tried < _TOLERANCE
        loss, share = tried, shares
        if is_done:
            break
    return Logit(np.divide(at, scale))


def solved(matrix: Array, right: Array) -> Array:
    """x of matrix · x = right. Raises numpy's LinAlgError where there is none."""
    return np.linalg.solve(matrix, right).astype(np.float64)


def inverse(matrix: Array) -> Array:
    """The inverse of a square matrix. Raises numpy's LinAlgError where there is none."""
    return np.linalg.inv(matrix).astype(np.float64)


def softmax(scores: Array) -> Array:
    """Probabilities (n,) from log-odds (n,)."""
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _loss(at: Array, centred: Array, choices: Choices, precision: float) -> tuple[float, Array]:
    """(negative log posterior up to a constant, probability of each alternative)."""
    logits = np.where(choices.is_there, centred @ at, -np.inf)
    top = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(axis=1, keepdims=True)
    logs = np.where(choices.target > 0, logits - top - np.log(total), 0.0)
    return float(-(choices.target * logs).sum() + 0.5 * precision * at @ at), weights / total


def _newton_step(at: Array, centred: Array, choices: Choices, share: Array, precision: float) -> Array:
    total = choices.target.sum(axis=1)
    expected = np.einsum("na,naf->nf", share, centred)
    gradient = total @ expected - np.einsum("na,naf->f", choices.target, centred) + precision * at
    weighted = (centred * (share * total[:, None])[:, :, None]).reshape(-1, centred.shape[2])
    second = weighted.T @ centred.reshape(-1, centred.shape[2]) - (expected * total[:, None]).T @ expected
    return solved(second + precision * np.eye(len(at)), gradient)
