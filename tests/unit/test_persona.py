"""What is believed of facets: it moves with evidence, fades, and shapes a prompt only once it is sure."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from app.domain.persona import (
    CENTROID_HALF_LIFE_DAYS,
    INTERVAL_Z,
    NEUTRAL_VARIANCE,
    TOLD_VARIANCE,
    Belief,
    Facet,
    describe,
    faded,
    moved_centroid,
    told,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
SURE = {
    "concise": Facet("concise", 0.9, 0.005, 20),
    "formal": Facet("formal", 0.1, 0.005, 20),
    "code_first": Facet("code_first"),
}


def test_value_and_interval_stay_in_their_range() -> None:
    """A mean may lie outside a little, as a normal's does."""
    high = Facet("concise", 1.05, 0.01, 9)
    assert (high.value, high.interval) == (1.0, (pytest.approx(1.05 - 0.128), 1.0))
    low = Facet("concise", -0.3, 0.01, 9)
    assert (low.value, low.interval) == (0.0, (0.0, 0.0))


def test_only_one_s_own_evidence_expresses_a_facet() -> None:
    """Not what other users like, however sure that is."""
    assert not Facet("concise", 0.9, 0.001).is_expressed
    assert Facet("concise", 0.9, 0.001, 1).is_expressed
    assert told(Facet("concise"), 0.9, NOW, is_pinned=False).is_expressed
    assert not Facet("concise", 0.6, 0.04, 1).is_expressed


def test_an_interval_that_touches_neutral_expresses_nothing() -> None:
    edge = 0.5 + INTERVAL_Z * 0.1
    assert not Facet("concise", edge - 1e-9, 0.01, 3).is_expressed
    assert Facet("concise", edge + 1e-9, 0.01, 3).is_expressed


def test_evidence_fades_by_half_every_half_life() -> None:
    """Half the precision beyond what there is without any, and so half of what it points to."""
    facet = Facet("concise", 0.8, 1 / 30, 3, updated_at=NOW)
    after = faded({"concise": facet}, NOW + timedelta(days=90), 90.0)["concise"]
    assert after.variance == pytest.approx(1 / (12 + 0.5 * 18))
    assert after.mean == pytest.approx((12 * 0.5 + 0.5 * (30 * 0.8 - 12 * 0.5)) / 21)
    years = faded({"concise": facet}, NOW + timedelta(days=9000), 90.0)["concise"]
    assert (years.mean, years.variance) == (pytest.approx(0.5), pytest.approx(NEUTRAL_VARIANCE))
    assert faded({"concise": facet}, NOW + timedelta(hours=23), 90.0)["concise"] == facet


def test_it_goes_back_to_what_there_is_without_evidence() -> None:
    facet = Facet("concise", 0.9, 0.01, 5, updated_at=NOW, start=Belief(0.7, 0.04))
    years = faded({"concise": facet}, NOW + timedelta(days=9000), 90.0)["concise"]
    assert (years.mean, years.variance) == (pytest.approx(0.7), pytest.approx(0.04))


def test_what_was_told_or_pinned_does_not_fade() -> None:
    facets = {
        "told": told(Facet("told"), 0.9, NOW, is_pinned=False),
        "pinned": told(Facet("pinned", 0.4, 0.01, 7), 0.3, NOW, is_pinned=True),
    }
    later = faded(facets, NOW + timedelta(days=9000), 90.0)
    assert later["told"].value == pytest.approx(0.9)
    assert later["told"].uncertainty == pytest.approx(math.sqrt(TOLD_VARIANCE))
    assert later["pinned"] == facets["pinned"]
    assert facets["pinned"].evidence == 0


def test_only_expressed_facets_are_described_surest_first() -> None:
    facets = {**SURE, "likes_emoji": Facet("likes_emoji", 0.99, 0.002, 50)}
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
