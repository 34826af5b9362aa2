"""Ranking is a total order that depends on what the memories are and not on how they arrive."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.memory import Memory, MemoryType
from app.domain.ranking import Candidate, Weights, fused_similarity, rank, recency, score
from app.domain.statements import NEAR_DUPLICATE_COSINE
from tests.statements import is_duplicate

NOW = datetime(2026, 1, 10, tzinfo=UTC)
QUICK = settings(max_examples=50, deadline=None)
SHARES = st.floats(0, 1)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    found: list[Candidate] = []
    for number in range(draw(st.integers(0, 12))):
        vector = np.array(draw(st.sampled_from([(1, 0), (0, 1), (0.8, 0.6), (-1, 0)])), np.float32)
        at = NOW - timedelta(days=draw(st.integers(-5, 900)))
        content = draw(st.sampled_from(["I like tea", "I like tea.", "I like 2 teas", "Bob likes tea", "no tea"]))
        kind = draw(st.sampled_from(MemoryType))
        memory = Memory(UUID(int=number), "u", kind, content, draw(SHARES), (), "api", at, at, at)
        found.append(Candidate(memory, draw(st.floats(-1, 1)), draw(SHARES), vector))
    return found


WEIGHTS = st.builds(Weights, SHARES, SHARES, SHARES).filter(lambda each: each.similarity + each.recency > 0.01)


@QUICK
@given(candidates(), WEIGHTS, st.integers(0, 12), st.randoms())
def test_the_order_is_by_score_and_the_same_for_any_arrival(
    found: list[Candidate], weights: Weights, limit: int, random: object
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ranked = rank(found, weights, NOW, limit)
    assert ranked == rank(shuffled, weights, NOW, limit)
    assert [item.score for item in ranked] == sorted((item.score for item in ranked), reverse=True)
    assert len(ranked) <= limit
    assert all(0 <= item.score <= 1 + 1e-9 for item in ranked)


@QUICK
@given(candidates(), WEIGHTS)
def test_only_what_a_better_one_says_already_is_left_out(found: list[Candidate], weights: Weights) -> None:
    kept = {item.memory.memory_id for item in rank(found, weights, NOW, 99)}
    best = [each for each in found if each.memory.memory_id in kept]

    def says(one: Candidate, other: Candidate) -> bool:
        cosine = float(one.vector @ other.vector)
        return cosine >= NEAR_DUPLICATE_COSINE and is_duplicate(one.memory.content, other.memory.content, cosine)

    assert not any(says(one, other) for one in best for other in best if one is not other)
    for each in found:
        if each.memory.memory_id not in kept:
            scaled = weights.scaled()
            mine = score(each, scaled, NOW).score
            assert any(says(each, other) and score(other, scaled, NOW).score >= mine for other in best)


@QUICK
@given(WEIGHTS)
def test_scaled_weights_sum_to_one(weights: Weights) -> None:
    scaled = weights.scaled()
    assert scaled.similarity + scaled.recency + scaled.confidence == pytest.approx(1)


@QUICK
@given(st.floats(-1, 1), st.floats(-1, 1), SHARES, SHARES)
def test_similarity_rises_with_both_arms_and_stays_within_bounds(a: float, b: float, x: float, y: float) -> None:
    low, high = fused_similarity(min(a, b), min(x, y)), fused_similarity(max(a, b), max(x, y))
    assert 0 <= low <= high + 1e-12
    assert high <= 1
    assert fused_similarity(a, x) >= a - 1e-12


@QUICK
@given(st.sampled_from(MemoryType), st.integers(0, 5000), st.integers(0, 5000))
def test_recency_only_ever_falls(kind: MemoryType, days: int, more: int) -> None:
    def at(age: int) -> float:
        moment = NOW - timedelta(days=age)
        return recency(Memory(UUID(int=1), "u", kind, "x", 1, (), "api", moment, moment, moment), NOW)

    assert 1 >= at(days) >= at(days + more) >= 0
