"""The figures about decisions, against numbers worked out by hand."""

import pytest

from app.domain.telemetry import Shown, calibration_error, summarise


def test_rates_over_sets_and_over_answers() -> None:
    shown = [
        Shown((0.6, 0.3), False, True, 0),
        Shown((0.5, 0.4), False, True, 1),
        Shown((0.2,), False, True, None),
        Shown((0.9,), True, False, None),
    ]
    summary = summarise(shown)
    assert (summary.sets, summary.answered) == (4, 3)
    assert summary.auto_advance_rate == 0.25
    assert summary.selection_rate == pytest.approx(2 / 3)
    assert summary.mrr == pytest.approx((1 + 0.5 + 0) / 3)


def test_nothing_observed_is_unknown_and_not_zero() -> None:
    assert summarise([]) == summarise([])
    empty = summarise([])
    assert (empty.auto_advance_rate, empty.selection_rate, empty.mrr, empty.calibration_error) == (None,) * 4
    waiting = summarise([Shown((0.9,), False, False, None)])
    assert (waiting.auto_advance_rate, waiting.selection_rate) == (0.0, None)


def test_calibration_error_is_the_weighted_gap_between_said_and_true() -> None:
    assert calibration_error([(0.5, True), (0.5, False)]) == pytest.approx(0.0)
    assert calibration_error([(1.0, False)]) == 1.0
    assert calibration_error([(0.95, True), (0.95, True), (0.05, True)]) == pytest.approx((0.1 + 0.95) / 3)
    assert calibration_error([]) is None
