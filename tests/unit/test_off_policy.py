"""Off-policy estimates: right on logs whose truth is known, by interval too; and no surer than there are users."""

import math

import numpy as np
import pytest

from app.domain.off_policy import Log, Method, estimate, gain

ACTS = 3
WORTH = np.array([0.2, 0.5, 0.6])
LOGGED = np.array([0.8, 0.1, 0.1])
OTHER = np.array([0.1, 0.2, 0.7])
TRUTH = float(OTHER @ WORTH)


def log_of(seed: int, rows: int = 600, per_user: int = 3, spread: float = 0.0, model: float | None = 0.0) -> Log:
    """A log of users who differ by `spread`, with a model of the reward that is off by `model`."""
    chance = np.random.default_rng(seed)
    users = np.arange(rows) // per_user
    own = spread * chance.standard_normal(users.max() + 1)
    acts = chance.choice(ACTS, rows, p=LOGGED)
    rewards = (chance.random(rows) < np.clip(WORTH[acts] + own[users], 0, 1)).astype(float)
    predicted = None if model is None else WORTH[acts] + model
    expected = None if model is None else np.full(rows, TRUTH + model)
    return Log(users, LOGGED[acts], OTHER[acts], rewards, predicted, expected)


@pytest.mark.parametrize("method", ["ips", "snips", "doubly_robust"])
def test_the_truth_is_in_the_interval_as_often_as_it_says(method: Method) -> None:
    """95 ± 2 % of 1,000 logs; of users who are alike and of users who differ."""
    for spread in (0.0, 0.1):
        found = [estimate(log_of(seed, spread=spread), method) for seed in range(1000)]
        covered = np.mean([each.low <= TRUTH <= each.high for each in found])
        assert 0.93 <= covered <= 0.97, (method, spread)
        assert np.mean([each.value for each in found]) == pytest.approx(TRUTH, abs=0.01)


def test_a_model_that_is_right_makes_it_surer_and_one_that_is_wrong_does_no_harm() -> None:
    def width(method: Method, model: float) -> float:
        found = [estimate(log_of(seed, model=model), method) for seed in range(200)]
        assert np.mean([each.value for each in found]) == pytest.approx(TRUTH, abs=0.015)
        return float(np.mean([each.high - each.low for each in found]))

    assert width("doubly_robust", 0.0) < 0.9 * width("ips", 0.0)
    width("doubly_robust", 0.3)


def test_what_it_gains_over_the_policy_that_acted() -> None:
    truth = TRUTH - float(LOGGED @ WORTH)
    found = [gain(log_of(seed)) for seed in range(500)]

    assert np.mean([each.value for each in found]) == pytest.approx(truth, abs=0.01)
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    same = Log(np.arange(50), np.ones(50), np.ones(50), np.arange(50) % 2.0)
    assert gain(same).value == pytest.approx(0.0)
    assert gain(same).high == pytest.approx(0.0, abs=1e-9)


def test_the_same_user_again_is_no_new_evidence() -> None:
    once = log_of(1, rows=200, per_user=1)
    again = Log(np.tile(once.users, 5), np.tile(once.logged, 5), np.tile(once.other, 5), np.tile(once.rewards, 5))
    one, other = estimate(once), estimate(again)

    assert other.value == pytest.approx(one.value)
    assert other.high - other.low == pytest.approx(one.high - one.low)


def test_nothing_is_claimed_of_too_little() -> None:
    single = Log(np.zeros(4, int), np.full(4, 0.5), np.full(4, 0.5), np.ones(4))
    assert (estimate(single).low, estimate(single).high) == (-math.inf, math.inf)
    never = Log(np.arange(4), np.full(4, 0.5), np.zeros(4), np.ones(4))
    assert estimate(never).high == math.inf
    with pytest.raises(ValueError, match="nothing"):
        estimate(Log(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0)))
    with pytest.raises(ValueError, match="model"):
        estimate(Log(np.zeros(1, int), np.ones(1), np.ones(1), np.ones(1)), "doubly_robust")
