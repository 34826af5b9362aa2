"""A user's tastes as a posterior: what each trait of an option is worth to them, and how sure that is.

A choice of one option among those shown is a conditional logit in the weights w of the options' traits,

    P(i | shown, w) = exp(b · w · x_i) / sum_j exp(b · w · x_j),      w ~ N(m, S)

with the prior learned over other users, traits correlated, and the sharpness b learned from how well choices predict
the next one. The posterior is a Laplace approximation (MacKay 1992) corrected by importance sampling from it with
fixed draws, mirrored in pairs (Tierney and Kadane 1986; antithetic variates): it takes all evidence at once, so the
order in which it came does not matter, and the same evidence gives the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array, inverse, softmax, solved

DRAWS = 4000
SHARPNESS = 7.0
SHARPNESSES = (3.0, 5.0, 7.0, 10.0, 14.0)
_WIDENED = 1.3
"""The draws come from a normal whose variance is this much larger than Laplace's, whose tails are too thin."""

_STEPS = 40
_TOLERANCE = 1e-10
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class TastePrior:
    """What the tastes of a user are before any evidence: mean (d,), covariance (d, d), and how sharply users choose
    by their tastes."""

    mean: Array
    covariance: Array
    sharpness: float = SHARPNESS


@dataclass(frozen=True)
class Comparison:
    """Options as they were shown (n, d), the index of the chosen one, and what the choice counts, 1 when fresh."""

    shown: Array
    chosen: int
    weight: float = 1.0


@dataclass(frozen=True)
class Remark:
    """What somebody said of their tastes, as a normal likelihood: `precision` (d,) and `shift` (d,), the precision
    times what it points to. A trait of which nothing was said has precision 0."""

    precision: Array
    shift: Array


@dataclass(frozen=True)
class Taste:
    """A posterior as weighted draws: `draws` (m, d) with `shares` (m,), summing to 1."""

    draws: Array
    shares: Array

    @property
    def mean(self) -> Array:
        """(d,)."""
        return self.shares @ self.draws

    @property
    def variance(self) -> Array:
        """(d,)."""
        return self.shares @ (self.draws - self.mean) ** 2

    @property
    def covariance(self) -> Array:
        """(d, d)."""
        offset = self.draws - self.mean
        return (offset * self.shares[:, None]).T @ offset

    def interval(self, level: float) -> tuple[Array, Array]:
        """The central interval of each trait that holds `level` of the posterior: (lows (d,), highs (d,))."""
        order = np.argsort(self.draws, axis=0)
        reached = np.cumsum(self.shares[order], axis=0)
        tail = (1.0 - level) / 2.0
        return self._quantile(order, reached, tail), self._quantile(order, reached, 1.0 - tail)

    def choice_probabilities(self, shown: Array, sharpness: float) -> Array:
        """The probability (n,) of each option shown (n, d) to be chosen."""
        scores = sharpness * self.draws @ shown.T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return self.shares @ (weights / weights.sum(axis=1, keepdims=True))

    def _quantile(self, order: NDArray[np.int64], reached: Array, rank: float) -> Array:
        rows = np.minimum((reached < rank).sum(axis=0), len(order) - 1)
        columns = list(range(self.draws.shape[1]))
        return self.draws[order[rows, columns], columns]


def taste_of(prior: TastePrior, comparisons: Sequence[Comparison], remarks: Sequence[Remark] = ()) -> Taste:
    """The tastes of a user with this evidence, in any order."""
    informed = heard(prior, remarks)
    centre, covariance = laplace(informed, comparisons)
    normal = _normal_draws(len(centre))
    draws = centre + normal @ np.linalg.cholesky(_WIDENED * covariance).T
    logs = _log_posterior(draws, informed, comparisons) + 0.5 * (normal**2).sum(axis=1)
    return Taste(draws, softmax(logs))


def heard(prior: TastePrior, remarks: Sequence[Remark]) -> TastePrior:
    """The prior once the remarks were heard: normal times normal is normal, without choices that is the posterior."""
    if not remarks:
        return prior
    precision = inverse(prior.covariance)
    covariance = inverse(precision + np.diag(np.sum([each.precision for each in remarks], axis=0)))
    shift = precision @ prior.mean + np.sum([each.shift for each in remarks], axis=0)
    return TastePrior(covariance @ shift, covariance, prior.sharpness)


