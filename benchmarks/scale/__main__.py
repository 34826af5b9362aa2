"""Search with a million memories: how much slower than with ten thousand, and whether it still finds them.

    python -m benchmarks.scale [--data DIR] [--memories 1000000] [--others-share 1] [--json FILE] [--results FILE]
                               [--quick]

The data: ten times as many memories as users; one user holds a twentieth of all, the others share the rest by a
Zipf-Mandelbrot law. A memory is a real sentence (LoCoMo's turns and ClariQ's questions with --data, else templates)
with words, names and numbers changed; its vector is the sentence's, turned by an angle and into a direction as such
changes turn real vectors (`data.py`: both are fitted to 1,000 changed sentences that are really embedded). Memories
are written in mixed order, as users of one service write them. One in twenty no longer holds.

Measured is the database part of a search: opening a transaction, one statement or two and what is computed between
them, closing it, on one connection. The same users with the same memories are searched with the same questions in two
databases of one server, of which one holds those users alone (10,000 memories) and one holds everybody, in the same
rounds and in random order. Recall is to brute force over float32, of what a search takes for the nearest by vector.
Tables, statements and the job that makes the graphs are the service's own. Beside it, a table as others have it: one
HNSW index over all users' vectors with pgvector's defaults, and a filter on the user; and the same with its iterative
scan. It holds everybody; --others-share 5 leaves four of five users out where memory or time is short.

Then users of 1,000, 2,000, 4,000 and 8,000 memories, in a database of their own, are searched exactly and by graph
(`crossover.py`): from where a graph is quicker is what EXACT_LIMIT has to be.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.spaces import EXACT_LIMIT
from app.logs import configure_logs
from app.store.embedded import start_embedded
from benchmarks import sentences
from benchmarks.report import (
    Figure,
    Target,
    arguments,
    describe_machine,
    new_progress,
    publish,
    ratio,
)
from benchmarks.scale.crossover import FULL, CrossoverPlan, crossover_figures, load_users
from benchmarks.scale.data import Numbers, user_sizes
from benchmarks.scale.databases import connect, make_space, open_database, open_others, service_connection
from benchmarks.scale.figures import disk_figures, milliseconds
from benchmarks.scale.load import (
    Held,
    build_global,
    build_graphs,
    embed,
    load,
    make_pool,
    room_for_global,
)
from benchmarks.scale.measure import (
    ITERATIVE,
    Find,
    Globally,
    Queries,
    Searcher,
    mean_recall,
    time_globally,
    time_searches,
)

SMALL = 10_000
"""Memories of the small database, about."""
HEAVY = 0
"""Rank of the user who holds the most."""
BYTES_PER_MEMORY = 5_200
"""Disk that a run needs at its fullest, without the others' table."""
BYTES_PER_OTHERS = 4_500
"""Disk of a memory in that one, with its index."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where PostgreSQL's processes share what they build


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    memories: int = 1_000_000
    smaller: int = 100
    """The small database has one in so many of the users."""
    limit: int = EXACT_LIMIT
    """Users with more than this are large: searched by graph."""
    pool: int = 3_000
    sampled: int = 1_000
    """Sentences that are changed and embedded to fit what a change does."""
    queries: int = 500
    rounds: int = 1_000
    global_rounds: int = 200
    exact_users: int = 300
    heavy_queries: int = 300
    others_share: int = 1
    """The others' table holds one in so many of the users."""
    crossover: CrossoverPlan = FULL


QUICK = Plan(10_000, 10, 300, 400, 300, 60, 60, 20, 30, 40, crossover=CrossoverPlan((100, 200, 400, 800), 1, 20))


