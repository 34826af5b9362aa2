"""Figures of predictions: calibration error, rank correlation, area under the curve, bootstrap intervals."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array

BINS = 10
RESAMPLES = 1000


def calibration_error(confidence: Array, is_right: Array) -> float:
    """Expected calibration error of confidences (n,) over ten equal bins (Naeini et al. 2015)."""
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = [abs(float((confidence - is_right)[place == each].sum())) for each in range(BINS)]
    return sum(gaps) / len(confidence)


def calibration_errors_by_chance(confidence: Array, groups: NDArray[np.int64], draws: int = 200) -> Array:
    """What the calibration error would be (draws,) were every confidence exactly true: the error that the number of
    cases alone makes. Cases of one group (what one person meant) are right or wrong together."""
    chances = np.random.default_rng(0)
    luck = chances.random((draws, int(groups.max()) + 1))
    return np.array([calibration_error(confidence, (each[groups] < confidence).astype(float)) for each in luck])


def spearman(one: Array, other: Array) -> float:
    """Rank correlation, ties by mean rank."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def auroc(scores: Array, is_positive: NDArray[np.bool_]) -> float:
    """The probability that a positive scores above a negative, ties counting half (Mann and Whitney)."""
    ranks = _ranks(scores)
    positives = int(is_positive.sum())
    above = float(ranks[is_positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(scores) - positives))


def interval(cases: int, figure: Callable[[NDArray[np.int64]], float]) -> str:
    """The 95 % bootstrap interval of a figure over resampled cases, in words."""
    rows = np.random.default_rng(0).integers(0, cases, (RESAMPLES, cases))
    low, high = np.percentile([figure(each) for each in rows], [2.5, 97.5])
    return f"95 % {low:.3f} to {high:.3f}"


def mean_interval(values: Array) -> str:
    """The same for a mean."""
    return interval(len(values), lambda rows: float(values[rows].mean()))


def clustered_interval(values: Array, clusters: NDArray[np.int64]) -> str:
    """The same for a mean of values (n,) that belong to clusters (n,), such as the people of one request: clusters are
    resampled."""
    _, place = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    return interval(len(sums), lambda rows: float(sums[rows].sum() / counts[rows].sum()))


def _ranks(values: Array) -> Array:
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        same = values == value
        ranks[same] = ranks[same].mean()
    return ranks