def fit_prior(
    means: Array, covariances: Array | None = None, start: TastePrior | None = None, start_users: int = 0
) -> TastePrior:
    """The prior over users from what is known of them: posterior means (u, d) and covariances (u, d, d), none where
    they are known exactly. Empirical Bayes (Efron and Morris 1973): the spread of the means and the mean spread.
    What `start` says counts as `start_users` users: of tastes in a range of 1 none then moves the mean by more than
    1 / (u + start_users). Raises ValueError with fewer than two users."""
    users = len(means)
    if users < 2:
        raise ValueError(f"a prior over users is learned from two users at least, not {users}")
    if start is None:
        spread = np.cov(means.T) if covariances is None else np.cov(means.T) + covariances.mean(axis=0)
        return TastePrior(
            means.mean(axis=0), (np.atleast_2d(spread) + _LEAST_SHARE * np.eye(means.shape[1])).astype(np.float64)
        )
    mean = (start_users * start.mean + means.sum(axis=0)) / (start_users + users)
    offsets = means - mean
    own = offsets.T @ offsets + (0.0 if covariances is None else covariances.sum(axis=0))
    away = np.outer(start.mean - mean, start.mean - mean)
    spread = (start_users * (start.covariance + away) + own) / (start_users + users)
    return TastePrior(mean, spread, start.sharpness)


def fit_sharpness(prior: TastePrior, histories: Sequence[Sequence[Comparison]]) -> TastePrior:
    """`prior` with the sharpness of SHARPNESSES under which the earlier choices of users predict their last one best;
    no user's tastes have to be known for it."""
    told = [each for each in histories if len(each) > 1]

    def loss(sharpness: float) -> float:
        tried = TastePrior(prior.mean, prior.covariance, sharpness)
        return -sum(
            float(np.log(taste_of(tried, each[:-1]).choice_probabilities(each[-1].shown, sharpness)[each[-1].chosen]))
            for each in told
        )

    best = min(SHARPNESSES, key=loss) if told else prior.sharpness
    return TastePrior(prior.mean, prior.covariance, best)


def laplace(prior: TastePrior, comparisons: Sequence[Comparison]) -> tuple[Array, Array]:
    """(the most probable weights (d,), the inverse of the curvature there (d, d)), by damped Newton steps."""
    precision = inverse(prior.covariance)
    against = _differences(comparisons)
    at = prior.mean.copy()
    curvature = precision
    for _ in range(_STEPS):
        slope = precision @ (at - prior.mean)
        curvature = precision.copy()
        for differences, weights in against:
            scores = prior.sharpness * differences @ at
            weighed = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares = weighed / weighed.sum(axis=1, keepdims=True)
            expected = np.einsum("kn,knd->kd", shares, differences)
            slope = slope + prior.sharpness * weights @ expected
            spread = np.einsum("kn,knd,kne,k->de", shares, differences, differences, weights)
            spread = spread - np.einsum("kd,ke,k->de", expected, expected, weights)
            curvature = curvature + prior.sharpness**2 * spread
        step = solved(curvature, slope)
        at = at - step * min(1.0, 2.0 / max(1e-9, float(np.abs(step).max())))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return at, inverse(curvature)


def _differences(comparisons: Sequence[Comparison]) -> list[tuple[Array, Array]]:
    """The options of each comparison less the chosen one, those of one size together (k, n, d), with what each counts
    (k,)."""
    by_size: dict[int, list[Comparison]] = {}
    for each in comparisons:
        by_size.setdefault(len(each.shown), []).append(each)
    return [
        (
            np.stack([each.shown - each.shown[each.chosen] for each in alike]),
            np.array([each.weight for each in alike]),
        )
        for alike in by_size.values()
    ]


def _log_posterior(draws: Array, prior: TastePrior, comparisons: Sequence[Comparison]) -> Array:
    """Up to a constant, for draws (m, d): (m,)."""
    offset = draws - prior.mean
    logs = -0.5 * np.einsum("md,de,me->m", offset, inverse(prior.covariance), offset, optimize=True)
    for differences, weights in _differences(comparisons):
        count, size, width = differences.shape
        options = differences.transpose(1, 0, 2).reshape(size * count, width)
        scores = (prior.sharpness * draws @ options.T).reshape(-1, size, count)
        top = scores.max(axis=1)
        logs = logs - (np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top) @ weights
    return logs


@lru_cache(maxsize=8)
def _normal_draws(width: int) -> Array:
    """DRAWS standard normal draws (DRAWS, width), always the same ones, each with its mirror image."""
    half = np.random.default_rng(0).standard_normal((DRAWS // 2, width))
    return np.concatenate([half, -half])
