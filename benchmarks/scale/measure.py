"""How long searches take and what they find."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from app.domain.embeddings import Vectors
from app.domain.spaces import StoredSpace
from app.store.memory_search import GRAPH_SETTINGS, GRAPH_SETTINGS_END, by_graph, exact
from benchmarks.report import Operation, Seconds, interleaved
from benchmarks.scale.data import NOW
from benchmarks.scale.load import TENANT, Held, user_id
from benchmarks.scale.tables import GLOBAL

ARM = 20
"""Candidates of each arm, as the service asks for them when ten memories are wanted."""
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
    """The database part of a search on one connection, as the service has it: open a transaction, ask, close it."""

    connection: Any
    queries: Queries
    graphs: Mapping[int, int]
    """By rank of the users that have one."""
    space: StoredSpace | None = None
    """None: the others' table."""

    async def search(self, rank: int, query: int) -> Sequence[Any]:
        """The candidates of a user for a query."""
        assert self.space is not None
        vector, text = self.queries.vectors[query], self.queries.texts[query]
        arguments: tuple[Any, ...] = (vector.tolist(), text, TENANT, user_id(rank), NOW, None, None, [], ARM)
        await self.connection.execute(f"BEGIN; SET LOCAL app.tenant_id = '{TENANT}'")
        graph = self.graphs.get(rank)
        if graph:
            await self.connection.execute(GRAPH_SETTINGS)
            rows = await self.connection.fetch(by_graph(self.space, graph), *arguments)
            await self.connection.execute(GRAPH_SETTINGS_END)
        else:
            rows = await self.connection.fetch(exact(self.space, "serving"), *arguments)
        await self.connection.execute("COMMIT")
        return rows

    async def search_globally(self, rank: int, query: int, settings: str) -> Sequence[Any]:
        """The nearest by one index over all users and a filter."""
        arguments = (self.queries.vectors[query].tolist(), user_id(rank))
        await self.connection.execute(f"BEGIN; SET LOCAL enable_seqscan = off; {settings}")
        rows = await self.connection.fetch(GLOBAL, *arguments)
        await self.connection.execute("COMMIT")
        return rows


def nearest_of(rows: Sequence[Any]) -> list[UUID]:
    """The ids of the nearest memories among candidates, nearest first."""
    return [row["memory_id"] for row in sorted(rows, key=lambda row: -row["cosine"])[:WANTED]]


def recall(held: Held, vector: NDArray[np.float32], found: Sequence[UUID]) -> tuple[float, float]:
    """The share of a user's ten nearest memories (or of all, where there are fewer) that were found: those very
    memories, and those or ones as near to within `TIE`."""
    nearest, last = held.nearest(vector, WANTED)
    same = len(set(found) & set(nearest))
    as_near = sum(cosine >= last - TIE for cosine in held.cosines(found, vector))
    return same / len(nearest), min(as_near, len(nearest)) / len(nearest)


async def mean_recall(
    find: Callable[[int, int], Any], held: Mapping[int, Held], cases: Sequence[tuple[int, int]], queries: Queries
) -> tuple[float, float]:
    """Mean `recall` over cases (user, query); `find` gives the candidates."""
    each = [recall(held[rank], queries.vectors[query], nearest_of(await find(rank, query))) for rank, query in cases]
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
    others: Searcher,
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
            "global": lambda: others.search_globally(rank, query, ""),
            "iterative": lambda: others.search_globally(rank, query, ITERATIVE),
        }

    return await interleaved(make, rounds=rounds, warm_up=max(5, rounds // 10), random=random, progress=progress)