def main() -> None:
    """Run the benchmark."""
    own, rest = own_arguments()
    options = arguments(__doc__, rest)
    plan = QUICK if options.quick else Plan(own.memories, own.memories // SMALL, others_share=own.others_share)
    machine = describe_machine(("asyncpg", "onnxruntime", "uvloop", "numpy"))
    random = Random(1)
    said = (
        sentences.from_data(options.data, random, plan.pool)
        if options.data
        else sentences.from_templates(random, plan.pool)
    )
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    try:
        check_room(folder, plan)
        with new_progress(Console(stderr=True)) as progress:
            figures = uvloop.run(run(plan, said, folder, progress, machine))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    source = "LoCoMo and ClariQ" if options.data else "templates"
    note = (
        f"Sentences from {source}; {plan.rounds} rounds; a ratio's note is its 95 % interval; milliseconds are of the "
        f"database part alone.{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "Scale", figures, machine, note)


def own_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this benchmark alone, and the arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--memories", type=int, default=Plan.memories)
    parser.add_argument("--others-share", type=int, default=Plan.others_share)
    options, rest = parser.parse_known_args(argv)
    if options.memories < 2 * SMALL:
        raise SystemExit(f"--memories {options.memories}: at least {2 * SMALL} are needed")
    if options.others_share < 1:
        raise SystemExit(f"--others-share {options.others_share}: one in how many users; at least 1")
    return options, rest


def check_room(folder: Path, plan: Plan) -> None:
    """Raise SystemExit when disk or memory have too little room for the data."""
    others = plan.memories // plan.others_share
    needed, free = plan.memories * BYTES_PER_MEMORY + others * BYTES_PER_OTHERS + 2**30, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 2**30:.1f} GiB free and {needed / 2**30:.1f} are needed: "
            "free some, set TMPDIR to another disk, or ask for fewer --memories"
        )
    held, shared = room_for_global(others), shutil.disk_usage(SHARED_MEMORY).free
    if min(shared, psutil.virtual_memory().available) < held + 2**30:
        raise SystemExit(
            f"the others' index is built in {held / 2**30:.1f} GiB of memory, and {SHARED_MEMORY} or the machine has "
            "too little of it: ask for a larger --others-share (5 leaves four of five users out of it)"
        )


