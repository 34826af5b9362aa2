"""What a question is worth, and which is worth most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.need import fit_need, fit_ridge, need_features
from app.domain.value_of_information import best_question, expected_gain, fit_gain, gain_features

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


def test_the_best_question_is_the_first_of_those_that_gain_most() -> None:
    assert best_question([0.1, 0.3, 0.3]) == (1, 0.3)
    with pytest.raises(ValueError, match="no question"):
        best_question([])


def test_the_gain_is_learned_from_what_answers_did() -> None:
    chances = np.random.default_rng(0)
    rows, before, after = [], [], []
    for _ in range(400):
        probabilities = chances.dirichlet([0.7, 0.7, 0.7])
        nearness = chances.random((1, 3))
        rows.append(gain_features(probabilities, nearness, np.array([0.5]), 1)[0])
        before.append(probabilities.max())
        after.append(probabilities.max() + (1 - probabilities.max()) * nearness.max())
    model = fit_gain(np.array(rows), np.array(before), np.array(after))
    telling, silent = np.array([[0.9, 0.1, 0.1]]), np.array([[0.1, 0.1, 0.1]])
    unsure, sure = np.array([0.4, 0.3, 0.3]), np.array([0.98, 0.01, 0.01])

    def gain(probabilities: np.ndarray, nearness: np.ndarray) -> float:
        return float(model.predict(gain_features(probabilities, nearness, np.array([0.5]), 1))[0])

    assert gain(unsure, telling) > gain(unsure, silent) + 0.1
    assert gain(sure, telling) < 0.1
    assert gain(np.array([1.0, 0.0, 0.0]), silent) >= 0.0


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


def test_a_ridge_regression_finds_the_line_and_shrinks_noise() -> None:
    chances = np.random.default_rng(0)
    features = chances.standard_normal((400, 3))
    target = 2.0 + 3.0 * features[:, 0] + 0.1 * chances.standard_normal(400)
    ridge = fit_ridge(features, target)
    np.testing.assert_allclose(ridge.predict(np.array([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])), [5.0, 2.0], atol=0.15)
