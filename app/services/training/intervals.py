"""Confidence intervals by a paired bootstrap over users: a user is drawn with all their rows, for both models at once.

Rows of one user are alike, so drawing rows would make intervals that are too narrow (a cluster bootstrap, Davison and
Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Percentiles of a bootstrap are too near each
other for few users; they are expanded as in Hesterberg 2015, "What Teachers Should Know About the Bootstrap".
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import ModelUnavailable
from app.domain.promotion import Bootstrap

Drawn = NDArray[np.int64]
"""Indices of users, the last axis one resample."""

Statistic = Callable[[Drawn], NDArray[np.float64]]

_BATCH_VALUES = 2_000_000
"""Indices drawn at a time: with the eleven sums of a calibration error for each, below 200 MB."""


def interval_of(statistic: Statistic, users: int, options: Bootstrap) -> tuple[float, float] | None:
    """The interval of a statistic of `users` users (numbered from 0), by expanded percentiles; None for fewer than two.
    Raises ModelUnavailable where scipy is not installed."""
    if users < 2:
        return None
    # 70 MB and half a second: nobody pays for it who judges nothing.
    try:
        from scipy import stats  # noqa: PLC0415
    except ImportError:
        raise ModelUnavailable("judging needs more packages: run `make install-training`") from None

    library = cast(Any, stats)
    outside = library.t.ppf((1 + options.confidence) / 2, users - 1) * np.sqrt(users / (users - 1))
    found: Any = library.bootstrap(
        (np.arange(users),),
        lambda drawn, axis: statistic(np.moveaxis(drawn, axis, -1)),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        n_resamples=options.resamples,
        batch=max(1, min(options.resamples, _BATCH_VALUES // users)),
        vectorized=True,
        confidence_level=min(1 - 1e-9, 1 - 2 * float(library.norm.sf(outside))),
        method="percentile",
        rng=np.random.default_rng(options.seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean, of a sum and a count on the last axis."""
    return sums[..., 0] / sums[..., 1]


def calibration(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """A calibration error, of `app.domain.judging.calibration_sums` on the last axis."""
    return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]


def difference_of(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    candidate: NDArray[np.float64],
    serving: NDArray[np.float64] | None,
) -> Statistic:
    """The difference of a figure that is made of sums, shapes (users, sums); without a serving model the figure."""

    def statistic(drawn: Drawn) -> NDArray[np.float64]:
        own = figure(candidate[drawn].sum(axis=-2))
        return own if serving is None else own - figure(serving[drawn].sum(axis=-2))

    return statistic


def of_medians(
    candidate: list[list[float]],
    serving: list[list[float]],
    compare: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
) -> Statistic:
    """A comparison of the medians of each user's values."""
    most = max(len(values) for values in candidate)
    padded = [np.array([values + [np.nan] * (most - len(values)) for values in side]) for side in (candidate, serving)]

    def statistic(drawn: Drawn) -> NDArray[np.float64]:
        drawn_values = [side[drawn].reshape(*drawn.shape[:-1], -1) for side in padded]
        return compare(*(np.nanmedian(values, axis=-1) for values in drawn_values))

    return statistic
