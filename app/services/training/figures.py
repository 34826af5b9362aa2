"""From what two models said to figures with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from app.domain.judging import Choice, beliefs, calibration_sums, hit, reciprocal_rank
from app.domain.promotion import Bootstrap, Figure
from app.ports import JudgedAnswer
from app.services.training.intervals import calibration, difference_of, interval_of, of_medians, ratio

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A choice and the likelihoods that each model gave to its readings, in their order."""

    choice: Choice
    candidate: tuple[float, ...]
    serving: tuple[float, ...]


@dataclass(frozen=True)
class Answered:
    """A choice and what each model answered itself; then, of (candidate, serving): at which place that is the choice
    (None: nowhere), whether an answer without a grammar has its shape, a reward model's ratings. None: not measured."""

    choice: Choice
    candidate: JudgedAnswer
    serving: JudgedAnswer
    ranks: tuple[int | None, int | None] | None = None
    validity: tuple[bool, bool] | None = None
    ratings: tuple[float, float] | None = None

    def with_ranks(self, candidate: int | None, serving: int | None) -> "Answered":
        """The same with places."""
        return replace(self, ranks=(candidate, serving))

    def with_validity(self, candidate: bool, serving: bool) -> "Answered":
        """The same with validity."""
        return replace(self, validity=(candidate, serving))

    def with_ratings(self, candidate: float, serving: float) -> "Answered":
        """The same with ratings."""
        return replace(self, ratings=(candidate, serving))


def figures_of(scored: Sequence[Scored], answered: Sequence[Answered], options: Bootstrap) -> dict[str, Figure]:
    """Every figure, in the order of a report. Raises ModelUnavailable where scipy is not installed."""
    users = [one.choice.user for one in scored]
    figures = {
        "mrr": _means(users, [_ranked(one, reciprocal_rank) for one in scored], options),
        "hit@1": _means(users, [_ranked(one, hit) for one in scored], options),
        "calibration_error": _calibration(scored, options),
    }
    valid = [(one.choice.user, one.validity) for one in answered if one.validity is not None]
    places = [(one.choice.user, one.ranks) for one in answered if one.ranks is not None]
    rated = [(one.choice.user, one.ratings) for one in answered if one.ratings is not None]
    owners = [user for user, _ in places]
    return {
        **figures,
        "schema_validity": _means([user for user, _ in valid], [_floats(pair) for _, pair in valid], options),
        "answer_mrr": _means(owners, [_pair(ranks, _inverse) for _, ranks in places], options),
        "answer_hit@1": _means(owners, [_pair(ranks, lambda rank: float(rank == 1)) for _, ranks in places], options),
        "reward_win_rate": _alone([user for user, _ in rated], [_win(*pair) for _, pair in rated], options),
        **_latencies(answered, options),
    }


def stated(choice: Choice, likelihoods: Sequence[float]) -> list[tuple[float, bool]]:
    """Of each reading its probability and whether it was chosen."""
    return [(belief, place == choice.chosen) for place, belief in enumerate(beliefs(likelihoods))]


def _ranked(one: Scored, measure: Callable[[Sequence[float], int], float]) -> tuple[float, float]:
    return measure(one.candidate, one.choice.chosen), measure(one.serving, one.choice.chosen)


def _floats(pair: tuple[bool, bool]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _pair(ranks: tuple[int | None, int | None], measure: Callable[[int | None], float]) -> tuple[float, float]:
    return measure(ranks[0]), measure(ranks[1])


def _inverse(rank: int | None) -> float:
    return 0.0 if rank is None else 1.0 / rank


def _win(candidate: float, serving: float) -> float:
    return 0.5 if candidate == serving else float(candidate > serving)


def _means(users: Sequence[str], pairs: Sequence[tuple[float, float]], options: Bootstrap) -> Figure:
    """The means of both models, one pair of values for each row."""
    if not pairs:
        return Figure(None)
    sides = [_sums(users, [[pair[side], 1.0] for pair in pairs]) for side in (0, 1)]
    return _figure(ratio, sides[0], sides[1], len(pairs), options)


def _alone(users: Sequence[str], values: Sequence[float], options: Bootstrap) -> Figure:
    """The mean of what is the candidate's alone."""
    if not values:
        return Figure(None)
    return _figure(ratio, _sums(users, [[value, 1.0] for value in values]), None, len(values), options)


def _calibration(scored: Sequence[Scored], options: Bootstrap) -> Figure:
    if not scored:
        return Figure(None)
    users = [one.choice.user for one in scored]
    own = _sums(users, [calibration_sums(stated(one.choice, one.candidate)) for one in scored])
    other = _sums(users, [calibration_sums(stated(one.choice, one.serving)) for one in scored])
    return _figure(calibration, own, other, len(scored), options)


def _figure(
    figure: Callable[[Sums], Sums], candidate: Sums, serving: Sums | None, rows: int, options: Bootstrap
) -> Figure:
    found = interval_of(difference_of(figure, candidate, serving), len(candidate), options)
    other = None if serving is None else float(figure(serving.sum(axis=0)))
    low, high = found or (None, None)
    return Figure(float(figure(candidate.sum(axis=0))), other, low, high, rows, len(candidate))


def _sums(users: Sequence[str], rows: Sequence[Sequence[float]]) -> Sums:
    """The rows added up by user, shape (users, values), the users in the order of their names."""
    places = {user: place for place, user in enumerate(sorted(set(users)))}
    sums = np.zeros((len(places), len(rows[0])))
    np.add.at(sums, [places[user] for user in users], np.asarray(rows, dtype=np.float64))
    return sums


def _latencies(answered: Sequence[Answered], options: Bootstrap) -> Mapping[str, Figure]:
    """The median seconds of an answer, and the candidate's over the serving model's."""
    if not answered:
        return {"latency": Figure(None), "latency_ratio": Figure(None)}
    users = sorted({one.choice.user for one in answered})
    own = [[one.candidate.seconds for one in answered if one.choice.user == user] for user in users]
    other = [[one.serving.seconds for one in answered if one.choice.user == user] for user in users]
    medians = median(one.candidate.seconds for one in answered), median(one.serving.seconds for one in answered)
    apart = interval_of(of_medians(own, other, np.subtract), len(users), options) or (None, None)
    times = interval_of(of_medians(own, other, np.divide), len(users), options) or (None, None)
    counts = len(answered), len(users)
    return {
        "latency": Figure(*medians, *apart, *counts),
        "latency_ratio": Figure(medians[0] / max(medians[1], 1e-9), None, *times, *counts),
    }
