"""What a question is worth, and which is worth most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.need import fit_need, fit_ridge, need_features
from app.domain.value_of_information import expected_gain, fit_gain, gain_features

UNSURE = np.array([0.4, 0.35, 0.25])


def test_an_answer_that_tells_all_gains_what_is_missing() -> None:
    assert expected_gain(UNSURE, 1.0, 1.0) == pytest.approx(0.6)


def test_an_answer_that_tells_nothing_gains_nothing() -> None:
    assert expected_gain(UNSURE, 0.0, 1.0) == 0.0
    assert expected_gain(UNSURE, 1.0, 1 / 3) == pytest.approx(0.0)


def test_one_hypothesis_leaves_nothing_to_ask() -> None:
    assert expected_gain(np.array([1.0]), 1.0, 1.0) == 0.0


def test_the_gain_is_that_of_acting_on_the_best_after_each_answer() -> None:
    telling, accuracy = 0.6, 0.8
    slip = (1 - accuracy) / 2
    after = sum(max(UNSURE[h] * (accuracy if h == named else slip) for h in range(3)) for named in range(3))
    assert expected_gain(UNSURE, telling, accuracy) == pytest.approx(telling * (after - 0.4))


@given(
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_knowing_more_is_never_worth_less_than_nothing(weights: list[float], telling: float, accuracy: float) -> None:
    probabilities = np.array(weights) / sum(weights)
    gain = expected_gain(probabilities, telling, accuracy)
    assert 0.0 <= gain <= 1.0


def test_the_gain_is_learned_from_what_answers_did() -> None:
    chances = np.random.default_rng(0)
    rows, before, after = [], [], []
    for index in range(800):
        probabilities = chances.dirichlet([0.7, 0.7, 0.7])
        rows.append(gain_features(probabilities, index % 2))
        before.append(probabilities.max())
        after.append(probabilities.max() + (1 - probabilities.max()) * (0.3 if index % 2 else 0.8))
    model = fit_gain(np.array(rows), np.array(before), np.array(after))

    def gain(probabilities: list[float], answers: int) -> float:
        return float(model.predict(gain_features(np.array(probabilities), answers)[None])[0])

    assert gain([0.4, 0.3, 0.3], 0) == pytest.approx(0.48, abs=0.08)
    assert gain([0.4, 0.3, 0.3], 1) == pytest.approx(0.18, abs=0.08)
    assert gain([0.98, 0.01, 0.01], 0) < 0.1
    assert gain([1.0, 0.0, 0.0], 0) >= 0.0
    with pytest.raises(ValueError, match="at least one"):
        fit_gain(np.zeros((0, 10)), np.zeros(0), np.zeros(0))


def test_need_is_learned_from_judged_requests() -> None:
    chances = np.random.default_rng(0)
    requests = ["build api", "write a small api in python for three tables with tests"] * 60
    vectors = chances.standard_normal((120, 6))
    features = np.array(
        [need_features(each, vector, vectors[:5]) for each, vector in zip(requests, vectors, strict=True)]
    )
    labels = np.array([4.0, 1.0] * 60) + vectors[:, 0]
    model = fit_need(features, vectors, labels)
    assert np.corrcoef(model.predict(features, vectors), labels)[0, 1] > 0.95
    with pytest.raises(ValueError, match="two judged"):
        fit_need(features[:1], vectors[:1], labels[:1])


def test_directions_that_say_nothing_of_the_need_are_left_out() -> None:
    chances = np.random.default_rng(0)
    vectors = chances.standard_normal((60, 40))
    features = chances.standard_normal((60, 2))
    labels = features[:, 0] + 0.1 * chances.standard_normal(60)
    assert fit_need(features, vectors, labels).directions.shape == (40, 0)
    widest = vectors[:, 0] * 5
    vectors[:, 0] = widest
    assert fit_need(features, vectors, widest).directions.shape[1] > 0


def test_a_ridge_regression_finds_the_line_and_shrinks_noise() -> None:
    chances = np.random.default_rng(0)
    features = chances.standard_normal((400, 3))
    target = 2.0 + 3.0 * features[:, 0] + 0.1 * chances.standard_normal(400)
    ridge = fit_ridge(features, target)
    np.testing.assert_allclose(ridge.predict(np.array([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])), [5.0, 2.0], atol=0.15)
