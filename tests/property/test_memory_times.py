"""What was true when does not depend on the order in which it was told, nor on how it was told together."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from uuid import UUID

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.memory import Draft, Memory, MemoryType, Neighbour
from app.services.memory_plan import plan_of

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CITIES = ("Paris", "Lyon", "Oslo", "Rome")
VECTORS = np.array([[0.8, *(0.6 if at == city else 0.0 for at in range(4))] for city in range(4)], np.float32)
"""Of the cities: two of them are at 0.64, far enough to be different and near enough to be compared."""


def draft(city: int, days: int) -> Draft:
    return Draft(MemoryType.PROFILE, f"I live in {CITIES[city]}", valid_from=NOW - timedelta(days=days))


class Held:
    """What is remembered, as the store would have it."""

    def __init__(self) -> None:
        self.memories: dict[UUID, Memory] = {}

    def add(self, told: Sequence[tuple[int, int]]) -> None:
        """Remember in one batch that somebody lived in a city so many days ago."""
        drafts = [draft(*each) for each in told]
        vectors = VECTORS[[city for city, _ in told]]
        near = [
            [
                Neighbour(memory, float(vector @ VECTORS[CITIES.index(memory.content.split()[-1])]))
                for memory in self.memories.values()
            ]
            for vector in vectors
        ]
        live = [[each for each in one if is_live(each.memory)] for one in near]
        over = {at: [each for each in one if not is_live(each.memory)] for at, one in enumerate(near)}
        plan = plan_of("u", drafts, vectors, live, over, [None] * len(drafts), NOW)
        self.memories |= {memory_id: memory for memory_id, (memory, _) in plan.new.items()}
        self.memories |= {memory_id: memory for memory_id, (_, memory) in plan.held.items()}
        self.memories |= {memory_id: part for memory_id, (part, _) in plan.parts.items()}

    def at(self, days: float) -> list[str]:
        """Where they lived so many days ago."""
        moment = NOW - timedelta(days=days)
        return [memory.content.split()[-1] for memory in self.memories.values() if memory.is_valid_at(moment)]


def is_live(memory: Memory) -> bool:
    return memory.superseded_by is None and (memory.valid_to is None or memory.valid_to > NOW)


def expected(told: Sequence[tuple[int, int]], days: float) -> list[str]:
    """What was told last of that moment or before."""
    before = [each for each in told if each[1] >= days]
    return [CITIES[min(before, key=lambda each: each[1])[0]]] if before else []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_each_moment_has_what_was_told_of_it_last(data: st.DataObject) -> None:
    """In any order, in any batches: a life with repeats, away and back."""
    days = data.draw(st.lists(st.integers(1, 12), unique=True, min_size=1, max_size=8))
    told = [(data.draw(st.integers(0, 2)), each) for each in days]
    order = data.draw(st.permutations(told))
    held = Held()
    while order:
        size = data.draw(st.integers(1, len(order)))
        held.add(order[:size])
        order = order[size:]
    for day in range(14):
        assert held.at(day - 0.5) == expected(told, day - 0.5), day
    live = [memory for memory in held.memories.values() if is_live(memory)]
    assert [memory.content.split()[-1] for memory in live] == expected(told, 0)


def test_away_and_back_in_every_order() -> None:
    """Paris, Lyon, Paris: the first time is not lost in the second, in whatever order they come."""
    told = [(0, 9), (1, 6), (0, 3)]
    for order in permutations(told):
        for size in (1, 2, 3):
            held = Held()
            for start in range(0, 3, size):
                held.add(order[start : start + size])
            assert [held.at(days) for days in (10, 7, 4, 0)] == [[], ["Paris"], ["Lyon"], ["Paris"]], order


def test_what_was_told_all_along_is_one_memory() -> None:
    """Repeats with nothing in between are one memory from the first moment on, told as often as it was."""
    for order in permutations([(0, 9), (0, 6), (0, 3)]):
        held = Held()
        for each in order:
            held.add([each])
        (memory,) = held.memories.values()
        assert (memory.valid_from, memory.proof_count) == (NOW - timedelta(days=9), 3)
        assert memory.told_at == (NOW - timedelta(days=6), NOW - timedelta(days=3))
