"""Confidences are probabilities: one distribution, fitted on what users chose."""

import math

import numpy as np
import pytest

from app.domain.calibration import (
    MODEL_PRIOR,
    PRIOR,
    TYPICAL_COSINE,
    TYPICAL_LOGPROB,
    Calibration,
    Outcome,
    fit,
    is_read,
    label_features,
    nearness_features,
    prior_of,
    probabilities,
    words_features,
)
from app.domain.telemetry import calibration_error


def local(slope: float, none_score: float) -> Calibration:
    return Calibration({"score": slope}, none_score)


def scored(*scores: float) -> tuple[dict[str, float], ...]:
    return tuple({"score": score} for score in scores)


def simulated(count: int, truth: Calibration, seed: int) -> list[Outcome]:
    """Outcomes of users who choose with the probabilities that `truth` gives to random scores."""
    rng = np.random.default_rng(seed)
    outcomes: list[Outcome] = []
    for _ in range(count):
        size = rng.integers(1, 5)
        columns = {name: rng.normal(0.5, 1.2, size=size) for name in truth.weights}
        features = tuple({name: float(values[row]) for name, values in columns.items()} for row in range(size))
        shares = probabilities(features, truth)
        chosen = int(rng.choice(size + 1, p=[*shares, 1 - sum(shares)]))
        outcomes.append(Outcome(features, chosen if chosen < size else None))
    return outcomes


def error_of(calibration: Calibration, outcomes: list[Outcome]) -> float:
    pairs = [
        (share, outcome.chosen == index)
        for outcome in outcomes
        for index, share in enumerate(probabilities(outcome.features, calibration))
    ]
    error = calibration_error(pairs)
    assert error is not None
    return error


def test_the_hypotheses_and_none_of_these_are_one_distribution() -> None:
    scores = [1.0, -0.5, 0.2]
    weights = [math.exp(score) for score in scores]
    total = sum(weights) + math.exp(PRIOR.none_score)
    assert probabilities(scored(*scores)) == pytest.approx([weight / total for weight in weights])
    assert probabilities([]) == []


def test_extreme_scores_do_not_overflow() -> None:
    assert probabilities(scored(5000.0, -5000.0)) == [pytest.approx(1.0), pytest.approx(0.0)]


def test_without_outcomes_the_fit_is_the_prior() -> None:
    assert fit([], 4) == Calibration(PRIOR.weights, PRIOR.none_score, 4, 0)


def test_few_outcomes_move_little_and_in_the_right_direction() -> None:
    refused = fit([Outcome(scored(1.0, 0.5), None)], 1)
    assert PRIOR.none_score < refused.none_score < PRIOR.none_score + 0.5
    assert (refused.version, refused.outcomes) == (1, 1)
    taken = fit([Outcome(scored(1.0, 0.5), 0)], 1)
    assert taken.none_score < PRIOR.none_score


@pytest.mark.parametrize("truth", [local(0.4, -0.5), local(2.5, 1.5), local(1.0, 0.4)])
def test_the_fit_finds_the_calibration_users_chose_by(truth: Calibration) -> None:
    fitted = fit(simulated(3000, truth, seed=1), 1)
    assert fitted.weights["score"] == pytest.approx(truth.weights["score"], rel=0.15)
    assert fitted.none_score == pytest.approx(truth.none_score, abs=0.2)


def test_the_fit_lowers_the_error_on_outcomes_it_has_not_seen() -> None:
    truth = local(0.35, 1.4)
    fitted = fit(simulated(400, truth, seed=2), 1)
    unseen = simulated(2000, truth, seed=3)
    assert error_of(PRIOR, unseen) > 0.08
    assert error_of(fitted, unseen) < 0.03


def test_one_sided_outcomes_end_in_finite_parameters() -> None:
    for outcomes in (
        [Outcome(scored(3.0), None)] * 500,
        [Outcome(scored(-3.0, 2.0), 0)] * 500,
        [Outcome(scored(), None)] * 50,
    ):
        fitted = fit(outcomes, 1)
        assert 0.01 < fitted.weights["score"] < 50
        assert abs(fitted.none_score) < 10


def test_the_order_of_outcomes_does_not_matter() -> None:
    outcomes = simulated(100, local(2.0, 0.0), seed=4)
    one, other = fit(outcomes, 1), fit(outcomes[::-1], 1)
    assert one.weights == pytest.approx(other.weights, abs=1e-6)
    assert one.none_score == pytest.approx(other.none_score, abs=1e-6)


def test_each_kind_of_a_model_s_evidence_has_a_temperature_of_its_own() -> None:
    """Of sets whose readings were weighed by labels, and of others by embedding."""
    truth = Calibration({"label": 0.5, "nearness": 6.0}, -0.3)
    by_labels = simulated(2000, Calibration({"label": 0.5}, -0.3), seed=5)
    by_embedding = simulated(2000, Calibration({"nearness": 6.0}, -0.3), seed=6)
    fitted = fit([*by_labels, *by_embedding], 1, MODEL_PRIOR)
    assert fitted.weights == pytest.approx(dict(truth.weights), rel=0.15)
    assert fitted.none_score == pytest.approx(-0.3, abs=0.2)


def test_evidence_users_choose_against_ends_near_zero_never_below() -> None:
    outcomes = [Outcome(({"label": 3.0}, {"label": -3.0}), 1)] * 300
    assert 0 < fit(outcomes, 1, MODEL_PRIOR).weights["label"] <= 0.05


def test_a_model_s_evidence_is_in_nats_or_cosines_from_what_is_typical() -> None:
    assert label_features(-1.5) == {"label": -1.5}
    assert nearness_features(TYPICAL_COSINE) == {"nearness": 0.0}
    assert words_features(TYPICAL_LOGPROB) == words_features(None) == {"likelihood": 0.0}
    assert words_features(-1.4) == {"likelihood": pytest.approx(-1.0)}
    assert words_features(-1000.0) == {"likelihood": -3.0}


def test_what_a_model_wrote_of_its_confidence_is_read_by_nothing() -> None:
    assert not is_read({"stated": 1.0, "likelihood": 0.2}, MODEL_PRIOR)
    assert not is_read({}, MODEL_PRIOR)
    assert is_read(label_features(0.3), MODEL_PRIOR)
    assert is_read({"score": 1.0}, PRIOR)
    sure, unsure = {"stated": 4.0}, {"stated": -4.0}
    assert probabilities([sure, unsure], MODEL_PRIOR) == probabilities([unsure, sure], MODEL_PRIOR)


def test_a_local_score_and_a_model_have_priors_of_their_own() -> None:
    assert prior_of("local") is PRIOR
    assert prior_of("vllm") is prior_of("openai") is MODEL_PRIOR
