"""How long searches take and what they find."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from app.domain.embeddings import Vectors
from app.domain.ranking import Candidate
from app.domain.spaces import StoredSpace
from app.services.retrieval import POOL, Retrieval
from app.store.engine import Statements
from app.store.memories import Asked, MemoryStore, SearchFilter
from benchmarks.report import Operation, Seconds, interleaved
from benchmarks.scale.data import NOW
from benchmarks.scale.load import TENANT, Held, user_id
from benchmarks.scale.tables import GLOBAL

WANTED = 10
TIE = 1e-4
"""Cosines closer than this are the same: it is what half precision keeps of them."""
ITERATIVE = "SET LOCAL hnsw.iterative_scan = relaxed_order"


@dataclass(frozen=True)
class Queries:
    """Texts to search with and their vectors (texts, d)."""

    texts: Sequence[str]
    vectors: Vectors


@dataclass(frozen=True)
class Searcher:
    """The database part of a search on one connection, as the service has it: open a transaction, ask what is known of
    the memories, pick some, close it. What the service computes between the two statements is in it."""

    connection: Any
    queries: Queries
    space: StoredSpace
    memories: MemoryStore = field(default_factory=MemoryStore)

    async def search(self, rank: int, query: int) -> Sequence[Candidate]:
        """The candidates of a user for a query."""
        async with self._transaction() as statements:
            found = await Retrieval(self.memories).relevant(statements, self._asked(rank, query), WANTED)
        return found or []

    async def nearest(self, rank: int, query: int) -> list[UUID]:
        """The ids of the memories that the search takes for the nearest by their vectors, nearest first."""
        asked = self._asked(rank, query)
        async with self._transaction() as statements:
            looked = await self.memories.look(statements, asked, nearest=POOL)
            assert looked is not None
            places = np.argsort(-np.nan_to_num(looked.field.cosines, nan=-1.0), kind="stable")[:POOL].tolist()
            found = await self.memories.pick(statements, asked, looked, [looked.id_at(place) for place in places])
        found.sort(key=lambda each: -each.cosine)
        return [each.memory.memory_id for each in found[:WANTED]]

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Statements]:
        statements = Statements(self.connection)
        await statements.execute(f"BEGIN; SET LOCAL app.tenant_id = '{TENANT}'")
        yield statements
        await statements.execute("COMMIT")

    def _asked(self, rank: int, query: int) -> Asked:
        vector, text = self.queries.vectors[query], self.queries.texts[query]
        return Asked(TENANT, user_id(rank), text, vector, self.space, SearchFilter(NOW))


@dataclass(frozen=True)
class Globally:
    """The same in a table as others have it."""

    connection: Any
    queries: Queries

    async def search(self, rank: int, query: int, settings: str) -> Sequence[Any]:
        """The nearest by one index over all users and a filter."""
        arguments = (self.queries.vectors[query].tolist(), user_id(rank))
        await self.connection.execute(f"BEGIN; SET LOCAL enable_seqscan = off; {settings}")
        rows = await self.connection.fetch(GLOBAL, *arguments)
        await self.connection.execute("COMMIT")
        return rows

    async def nearest(self, rank: int, query: int, settings: str) -> list[UUID]:
        """The ids of what it finds, nearest first."""
        rows = await self.search(rank, query, settings)
        return [row["memory_id"] for row in sorted(rows, key=lambda row: -row["cosine"])[:WANTED]]


Find = Callable[[int, int], Awaitable[list[UUID]]]
"""(user, query) to the ids of the nearest."""


def recall(held: Held, vector: NDArray[np.float32], found: Sequence[UUID]) -> tuple[float, float]:
    """The share of a user's ten nearest memories (or of all, where there are fewer) that were found: those very
    memories, and those or ones as near to within `TIE`."""
    nearest, last = held.nearest(vector, WANTED)
    same = len(set(found) & set(nearest))
    as_near = sum(cosine >= last - TIE for cosine in held.cosines(found, vector))
    return same / len(nearest), min(as_near, len(nearest)) / len(nearest)


async def mean_recall(
    find: Find, held: Mapping[int, Held], cases: Sequence[tuple[int, int]], queries: Queries
) -> tuple[float, float]:
    """Mean `recall` over cases (user, query)."""
    each = [recall(held[rank], queries.vectors[query], await find(rank, query)) for rank, query in cases]
    same, as_near = np.array(each).mean(axis=0)
    return float(same), float(as_near)


async def time_searches(
    searchers: Mapping[str, Searcher],
    draws: Mapping[str, Callable[[], int]],
    *,
    rounds: int,
    random: Random,
    progress: Progress,
) -> dict[str, Seconds]:
    """Searches of the same user with the same query in both databases ("small", "large"), and in the large one of a
    user from each of the other draws."""

    def make(_: int) -> dict[str, Operation]:
        query = random.randrange(len(searchers["large"].queries.texts))
        users = {name: draw() for name, draw in draws.items()}

        def search(database: str, rank: int) -> Operation:
            return lambda: searchers[database].search(rank, query)

        both = {database: search(database, users["both"]) for database in ("small", "large")}
        return both | {name: search("large", rank) for name, rank in users.items() if name != "both"}

    return await interleaved(make, rounds=rounds, warm_up=max(20, rounds // 10), random=random, progress=progress)


async def time_globally(
    ours: Searcher,
    others: Globally,
    draw: Callable[[], int],
    *,
    rounds: int,
    random: Random,
    progress: Progress,
) -> dict[str, Seconds]:
    """The same searches by us, by a global index as it comes, and by one that goes on until it has enough."""

    def make(_: int) -> dict[str, Operation]:
        query, rank = random.randrange(len(ours.queries.texts)), draw()
        return {
            "ours": lambda: ours.search(rank, query),
            "global": lambda: others.search(rank, query, ""),
            "iterative": lambda: others.search(rank, query, ITERATIVE),
        }

    return await interleaved(make, rounds=rounds, warm_up=max(5, rounds // 10), random=random, progress=progress)
