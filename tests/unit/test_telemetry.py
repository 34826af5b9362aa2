"""The figures about decisions, against numbers worked out by hand."""

import pytest

from app.domain.decisions import Stakes
from app.domain.telemetry import Bin, Shown, calibration_error, reliability, summarise


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
    assert reliability([(0.12, False), (0.18, True), (1.0, True)]) == [
        Bin(0.1, 0.2, 2, pytest.approx(0.15), 0.5),
        Bin(0.9, 1.0, 1, 1.0, 1.0),
    ]


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
