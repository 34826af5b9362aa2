"""What becomes one when memories are compared with one another, and what ends."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from app.domain.consolidation import consolidate
from app.domain.memory import Memory, MemoryType, believed

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def memory(
    number: int, content: str, days_ago: float, kind: MemoryType = MemoryType.PROFILE, **others: object
) -> Memory:
    at = NOW - timedelta(days=days_ago)
    return Memory(UUID(int=number), "u", kind, content, 0.8, (), "api", at, at, at, **others)  # type: ignore[arg-type]


def vectors(*rows: list[float]) -> np.ndarray:
    matrix = np.array(rows, dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_what_is_said_twice_becomes_one() -> None:
    """The first stays, surer, told as often as both."""
    first, again = (
        memory(1, "I like tea", 90, MemoryType.PREFERENCE),
        memory(2, "I like tea.", 5, MemoryType.PREFERENCE),
    )
    found = consolidate([again, first], vectors([1, 0], [1, 0]), NOW)
    ((repeat, kept),) = found.repeats
    assert (repeat, kept.memory_id, kept.proof_count) == (again, first.memory_id, 2)
    assert kept.confidence > first.confidence
    assert list(found.merged) == [kept]
    assert not found.ended


def test_what_a_newer_one_contradicts_ends_where_that_begins() -> None:
    """Through a chain of three: each ends where the next begins."""
    homes = [memory(1, "I live in Paris", 90), memory(2, "I live in Lyon", 60), memory(3, "I moved to Oslo", 5)]
    found = consolidate(homes, vectors([1, 0.1], [1, 0.2], [1, 0.3]), NOW)
    assert [(each.memory_id.int, each.valid_to, each.superseded_by) for each in found.ended] == [
        (1, homes[1].valid_from, homes[1].memory_id),
        (2, homes[2].valid_from, homes[2].memory_id),
    ]


def test_what_was_told_again_since_goes_on() -> None:
    """What lies between two moments of which the same was told ends at the second."""
    paris = memory(1, "I live in Paris", 90, told_at=(NOW - timedelta(days=30),))
    found = consolidate([paris, memory(2, "I live in Lyon", 60)], vectors([1, 0.1], [1, 0.2]), NOW)
    assert [(each.memory_id.int, each.valid_to, each.superseded_by) for each in found.ended] == [
        (2, NOW - timedelta(days=30), paris.memory_id)
    ]


def test_what_happened_and_what_is_about_something_else_is_left_alone() -> None:
    held = [
        memory(1, "I like tea", 90, MemoryType.PREFERENCE),
        memory(2, "I like tea", 5, MemoryType.HISTORY),
        memory(3, "I like tea", 5, MemoryType.HISTORY),
        memory(4, "I like hiking", 5, MemoryType.PREFERENCE),
    ]
    assert consolidate(held, vectors([1, 0], [1, 0], [1, 0], [0, 1]), NOW).is_nothing
    assert consolidate([], np.zeros((0, 1), np.float32), NOW).is_nothing


def test_silence_lowers_what_is_believed_by_type() -> None:
    """By at most a half; a goal sooner than who somebody is; what was told more often later."""
    goal, profile = memory(1, "x", 60, MemoryType.GOAL), memory(2, "x", 60)
    assert believed(goal, NOW) == pytest.approx(0.8 * (0.5 + 0.5 * 0.25))
    assert believed(goal, NOW) < believed(profile, NOW) < 0.8
    assert believed(goal, goal.valid_from) == 0.8
    assert believed(memory(3, "x", 9000, MemoryType.GOAL), NOW) == pytest.approx(0.4, abs=1e-3)
    assert believed(memory(4, "x", 60, MemoryType.GOAL, proof_count=2), NOW) > believed(goal, NOW)
