"""From how many memories on a graph is quicker: users of several sizes, searched both ways.

They are in a database of their own, each with a graph, whatever their number. Exactly and by graph the same user is
asked the same in the same rounds, in random order.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from rich.progress import Progress

from app.domain.spaces import EXACT_LIMIT, StoredSpace
from app.store.engine import Database, Statements
from app.store.memories import Asked, MemoryStore
from app.store.memory_fields import Looked
from benchmarks.report import Figure, Operation, Seconds, interleaved, percentile, ratio
from benchmarks.scale.data import Pool, memories_of
from benchmarks.scale.databases import service_connection
from benchmarks.scale.load import build_graphs, records_of, write_users
from benchmarks.scale.measure import Queries, Searcher

WAYS = ("exact", "graph")


@dataclass(frozen=True)
class CrossoverPlan:
    """Sizes of users, how many users of each, and rounds of a question to each size both ways."""

    sizes: Sequence[int] = (1_000, 2_000, 4_000, 8_000)
    users: int = 2
    rounds: int = 300


FULL = CrossoverPlan()


class ExactStore(MemoryStore):
    """Looks at every memory, as for a user without a graph."""

    async def look(
        self, statements: Statements, asked: Asked, *, nearest: int, is_exact: bool = False
    ) -> Looked | None:
        """As the service's, exactly."""
        return await super().look(statements, asked, nearest=nearest, is_exact=True)


async def load_users(
    database: Database, admin: Any, space: StoredSpace, pool: Pool, plan: CrossoverPlan, progress: Progress
) -> None:
    """Write the users, largest first, and have the service's job make their graphs."""
    sizes = np.sort(np.repeat(np.array(plan.sizes), plan.users))[::-1]
    await admin.execute("SET session_replication_role = replica")
    await write_users(admin, sizes, np.arange(len(sizes)))
    for chunk in memories_of(pool, sizes, seed=3):
        for target, columns, records in records_of(chunk, space.memory_table):
            await admin.copy_records_to_table(target, records=records, columns=columns)
    await admin.execute("SET session_replication_role = DEFAULT")
    await admin.execute("VACUUM (ANALYZE)")
    bar = progress.add_task("building graphs of users of several sizes", total=len(sizes))
    graphs = await build_graphs(database, min(plan.sizes) - 1, lambda done, of: progress.update(bar, completed=done))
    if len(graphs) != len(sizes):
        raise SystemExit(f"{len(sizes) - len(graphs)} users of {min(plan.sizes):,} and more got no graph")
    await admin.execute("VACUUM (ANALYZE)")


async def crossover_figures(
    database: Database,
    stack: AsyncExitStack,
    queries: Queries,
    space: StoredSpace,
    plan: CrossoverPlan,
    random: Random,
    progress: Progress,
) -> list[Figure]:
    """Times both ways by size, their ratio, and the number of memories at which it is 1."""
    connection = await service_connection(database, stack)
    exact, graph = Searcher(connection, queries, space, ExactStore()), Searcher(connection, queries, space)
    for rank in range(len(plan.sizes) * plan.users):
        await graph.search(rank, 0)  # the first one learns of the graph
    took = await _times({"exact": exact, "graph": graph}, plan, random, progress)
    return figures_of(plan.sizes, took)


async def _times(
    searchers: dict[str, Searcher], plan: CrossoverPlan, random: Random, progress: Progress
) -> dict[str, Seconds]:
    largest_first = sorted(plan.sizes, reverse=True)

    def make(_: int) -> dict[str, Operation]:
        query = random.randrange(len(searchers["exact"].queries.texts))
        operations: dict[str, Operation] = {}
        for place, size in enumerate(largest_first):
            rank = place * plan.users + random.randrange(plan.users)
            for way, searcher in searchers.items():
                operations[f"{size}/{way}"] = _searching(searcher, rank, query)
        return operations

    return await interleaved(
        make, rounds=plan.rounds, warm_up=max(5, plan.rounds // 10), random=random, progress=progress
    )


def _searching(searcher: Searcher, rank: int, query: int) -> Operation:
    return lambda: searcher.search(rank, query)


def figures_of(sizes: Sequence[int], took: dict[str, Seconds]) -> list[Figure]:
    """The figures of seconds by `SIZE/exact` and `SIZE/graph`."""
    figures: list[Figure] = []
    ratios: list[float] = []
    for size in sizes:
        exact, graph = (took[f"{size}/{way}"] for way in WAYS)
        for way, seconds in zip(WAYS, (exact, graph), strict=True):
            for rank in (50, 95):
                path = f"crossover/{size}/{way}/p{rank}_ms"
                figures.append(Figure(path, 1000 * percentile(seconds, rank), "ms", note=f"a user of {size:,}"))
        value, interval = ratio(exact, graph, 50)
        ratios.append(value)
        figures.append(Figure(f"crossover/{size}/ratio", value, "×", note=f"exact to graph, p50; {interval}"))
    at, where = crossing(sizes, ratios)
    note = f"{where} a graph is quicker (p50); EXACT_LIMIT is {EXACT_LIMIT:,}"
    return [*figures, Figure("crossover/memories", at, note=note)]


def crossing(sizes: Sequence[int], ratios: Sequence[float]) -> tuple[float, str]:
    """The number of memories at which the ratio passes 1 for good, between two of the growing sizes (interpolated over
    their logarithms), and in words how that is to be read. Where it does not pass, the last size that there is on that
    side."""
    quicker = [ratio > 1 for ratio in ratios]
    if not quicker[-1]:
        return float(sizes[-1]), "not even from there on"
    last_slower = max((at for at, is_quicker in enumerate(quicker) if not is_quicker), default=None)
    if last_slower is None:
        return float(sizes[0]), "already from there on"
    (a, b), (low, high) = np.log(sizes[last_slower : last_slower + 2]), ratios[last_slower : last_slower + 2]
    return float(np.exp(a + (b - a) * (1 - low) / (high - low))), "from there on"