async def run(
    plan: Plan, said: sentences.Sentences, folder: Path, progress: Progress, machine: dict[str, str]
) -> list[Figure]:
    """Everything, in order: make and load the data, build the indexes, measure."""
    configure_logs(folder / "logs", "WARNING", to_stdout=False)
    random, dice = Random(2), np.random.default_rng(2)
    embedder = OnnxEmbedder.load(folder)
    texts = random.sample(list(said.queries), min(plan.queries, len(said.queries)))
    pool = await make_pool(said, embedder, plan.sampled, random)
    queries = Queries(texts, await embed(embedder, texts))
    await embedder.aclose()
    sizes = user_sizes(plan.memories, plan.memories // 10, plan.memories // 20)
    small = np.arange(plan.smaller // 2, len(sizes), plan.smaller)
    small = small[sizes[small] <= plan.limit]
    users = Users(sizes, small, plan, random)
    sampled = [users.anyone() for _ in range(plan.exact_users // 2)] + [
        users.by_memories() for _ in range(plan.exact_users // 2)
    ]
    exact = [rank for rank in sampled if not users.is_large(rank)]
    watched = np.unique([HEAVY, *exact])
    server = await start_embedded(folder / "data")
    try:
        async with AsyncExitStack() as stack:
            databases = {name: await open_database(server, name, stack) for name in ("small", "large", "sizes")}
            spaces = [await make_space(database) for database in databases.values()]
            space = spaces[0]
            admin = {name: await connect(server, name, stack) for name in databases}
            others = await open_others(server, stack)
            machine["postgres"] = await others.fetchval("SHOW server_version")
            machine["pgvector"] = await others.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            bar = progress.add_task(f"loading {plan.memories:,} memories", total=plan.memories)
            held = await load(
                pool,
                sizes,
                {name: admin[name] for name in ("small", "large")},
                table=space.memory_table,
                small=small,
                watched=watched,
                others=others,
                others_share=plan.others_share,
                advance=lambda count: progress.advance(bar, count),
            )
            graph_bar = progress.add_task("building graphs", total=None)
            started = time.perf_counter()
            graphs = await build_graphs(
                databases["large"],
                plan.limit,
                lambda done, of: progress.update(graph_bar, completed=done, total=of),
            )
            built = {"graphs": time.perf_counter() - started, "large": float(sizes[list(graphs)].sum())}
            global_bar = progress.add_task("building the others' index", total=1)
            built["global"] = await build_global(others)
            progress.advance(global_bar)
            for connection in admin.values():
                await connection.execute("VACUUM (ANALYZE)")
            await others.execute("CHECKPOINT")
            figures = await disk_figures(admin["large"], space.memory_table, others, plan.memories, plan.limit, built)
            searchers = {
                name: Searcher(await service_connection(databases[name], stack), queries, space)
                for name in ("small", "large")
            }
            globally = Globally(others, queries)
            figures = [
                *await search_figures(searchers, users, plan, random, progress),
                *await recall_figures(searchers["large"], globally, held, exact, users, plan, dice),
                *await global_figures(searchers["large"], globally, users, plan, random, progress),
                *figures,
            ]
            await load_users(databases["sizes"], admin["sizes"], spaces[-1], pool, plan.crossover, progress)
            figures += await crossover_figures(
                databases["sizes"], stack, queries, spaces[-1], plan.crossover, random, progress
            )
    finally:
        await server.stop()
    return figures


@dataclass(frozen=True)
class Users:
    """The users by rank, and ways of drawing one."""

    sizes: Numbers
    small: Numbers
    plan: Plan
    random: Random

    def is_large(self, rank: int) -> bool:
        """Whether the user is searched by graph."""
        return bool(self.sizes[rank] > self.plan.limit)

    def both(self) -> int:
        """One of those who are in both databases."""
        return int(self.random.choice(self.small))

    def anyone(self) -> int:
        """Any user, each as likely as another."""
        return self.random.randrange(len(self.sizes))

    def of_others(self) -> int:
        """Any of those in the others' table."""
        share = self.plan.others_share
        return share * self.random.randrange(len(self.sizes) // share)

    def by_memories(self) -> int:
        """Any user, the more likely the more memories the user holds."""
        place = self.random.randrange(int(self.sizes.sum()))
        return int(np.searchsorted(np.cumsum(self.sizes), place, side="right"))


async def search_figures(
    searchers: dict[str, Searcher], users: Users, plan: Plan, random: Random, progress: Progress
) -> list[Figure]:
    """Times, and what the large database costs the same users."""
    draws: dict[str, Callable[[], int]] = {
        "both": users.both,
        "anyone": users.anyone,
        "by_memories": users.by_memories,
        "heavy": lambda: HEAVY,
    }
    took = await time_searches(searchers, draws, rounds=plan.rounds, random=random, progress=progress)
    in_small = int(users.sizes[users.small].sum())
    slow, slow_interval = ratio(took["large"], took["small"], 95)
    median, median_interval = ratio(took["large"], took["small"], 50)
    held = f"holds {int(users.sizes[HEAVY]):,}"
    return [
        *milliseconds("search/small", took["small"], f"{in_small:,} memories of {len(users.small):,} users"),
        *milliseconds("search/large", took["large"], f"the same users among {plan.memories:,} memories"),
        Figure("search/p50_ratio", median, "×", note=median_interval),
        Figure("search/p95_ratio", slow, "×", Target("≤", 1.2), slow_interval),
        *milliseconds("search/anyone", took["anyone"], f"any of {len(users.sizes):,} users"),
        *milliseconds("search/by_memories", took["by_memories"], "a user as often as memories are held"),
        *milliseconds("search/heavy", took["heavy"], f"the user who {held}"),
    ]


async def recall_figures(
    ours: Searcher,
    others: Globally,
    held: dict[int, Held],
    exact: Sequence[int],
    users: Users,
    plan: Plan,
    dice: np.random.Generator,
) -> list[Figure]:
    """What is found of what brute force finds."""
    count = len(ours.queries.texts)
    cases = [(rank, int(dice.integers(count))) for rank in exact if rank in held]
    heavy = [(HEAVY, int(query)) for query in dice.integers(0, count, plan.heavy_queries)]

    def globally(settings: str) -> Find:
        return lambda rank, query: others.nearest(rank, query, settings)

    same, as_near = await mean_recall(ours.nearest, held, cases, ours.queries)
    in_graph, _ = await mean_recall(ours.nearest, held, heavy, ours.queries)
    note = f"{len(cases)} users of at most {plan.limit:,}"
    figures = [
        Figure("recall@10/exact", as_near, target=Target("≥", 1.0), note=f"{note}; ties at 1e-4 count"),
        Figure("recall@10/exact/same", same, note="the very same memories"),
        Figure("recall@10/heavy", in_graph, target=Target("≥", 0.99), note=f"{plan.heavy_queries} questions"),
    ]
    theirs = [case for case in cases if not case[0] % plan.others_share]
    for name, settings in (("global", ""), ("global_iterative", ITERATIVE)):
        of_users, _ = await mean_recall(globally(settings), held, theirs, ours.queries)
        of_heavy, _ = await mean_recall(globally(settings), held, heavy, ours.queries)
        figures.append(Figure(f"{name}/recall@10", of_users, note=f"{len(theirs)} of these users"))
        figures.append(Figure(f"{name}/recall@10/heavy", of_heavy))
    return figures


async def global_figures(
    ours: Searcher, others: Globally, users: Users, plan: Plan, random: Random, progress: Progress
) -> list[Figure]:
    """Times beside an index over all users."""
    took = await time_globally(
        ours, others, users.of_others, rounds=plan.global_rounds, random=random, progress=progress
    )
    return [
        *milliseconds("global", took["global"], "nearest only; any user; pgvector's defaults"),
        *milliseconds("global_iterative", took["iterative"], "nearest only; any user; relaxed order"),
        *milliseconds("beside_global", took["ours"], "ours in the same rounds: the whole question"),
    ]


if __name__ == "__main__":
    main()
