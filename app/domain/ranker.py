"""Which kinds of readings a tenant's users choose: weights of their origins, learned from choices, and what they would
gain.

A weight is added to the log-odds of every reading of its origin, so that it moves the order and the confidences alike.
What is chosen is chosen given its place: how likely each place is looked at (`app.domain.position`) is an offset of the
conditional logit, else the weights would learn where readings stood. What an order is worth is the reciprocal rank of
what is chosen; another order is judged on lists whose order was partly drawn (`app.domain.ordering`), reading by
reading, by how likely either puts it at its place (the item-position model of Li et al. 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array, softmax, solved
from app.domain.off_policy import Log
from app.domain.ordering import Order
from app.domain.position import Examination, offsets

ORIGINS = ("memory", "choice", "cohort", "option")
"""Of the built-in rules; all readings of a language model have one."""

PRIOR_SD = 0.5
"""Of a weight around 0, in log-odds."""

FOLDS = 5
_STEPS = 25

Ranker = Mapping[str, float]
"""Weights by origin; one that is missing is 0."""


@dataclass(frozen=True)
class Listed:
    """The options of a question that was put: of whom, in which order, the most likely first the log-odds (n,) without
    any ranker, the `origins` and the `confidences` (n,), and which one was chosen by position, None for none."""

    user_id: str
    order: Order
    scores: Array
    origins: tuple[str, ...]
    confidences: Array
    chosen: int | None


def fit(listed: Sequence[Listed], looked_at: Examination) -> dict[str, float]:
    """The weights most probable after what was chosen, around 0 by PRIOR_SD; 0 of an origin that nobody saw."""
    taught = [(each, each.chosen) for each in listed if each.chosen is not None and len(each.scores) > 1]
    is_of = [_origins_of(each) for each, _ in taught]
    held = [each.scores + offsets(each.order.ranks, looked_at) for each, _ in taught]
    at: Array = np.zeros(len(ORIGINS))
    for _ in range(_STEPS):
        gradient, curvature = at / PRIOR_SD**2, np.eye(len(ORIGINS)) / PRIOR_SD**2
        for (_, chosen), of, odds in zip(taught, is_of, held, strict=True):
            share = softmax(odds + of @ at)
            expected = share @ of
            gradient = gradient + expected - of[chosen]
            curvature = curvature + (of * share[:, None]).T @ of - np.outer(expected, expected)
        step = solved(curvature, gradient)
        at = at - step
        if np.abs(step).max() < 1e-6:
            break
    return {origin: round(float(weight), 4) for origin, weight in zip(ORIGINS, at, strict=True)}


def ranks_of(listed: Listed, ranker: Ranker) -> tuple[int, ...]:
    """The place, from 1, at which a ranker puts each of the options."""
    scores = listed.scores + np.array([ranker.get(origin, 0.0) for origin in listed.origins])
    places = np.empty(len(scores), dtype=np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return tuple(places.tolist())


def fitted_for(listed: Sequence[Listed], looked_at: Examination, seed: int = 7) -> list[Ranker]:
    """For each list a ranker that was fitted on other users' lists, of FOLDS parts of the users."""
    users = sorted({each.user_id for each in listed})
    order: list[int] = np.random.default_rng(seed).permutation(len(users)).tolist()
    fold_of = {users[at]: place % FOLDS for place, at in enumerate(order)}
    rankers = [fit([each for each in listed if fold_of[each.user_id] != fold], looked_at) for fold in range(FOLDS)]
    return [rankers[fold_of[each.user_id]] for each in listed]


def order_log(listed: Sequence[Listed], rankers: Sequence[Ranker], looked_at: Examination) -> Log:
    """Lists as decisions about each of their readings: where it stood, where the rankers would put it, with as much
    drawn as was, and the reciprocal rank where it was chosen, so scaled that the mean is a list's."""
    users: dict[str, int] = {}
    rows: list[tuple[float, float, float, float, float, float]] = []
    for each, ranker in zip(listed, rankers, strict=True):
        user, size, evenly = users.setdefault(each.user_id, len(users)), len(each.scores), each.order.shuffle
        places = np.arange(1, size + 1)
        for at, (place, other) in enumerate(zip(each.order.ranks, ranks_of(each, ranker), strict=True)):
            chance = evenly / size + (1.0 - evenly) * (places == other)
            worth = each.confidences[at] * np.array(looked_at[:size]) / places
            reward = 1.0 / place if at == each.chosen else 0.0
            predicted, expected = float(worth[place - 1]), float(chance @ worth)
            rows.append((user, each.order.propensity_at(at), float(chance[place - 1]), reward, predicted, expected))
    table: Array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    scale = len(rows) / max(1, len(listed))
    user, logged, other, rewards, predicted, expected = table.T
    return Log(user.astype(np.int64), logged, other, scale * rewards, scale * predicted, scale * expected)


def _origins_of(listed: Listed) -> NDArray[np.float64]:
    return np.array([[float(origin == each) for each in ORIGINS] for origin in listed.origins])
