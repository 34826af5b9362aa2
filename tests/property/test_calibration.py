"""Whatever the scores and outcomes, confidences are a distribution in the order of the scores."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.calibration import Calibration, Outcome, fit, probabilities

QUICK = settings(max_examples=50, deadline=None)
SCORES = st.lists(st.floats(-8, 8), max_size=5)
CALIBRATIONS = st.builds(lambda slope, none: Calibration({"score": slope}, none), st.floats(0.05, 8), st.floats(-5, 5))


def scored(scores: list[float]) -> tuple[dict[str, float], ...]:
    return tuple({"score": score} for score in scores)


@QUICK
@given(SCORES, CALIBRATIONS)
def test_probabilities_are_positive_and_leave_room_for_none(scores: list[float], calibration: Calibration) -> None:
    shares = probabilities(scored(scores), calibration)
    assert all(0 < share < 1 for share in shares)
    assert sum(shares) < 1
    assert [share for _, share in sorted(zip(scores, shares, strict=True))] == sorted(shares)


@QUICK
@given(SCORES.filter(bool), CALIBRATIONS, st.floats(0.01, 5))
def test_a_higher_score_is_surer_and_takes_from_the_others(
    scores: list[float], calibration: Calibration, more: float
) -> None:
    before = probabilities(scored(scores), calibration)
    after = probabilities(scored([scores[0] + more, *scores[1:]]), calibration)
    assert after[0] >= before[0]
    assert all(later <= sooner for later, sooner in zip(after[1:], before[1:], strict=True))


@QUICK
@given(SCORES, CALIBRATIONS, st.floats(-9, 9))
def test_shifting_all_scores_is_shifting_none_of_these(
    scores: list[float], calibration: Calibration, shift: float
) -> None:
    slope = calibration.weights["score"]
    shifted = Calibration(calibration.weights, calibration.none_score + slope * shift)
    moved = probabilities(scored([score + shift for score in scores]), shifted)
    assert moved == pytest.approx(probabilities(scored(scores), calibration), abs=1e-8)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    scores = draw(SCORES)
    return Outcome(scored(scores), draw(st.one_of(st.none(), *([st.integers(0, len(scores) - 1)] if scores else []))))


@QUICK
@given(st.lists(outcomes(), max_size=20))
def test_a_fit_is_finite_and_never_less_likely_than_the_prior(seen: list[Outcome]) -> None:
    fitted = fit(seen, 1)
    assert math.isfinite(fitted.none_score)
    assert fitted.weights["score"] > 0

    def cost(calibration: Calibration) -> float:
        total = 0.0
        for outcome in seen:
            shares = probabilities(outcome.features, calibration)
            total -= math.log(max(1e-300, 1 - sum(shares) if outcome.chosen is None else shares[outcome.chosen]))
        return total

    assert cost(fitted) <= cost(Calibration()) + 1e-6
