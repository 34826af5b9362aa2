"""Facets move with evidence, slower the surer they are, and shape a prompt only once they are sure."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.domain.persona import (
    CENTROID_HALF_LIFE_DAYS,
    MAX_STRENGTH,
    NEUTRAL,
    Facet,
    Persona,
    Signal,
    apply_deltas,
    describe,
    heuristic_deltas,
    moved,
    moved_centroid,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
SURE = {"concise": Facet("concise", 0.9, 20), "formal": Facet("formal", 0.1, 20), "code_first": Facet("code_first")}


def deltas(comment: str) -> dict[str, float]:
    return heuristic_deltas(Signal("feedback", {}, comment=comment))


def test_a_delta_of_a_tenth_is_one_observation() -> None:
    assert moved(Facet("concise", 0.5, 2), 0.1) == Facet("concise", pytest.approx(2 / 3), 3)
    assert moved(Facet("concise", 0.5, 2), -0.1) == Facet("concise", pytest.approx(1 / 3), 3)


def test_evidence_never_moves_a_facet_the_other_way() -> None:
    """Not by the last digit of a float, either."""
    edge = Facet("concise", 0.9999999999999999, 22.190722582129432)
    assert moved(edge, 1.0).value >= edge.value
    assert moved(Facet("concise", 1 - edge.value, edge.strength), -1.0).value <= 1 - edge.value


def test_the_surer_a_facet_the_slower_it_moves_and_never_past_the_ceiling() -> None:
    facet, steps = Facet("concise"), []
    for _ in range(100):
        after = moved(facet, 0.1)
        steps.append(after.value - facet.value)
        facet = after
    assert steps == sorted(steps, reverse=True)
    assert facet.strength == MAX_STRENGTH
    assert 0.9 < facet.value <= 1.0
    for _ in range(60):
        facet = moved(facet, -0.1)
    assert facet.value < NEUTRAL


@pytest.mark.parametrize("delta", [0.0, math.nan, math.inf, -math.inf])
def test_a_delta_that_says_nothing_moves_nothing(delta: float) -> None:
    assert moved(Facet("concise"), delta) == Facet("concise")


def test_uncertainty_is_that_of_a_beta_belief_and_shrinks_with_evidence() -> None:
    assert Facet("concise", 0.5, 2).uncertainty == pytest.approx(math.sqrt(0.25 / 3))
    assert Facet("concise", 0.7, 50).uncertainty < Facet("concise", 0.7, 5).uncertainty


def test_one_remark_does_not_yet_shape_a_prompt_and_a_few_do() -> None:
    facet, remarks = Facet("concise"), 0
    while not facet.is_expressed:
        facet, remarks = moved(facet, 0.1), remarks + 1
    assert 2 <= remarks <= 6


def test_deltas_raise_the_version_once_and_tell_what_moved() -> None:
    persona = Persona("u", {"concise": Facet("concise")}, version=7)
    after, changes = apply_deltas(persona, {"concise": 0.1, "own_facet": -0.2, "formal": 0.0}, "because")
    assert after.version == 8
    assert [(c.facet, c.before, c.reason) for c in changes] == [
        ("concise", 0.5, "because"),
        ("own_facet", 0.5, "because"),
    ]
    assert after.facets["own_facet"].value < 0.5
    assert persona.facets == {"concise": Facet("concise")}
    assert apply_deltas(persona, {"concise": 0.0}, "nothing") == (persona, [])


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("Too brief!", {"concise": -0.1, "step_by_step": 0.05}),
        ("That was way too long.", {"concise": 0.1}),
        ("not too long", {"concise": -0.05}),
        ("It wasn’t too formal", {"formal": 0.05}),
        ("I don't want more detail", {"concise": 0.05}),
        ("Not bad, more detail please", {"concise": -0.1}),
        ("show me the code first", {"code_first": 0.1}),
        ("too formal and too much code", {"formal": -0.1, "code_first": -0.1}),
        ("walk me through it step by step", {"step_by_step": 0.2}),
        ("maybe briefly mention codecs", {}),
        ("great", {}),
        ("", {}),
    ],
)
def test_comments_are_understood(comment: str, expected: dict[str, float]) -> None:
    assert deltas(comment) == pytest.approx(expected)


def test_the_form_of_what_was_chosen_and_rejected_counts_a_little() -> None:
    signal = Signal(
        "selection", {}, chosen_text="A short summary", rejected_texts=("A formal report", "My barcode shop")
    )
    assert heuristic_deltas(signal) == {"concise": 0.05, "formal": -0.02}


def test_a_verdict_strengthens_or_weakens_the_facets_that_shaped_the_answer() -> None:
    liked = heuristic_deltas(Signal("feedback", SURE, rating=1.0))
    assert liked == pytest.approx({"concise": 0.03, "formal": -0.03})
    assert heuristic_deltas(Signal("feedback", SURE, rating=-1.0)) == pytest.approx({"concise": -0.03, "formal": 0.03})
    failed = heuristic_deltas(Signal("feedback", SURE, is_success=False))
    assert failed == pytest.approx({"concise": -0.015, "formal": 0.015})


def test_words_count_more_than_a_verdict_that_comes_with_them() -> None:
    assert heuristic_deltas(Signal("feedback", SURE, rating=-1.0, comment="too brief")) == pytest.approx(
        {"concise": -0.1, "step_by_step": 0.05}
    )


def test_only_expressed_facets_are_described_surest_first() -> None:
    facets = {**SURE, "likes_emoji": Facet("likes_emoji", 0.99, 50)}
    assert describe(facets) == ["Lean towards: likes emoji.", "Answer briefly.", "Use a relaxed, informal tone."]
    assert describe({}) == []


def test_the_centroid_is_the_mean_of_what_was_said_and_old_words_fade() -> None:
    east, north = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    first, weight = moved_centroid(None, 0.0, None, east, NOW)
    assert (first.tolist(), weight) == ([1, 0], 1.0)
    soon, weight = moved_centroid(first, 1.0, NOW, north, NOW)
    assert (soon.tolist(), weight) == ([0.5, 0.5], 2.0)
    later, weight = moved_centroid(first, 1.0, NOW, north, NOW + timedelta(days=CENTROID_HALF_LIFE_DAYS))
    assert (later.tolist(), weight) == (pytest.approx([1 / 3, 2 / 3]), 1.5)


def test_a_centroid_of_another_space_is_begun_anew() -> None:
    other, weight = moved_centroid(np.ones(3, np.float32), 9.0, NOW, np.ones(2, np.float32), NOW)
    assert (other.shape, weight) == ((2,), 1.0)
