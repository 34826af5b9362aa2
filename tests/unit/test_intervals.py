"""Intervals: they hold the truth as often as they say, also where users have many rows each."""

import numpy as np
import pytest

from app.domain.judging import Choice
from app.domain.promotion import Bootstrap
from app.ports import JudgedAnswer
from app.services.training.figures import Answered, Scored, figures_of
from app.services.training.intervals import difference_of, interval_of, ratio

FEW = Bootstrap(resamples=500)


def tables(dice: np.random.Generator, users: int, gain: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts by user of two models' hits: a user's rows are alike by `spread`."""
    counts = dice.integers(1, 8, users)
    better = dice.normal(gain, spread, users)
    own = [(dice.random(count) < 0.5 + extra).sum() for count, extra in zip(counts, better, strict=True)]
    other = [(dice.random(count) < 0.5).sum() for count in counts]
    return np.column_stack([own, counts]).astype(float), np.column_stack([other, counts]).astype(float)


@pytest.mark.parametrize("users", [10, 40])
def test_an_interval_holds_the_truth_as_often_as_it_says(users: int) -> None:
    """95 of 100 times; what 300 times may show by chance is within three deviations of that."""
    dice, held = np.random.default_rng(11), 0
    for seed in range(300):
        measured = difference_of(ratio, *tables(dice, users, 0.1, 0.1))
        low, high = interval_of(measured, users, Bootstrap(resamples=1000, seed=seed)) or (0.0, 0.0)
        held += low <= 0.1 <= high

    assert 0.912 <= held / 300 <= 0.988


def test_one_keen_user_is_one_voice() -> None:
    """The same rows as one user's or as everybody's: alike rows of few users leave more doubt."""
    dice = np.random.default_rng(5)
    rows = np.column_stack([np.repeat(dice.random(10) < 0.5, 10).astype(float), np.ones(100)])
    by_user = rows.reshape(10, 10, 2).sum(axis=1)

    wide = interval_of(difference_of(ratio, by_user, None), 10, FEW)
    narrow = interval_of(difference_of(ratio, rows, None), 100, FEW)

    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_models_that_fail_on_the_same_rows_are_told_apart_by_pairs() -> None:
    """Each user's rows are hard or easy for both models: the difference is certain though either figure is not."""
    own = np.column_stack([np.tile([1.0, 9.0], 20), np.full(40, 10.0)])
    other = own - [1.0, 0.0]

    assert interval_of(difference_of(ratio, own, other), 40, FEW) == pytest.approx((0.1, 0.1))


def test_one_user_tells_nothing() -> None:
    assert interval_of(difference_of(ratio, np.ones((1, 2)), None), 1, FEW) is None


def test_the_same_seed_gives_the_same_interval() -> None:
    own, other = tables(np.random.default_rng(1), 20, 0.1, 0.1)

    assert interval_of(difference_of(ratio, own, other), 20, FEW) == interval_of(
        difference_of(ratio, own, other), 20, FEW
    )


def choice(number: int) -> Choice:
    return Choice(str(number), f"user{number % 5}", (), ("a", "b"), number % 2, 2)


def answered(number: int, own_s: float, other_s: float) -> Answered:
    return Answered(choice(number), JudgedAnswer(("a",), "a", own_s), JudgedAnswer(("b",), "b", other_s))


def test_figures_of_both_models() -> None:
    scored = [
        Scored(choice(number), (-1.0, -1.0), (-1.0, -2.0) if number % 2 == 0 else (-2.0, -1.0)) for number in range(10)
    ]
    full = [
        answered(number, 3.0, 2.0)
        .with_ranks(1, None)
        .with_validity(True, number < 5)
        .with_ratings(1.0, float(number > 7))
        for number in range(10)
    ]

    figures = figures_of(scored, full, FEW)

    assert (figures["mrr"].candidate, figures["mrr"].serving) == (pytest.approx(1 / 1.5), 1.0)
    assert (figures["hit@1"].candidate, figures["hit@1"].serving) == (0.5, 1.0)
    assert (figures["schema_validity"].candidate, figures["schema_validity"].serving) == (1.0, 0.5)
    assert (figures["answer_mrr"].candidate, figures["answer_hit@1"].serving) == (1.0, 0.0)
    assert figures["reward_win_rate"].candidate == pytest.approx(0.9)
    assert figures["reward_win_rate"].serving is None
    assert (figures["latency"].candidate, figures["latency"].serving) == (3.0, 2.0)
    assert figures["latency_ratio"].candidate == 1.5
    assert (figures["latency_ratio"].low, figures["latency_ratio"].high) == (1.5, 1.5)
    assert (figures["mrr"].rows, figures["mrr"].users) == (10, 5)


def test_what_nobody_answered_is_not_measured() -> None:
    figures = figures_of([], [], FEW)

    assert all(figure.candidate is None for figure in figures.values())
