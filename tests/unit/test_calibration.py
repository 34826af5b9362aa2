"""Confidences are probabilities: one distribution, fitted on what users chose."""

import math

import numpy as np
import pytest

from app.domain.calibration import PRIOR, Calibration, Outcome, fit, probabilities
from app.domain.telemetry import calibration_error


def simulated(count: int, truth: Calibration, seed: int) -> list[Outcome]:
    """Outcomes of users who choose with the probabilities that `truth` gives to random scores."""
    rng = np.random.default_rng(seed)
    outcomes: list[Outcome] = []
    for _ in range(count):
        scores = tuple(rng.normal(0.5, 1.2, size=rng.integers(1, 5)).tolist())
        shares = probabilities(scores, truth)
        chosen = int(rng.choice(len(scores) + 1, p=[*shares, 1 - sum(shares)]))
        outcomes.append(Outcome(scores, chosen if chosen < len(scores) else None))
    return outcomes


def error_of(calibration: Calibration, outcomes: list[Outcome]) -> float:
    pairs = [
        (share, outcome.chosen == index)
        for outcome in outcomes
        for index, share in enumerate(probabilities(outcome.scores, calibration))
    ]
    error = calibration_error(pairs)
    assert error is not None
    return error


def test_the_hypotheses_and_none_of_these_are_one_distribution() -> None:
    scores = [1.0, -0.5, 0.2]
    weights = [math.exp(score) for score in scores]
    total = sum(weights) + math.exp(PRIOR.none_score)
    assert probabilities(scores) == pytest.approx([weight / total for weight in weights])
    assert probabilities([]) == []


def test_extreme_scores_do_not_overflow() -> None:
    assert probabilities([5000.0, -5000.0]) == [pytest.approx(1.0), pytest.approx(0.0)]


def test_without_outcomes_the_fit_is_the_prior() -> None:
    assert fit([], 4) == Calibration(PRIOR.slope, PRIOR.none_score, 4, 0)


def test_few_outcomes_move_little_and_in_the_right_direction() -> None:
    refused = fit([Outcome((1.0, 0.5), None)], 1)
    assert PRIOR.none_score < refused.none_score < PRIOR.none_score + 0.5
    assert (refused.version, refused.outcomes) == (1, 1)
    taken = fit([Outcome((1.0, 0.5), 0)], 1)
    assert taken.none_score < PRIOR.none_score


@pytest.mark.parametrize("truth", [Calibration(0.4, -0.5), Calibration(2.5, 1.5), Calibration(1.0, 0.4)])
def test_the_fit_finds_the_calibration_users_chose_by(truth: Calibration) -> None:
    fitted = fit(simulated(3000, truth, seed=1), 1)
    assert fitted.slope == pytest.approx(truth.slope, rel=0.15)
    assert fitted.none_score == pytest.approx(truth.none_score, abs=0.2)


def test_the_fit_lowers_the_error_on_outcomes_it_has_not_seen() -> None:
    truth = Calibration(0.35, 1.4)
    fitted = fit(simulated(400, truth, seed=2), 1)
    unseen = simulated(2000, truth, seed=3)
    assert error_of(PRIOR, unseen) > 0.08
    assert error_of(fitted, unseen) < 0.03


def test_one_sided_outcomes_end_in_finite_parameters() -> None:
    for outcomes in ([Outcome((3.0,), None)] * 500, [Outcome((-3.0, 2.0), 0)] * 500, [Outcome((), None)] * 50):
        fitted = fit(outcomes, 1)
        assert 0.02 < fitted.slope < 50
        assert abs(fitted.none_score) < 10


def test_the_order_of_outcomes_does_not_matter() -> None:
    outcomes = simulated(100, Calibration(2.0, 0.0), seed=4)
    one, other = fit(outcomes, 1), fit(outcomes[::-1], 1)
    assert (one.slope, one.none_score) == pytest.approx((other.slope, other.none_score), abs=1e-6)
