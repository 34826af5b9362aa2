"""The figures about decisions, against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from app.domain.decisions import Stakes
from app.domain.telemetry import (
    MOST_POLICIES,
    Bin,
    Policy,
    Shown,
    by_policy,
    calibration_error,
    chance_errors,
    reliability,
    summarise,
)


def test_rates_over_sets_and_over_answers() -> None:
    shown = [
        Shown((0.6, 0.3), "ask", True, 0),
        Shown((0.5, 0.4), "ask", True, 1),
        Shown((0.2,), "proceed", True, None),
        Shown((0.9,), "auto_advance", False, None),
    ]
    summary = summarise(shown)
    assert (summary.sets, summary.answered) == (4, 3)
    assert summary.auto_advance_rate == 0.25
    assert summary.selection_rate == pytest.approx(2 / 3)
    assert summary.mrr == pytest.approx((1 + 0.5 + 0) / 3)
    assert summary.brier == pytest.approx((0.4**2 + 0.3**2 + 0.5**2 + 0.6**2 + 0.2**2) / 5)


def test_what_was_gone_ahead_with_can_be_undone() -> None:
    """Only where something is known of it: that nobody has objected yet counts for it."""
    gone = [
        Shown((0.9,), "auto_advance", True, 0),
        Shown((0.9,), "auto_advance", False, 0, is_assumed=True),
        Shown((0.9,), "auto_advance", False, 0, is_assumed=True, is_undone=True),
        Shown((0.9, 0.1), "auto_advance", True, 1, is_undone=True),
        Shown((0.9,), "auto_advance", False, None),
    ]
    assert summarise(gone).undo_rate == 0.5


def test_questions_are_counted_by_task() -> None:
    """A set that goes on from another one is a further question of the same task."""
    asked = [
        Shown((0.4,), "ask", False, None),
        Shown((0.5,), "ask", False, None, is_first=False),
        Shown((0.9,), "auto_advance", True, 0, is_first=False),
        Shown((0.9,), "auto_advance", True, 0),
    ]
    assert summarise(asked).questions_per_task == 1.0


def test_what_was_expected_stands_beside_what_came_of_it() -> None:
    """Where both are known: a right act is 1, a question costs, a wrong act loses."""
    stakes = Stakes(question_cost=0.1, loss=2.0)
    shown = [
        Shown((0.5,), "ask", True, 0, stakes=stakes, utility=0.8),
        Shown((0.5,), "ask", True, None, stakes=stakes, utility=0.7),
        Shown((0.5,), "ask", True, None, is_custom=True, stakes=stakes, utility=0.6),
        Shown((0.9,), "auto_advance", True, 0, stakes=stakes, utility=0.7),
        Shown((0.9,), "auto_advance", True, None, is_undone=True, stakes=stakes, utility=0.7),
        Shown((0.5,), "proceed", False, None, stakes=stakes, utility=0.3),
        Shown((0.5,), "ask", True, 0),
    ]
    summary = summarise(shown)
    assert summary.expected_utility == pytest.approx((0.8 + 0.7 + 0.6 + 0.7 + 0.7) / 5)
    assert summary.realised_utility == pytest.approx((0.9 - 0.1 + 0.9 + 1.0 - 2.0) / 5)


def test_reliability_is_what_was_said_beside_what_came_true() -> None:
    shown = [Shown((0.12,), "ask", True, None), Shown((0.18,), "ask", True, 0), Shown((1.0,), "ask", True, 0)]
    by_chance = math.sqrt(0.12 * 0.88 + 0.18 * 0.82) / 2
    assert reliability(shown) == [
        Bin(0.1, 0.2, 2, pytest.approx(0.15), 0.5, pytest.approx(by_chance)),
        Bin(0.9, 1.0, 1, 1.0, 1.0, 0.0),
    ]


def simulated(confidences: list[tuple[float, ...]], dice: np.random.Generator) -> float:
    """The calibration error of sets whose confidences are all true, once."""
    pairs: list[tuple[float, bool]] = []
    for each in confidences:
        chosen = int(dice.choice(len(each) + 1, p=[*each, 1 - sum(each)]))
        pairs += [(share, place == chosen) for place, share in enumerate(each)]
    found = calibration_error(pairs)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [40, 400])
def test_the_error_by_chance_is_that_of_confidences_which_are_true(count: int) -> None:
    """Readings of one set exclude each other, two of them in one bin, too."""
    dice = np.random.default_rng(7)
    confidences = [tuple(float(each) for each in dice.dirichlet([2.0, 1.0, 1.0, 1.0])[:3]) for _ in range(count)]
    mean, high = chance_errors(confidences)
    errors = [simulated(confidences, dice) for _ in range(400)]
    assert mean == pytest.approx(np.mean(errors), rel=0.07)
    assert high is not None
    assert np.mean([error <= high for error in errors]) == pytest.approx(0.95, abs=0.03)


def test_without_answers_there_is_no_chance() -> None:
    assert chance_errors([]) == (None, None)
    assert chance_errors([()]) == (None, None)


def test_figures_are_of_each_policy_the_largest_first() -> None:
    rules = Policy(1, 0.1, 0.86, "local", evidence="score")
    model = Policy(1, 0.1, 0.86, "vllm", "m", "2026-11-21", None, "label", "2026-11-30")
    shown = [
        Shown((0.6,), "ask", True, 0, policy=rules, calibration_version=2),
        Shown((0.6,), "ask", True, None, policy=rules, calibration_version=3),
        Shown((0.6,), "ask", True, 0, policy=model, weighed_s=0.2, weighed_tokens=300),
    ]
    first, second = by_policy(shown)
    assert (first.policy, first.first, first.last, first.summary.selection_rate) == (rules, 2, 3, 0.5)
    assert (second.policy, second.summary.selection_rate) == (model, 1.0)
    assert (first.summary.weighed_ms, first.summary.weighed_tokens) == (None, None)
    assert (second.summary.weighed_ms, second.summary.weighed_tokens) == (200.0, 300.0)
    assert summarise(shown).weighed_ms == 200.0, "of sets that were weighed"
    other = Shown((0.6,), "ask", True, 0, policy=replace(rules, question_cost=0.2))
    assert len(by_policy([*shown, other])) == 3
    many = [Shown((0.6,), "ask", True, 0, policy=Policy(source=f"s{number}")) for number in range(MOST_POLICIES + 5)]
    assert len(by_policy(many)) == MOST_POLICIES


def test_nothing_observed_is_unknown_and_not_zero() -> None:
    assert summarise([]) == summarise([])
    empty = summarise([])
    assert (empty.auto_advance_rate, empty.selection_rate, empty.mrr, empty.calibration_error) == (None,) * 4
    waiting = summarise([Shown((0.9,), "ask", False, None)])
    assert (waiting.auto_advance_rate, waiting.selection_rate) == (0.0, None)


def test_calibration_error_is_the_weighted_gap_between_said_and_true() -> None:
    assert calibration_error([(0.5, True), (0.5, False)]) == pytest.approx(0.0)
    assert calibration_error([(1.0, False)]) == 1.0
    assert calibration_error([(0.95, True), (0.95, True), (0.05, True)]) == pytest.approx((0.1 + 0.95) / 3)
    assert calibration_error([]) is None
