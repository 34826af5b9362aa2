"""Readings become hypotheses: shown best first, with probabilities, and a decision whether to ask."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.domain.calibration import PRIOR, Calibration
from app.domain.catalogue import Intent, IntentMatch
from app.domain.hypotheses import (
    Reading,
    clarification_need,
    shown_hypotheses,
    specificity,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
MATCH = IntentMatch(Intent("deploy", (), ("platform", "tools"), ("platform",), ()), 0.8)


def reading(score: float, name: str = "x") -> Reading:
    return Reading(f"{name}?", name, "because", score, "memory", {"tools": name}, (UUID(int=1),))


def test_the_best_are_shown_in_order_with_their_evidence() -> None:
    readings = [reading(0.1, "c"), reading(2.0, "a"), reading(1.0, "b"), reading(-3.0, "d")]
    shown = shown_hypotheses(readings, PRIOR, 3)
    assert [(each.id, each.question) for each in shown] == [("h1", "a?"), ("h2", "b?"), ("h3", "c?")]
    assert shown[0].evidence == (UUID(int=1),)
    assert shown[0].slots == {"tools": "a"}
    assert shown[0].confidence > shown[1].confidence > shown[2].confidence > 0
    assert sum(each.confidence for each in shown) < 1


def test_ties_keep_the_order_of_the_readings() -> None:
    assert [each.question for each in shown_hypotheses([reading(1, "a"), reading(1, "b")], PRIOR, 2)] == ["a?", "b?"]


def test_the_calibration_decides_how_sure_the_same_scores_are() -> None:
    sure = shown_hypotheses([reading(2.0)], Calibration({"score": 2.0}, 0.0), 1)[0].confidence
    assert sure > shown_hypotheses([reading(2.0)], Calibration({"score": 0.5}, 0.0), 1)[0].confidence
    assert sure == pytest.approx(0.982, abs=0.001)


def test_nothing_to_show_is_an_empty_set() -> None:
    assert shown_hypotheses([], PRIOR, 3) == []


def test_specificity_grows_with_words_and_with_filled_slots() -> None:
    vague = specificity("do it", {}, MATCH)
    worded = specificity("deploy flask shop backend behind load balancer", {}, MATCH)
    placed = specificity("deploy flask shop backend behind load balancer", {"platform": ("AWS",)}, MATCH)
    assert 0 <= vague < worded < placed <= 1
    assert (
        specificity("one two three four alpha beta gamma delta epsilon zeta eta", {"a": ("x",), "b": ("y",)}, None) == 1
    )
    assert specificity("", {}, None) == 0


def test_need_is_highest_for_vague_inputs_with_even_chances() -> None:
    even, clear = [0.25, 0.25, 0.25], [0.9, 0.03, 0.03]
    assert clarification_need(even, 0.0) == pytest.approx(1.0)
    assert clarification_need(even, 0.5) == pytest.approx(0.5)
    assert clarification_need(clear, 0.0) < clarification_need(even, 0.0)
    assert clarification_need(even, 1.0) == 0.0
    assert clarification_need([], 0.2) == pytest.approx(0.8)
