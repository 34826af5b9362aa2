"""The order of memories: what the score is made of, what ties do, what is said twice."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from app.domain.errors import InvalidInput
from app.domain.memory import HALF_LIFE_DAYS, Memory, MemoryType, believed
from app.domain.ranking import (
    LEXICAL_WEIGHT,
    REPEATED,
    Candidate,
    Ranked,
    Weights,
    apply_rerank,
    fused_similarity,
    rank,
    recency,
    within,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def candidate(
    number: int,
    content: str = "",
    *,
    cosine: float = 0.5,
    days: float = 0,
    confidence: float = 0.5,
    kind: MemoryType = MemoryType.HISTORY,
    axis: int | None = None,
) -> Candidate:
    at = NOW - days * DAY
    memory = Memory(
        UUID(int=number), "u", kind, content or f"fact {number}", confidence, (), "api", at, at, valid_from=at
    )
    vector = np.zeros(64, dtype=np.float32)
    vector[number if axis is None else axis] = 1.0
    return Candidate(memory, cosine, 0.0, vector)


def numbers(ranked: list[Ranked]) -> list[int]:
    return [each.memory.memory_id.int for each in ranked]


def test_the_score_is_the_documented_sum() -> None:
    one = candidate(1, cosine=0.4, days=HALF_LIFE_DAYS[MemoryType.HISTORY], confidence=0.9)
    [ranked] = rank([one], Weights(), NOW, 5)
    assert ranked.score == pytest.approx(0.6 * 0.4 + 0.25 * 0.5 + 0.15 * believed(one.memory, NOW))
    assert (ranked.similarity, ranked.recency, ranked.confidence) == pytest.approx((0.4, 0.5, 0.9 * 0.75))


def test_a_budget_leaves_out_whole_what_does_not_fit_and_takes_what_does() -> None:
    """In the order of rank; exactly full is not too full."""
    contents = ["a b c", "one that is much too long", "d e", "f", "g"]
    found = [candidate(number, content, cosine=1 - number / 10) for number, content in enumerate(contents)]
    ranked = rank(found, Weights(), NOW, 5)

    def told(budget: int) -> list[str]:
        return [each.memory.content for each in within(ranked, budget, lambda text: len(text.split()))]

    assert told(6) == ["a b c", "d e", "f"]
    assert told(5) == ["a b c", "d e"]
    assert told(2) == ["d e"]
    assert told(0) == []
    assert told(13) == contents


@pytest.mark.parametrize("kind", list(MemoryType))
def test_recency_halves_with_every_half_life_of_its_type(kind: MemoryType) -> None:
    for halvings in range(4):
        aged = candidate(1, days=halvings * HALF_LIFE_DAYS[kind], kind=kind).memory
        assert recency(aged, NOW) == pytest.approx(0.5**halvings)


def test_what_begins_in_the_future_is_as_fresh_as_can_be() -> None:
    assert recency(candidate(1, days=-100).memory, NOW) == 1.0


def test_weights_count_by_their_proportions() -> None:
    found = [candidate(1, cosine=0.9, days=300), candidate(2, cosine=0.2)]
    default = rank(found, Weights(), NOW, 5)
    assert [each.score for each in rank(found, Weights(60, 25, 15), NOW, 5)] == pytest.approx(
        [each.score for each in default]
    )
    assert numbers(rank(found, Weights(1, 0, 0), NOW, 5)) == [1, 2]
    assert numbers(rank(found, Weights(0, 1, 0), NOW, 5)) == [2, 1]


@pytest.mark.parametrize("weights", [(0, 0, 0), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Weights(*weights).scaled()
    assert caught.value.field == "weights"


def test_ties_go_to_the_newer_then_to_the_id_whatever_the_order_of_arrival() -> None:
    found = [candidate(3, days=1), candidate(1, days=2), candidate(2, days=1), candidate(9)]
    flat = Weights(1, 0, 0)
    assert numbers(rank(found, flat, NOW, 5)) == numbers(rank(found[::-1], flat, NOW, 5)) == [9, 2, 3, 1]


def test_a_near_duplicate_of_a_better_one_is_left_out_and_frees_its_place() -> None:
    found = [
        candidate(1, "I like coffee", cosine=0.9, axis=0),
        candidate(2, "I like coffee a lot", cosine=0.8, axis=0),
        candidate(3, "I like 2 coffees", cosine=0.7, axis=0),
        candidate(4, "I like tea", cosine=0.6),
    ]
    assert numbers(rank(found, Weights(), NOW, 3)) == [1, 3, 4]


def test_what_says_something_else_comes_before_more_of_the_same() -> None:
    """Two that are near to each other, and one that is a little less likely and far from both."""
    found = [
        replace(candidate(1, "Rowed on the lake", axis=0), log_odds=2.0),
        replace(candidate(2, "The lake was calm that day", axis=0), log_odds=1.9),
        replace(candidate(3, "Anna steered", axis=1), log_odds=1.5),
    ]
    ranked = rank(found, Weights(), NOW, 3)

    assert numbers(ranked) == [1, 3, 2]
    assert [each.redundancy for each in ranked] == pytest.approx([0.0, 0.0, 1.0])
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert numbers(rank([*found[:1], replace(found[1], log_odds=3.1), *found[2:]], Weights(), NOW, 1)) == [2]
    far = replace(found[2], log_odds=2.0 - 1.1 * REPEATED)
    assert numbers(rank([*found[:2], far], Weights(), NOW, 3)) == [1, 2, 3], "the penalty is bounded"


def test_words_lift_a_similarity_and_never_lower_it() -> None:
    assert fused_similarity(0.4, 0.0) == pytest.approx(0.4)
    assert fused_similarity(0.0, 1.0) == pytest.approx(LEXICAL_WEIGHT)
    assert fused_similarity(-0.3, 0.0) == 0.0
    assert fused_similarity(1.0, 1.0) == 1.0
    assert fused_similarity(0.4, 0.5) > 0.4


def test_a_reranker_reorders_the_head_and_leaves_the_tail() -> None:
    ranked = rank([candidate(n, cosine=1 - n / 10) for n in range(1, 6)], Weights(1, 0, 0), NOW, 5)
    again = apply_rerank(ranked, [0.0, 0.1, 1.0])
    assert numbers(again) == [3, 1, 2, 4, 5]
    assert [each.rerank for each in again] == [1.0, 0.0, 0.1, None, None]
    assert again[0].score == pytest.approx(0.5 * 0.7 + 0.5 * 1.0)


def test_nothing_found_is_nothing_ranked() -> None:
    assert rank([], Weights(), NOW, 5) == []
    assert rank([candidate(1)], Weights(), NOW, 0) == []
    assert apply_rerank([], []) == []
