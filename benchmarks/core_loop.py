"""The core loop: what the service adds to the least that remembering can cost.

    python -m benchmarks.core_loop [--data DIR] [--json FILE] [--results FILE] [--quick]

The floor is one embedding of the same text plus one bare round trip to the database (`SELECT 1` on a plain driver
connection). Every measured operation runs in rounds with the floor, in random order and on the same text, one at a
time and in one process, so that what else the machine does falls on both alike. The garbage collector stays on.

The data: 1,000 users of one tenant with 1, 10 and 100 memories each, in three databases of one embedded server (the
largest in the service's own), so that all sizes are searched in the same rounds. Real vectors for 100,000 memories
would take minutes: 3,000 distinct sentences are embedded, and the further uses of each are the sentence with another
occasion added and its vector with a small random change (cosine 0.97), written in bulk by the store. No user has the
same sentence twice. The sentences come from templates, or with --data from LoCoMo's turns and ClariQ's questions.
After loading, `VACUUM (ANALYZE)` and a checkpoint do what the database would soon do by itself, in the midst of the
measurement.

Memory and startup are those of the real service: `embed-service run` as a process of its own on the same folder,
after a mixed load over HTTP.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import numpy as np
import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.api.deps import Services
from app.domain.embeddings import Vectors
from app.domain.memory import Draft, Memory, MemoryType
from app.logs import configure_logs
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database, migrate, prepare_database
from app.store.hypotheses import Answer, HypothesisStore
from app.store.memories import MemoryStore
from app.store.spaces import SpaceStore
from app.store.users import UserStore
from app.wiring import build_services, open_services
from benchmarks import sentences
from benchmarks.report import (
    Figure,
    Operation,
    Seconds,
    Target,
    arguments,
    describe_machine,
    interleaved,
    new_progress,
    percentile,
    publish,
    ratio,
)

ROOT = Path(__file__).resolve().parents[1]
USERS = [f"user-{number:04d}" for number in range(1000)]
PERTURBATION = 0.25
"""Length of the random change of a vector of length 1: cosine 0.97 to what it was."""
CHUNK = 1000
BATCH = 100
BUSY = 1.5
"""A floor whose p95 is more than this times its median: a p95 is then mostly the other work's doing."""
IN_FLIGHT = 4
"""Batches added at the same time, each for another user."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    pool: int = 3000
    rounds: int = 1000
    warm_up: int = 100
    choosers: int = 200
    """Users who are asked what they mean; each has chosen `choices` times before."""
    choices: int = 5
    add_rounds: int = 4
    batches: int = 12
    """Batches of one round of adding."""
    requests: int = 400
    """Of each kind, to the real service before its memory is read."""


QUICK = Plan((1_000, 10_000), 300, 60, 10, 20, 2, 1, 4, 20)


@dataclass(frozen=True)
class Pool:
    """Embedded sentences and the slots they name, by position; `vectors` has shape (sentences, dimension)."""

    texts: Sequence[tuple[MemoryType, str]]
    vectors: Vectors
    slots: Sequence[Sequence[str]]


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    machine = describe_machine(("onnxruntime", "asyncpg", "sqlalchemy", "uvloop", "numpy"))
    plan = QUICK if options.quick else Plan()
    random = Random(1)
    count = plan.pool + plan.add_rounds * plan.batches * BATCH
    said = sentences.from_data(options.data, random, count) if options.data else sentences.from_templates(random, count)
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    try:
        with new_progress(Console(stderr=True)) as progress:
            figures = uvloop.run(run(plan, said, folder, progress, machine))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    source = "LoCoMo and ClariQ" if options.data else "templates"
    note = (
        f"Sentences from {source}; {plan.rounds} rounds after {plan.warm_up} of warm-up; a ratio's note is its 95 % "
        f"interval.{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "Core loop", figures, machine, note)


async def run(
    plan: Plan, said: sentences.Sentences, folder: Path, progress: Progress, machine: dict[str, str]
) -> list[Figure]:
    """Everything, in order: start, load, measure in this process, then start and load the real service."""
    random = Random(2)
    settings = service_settings(folder)
    configure_logs(settings.log_dir, settings.log_level, to_stdout=False)
    started = time.perf_counter()
    async with open_services(settings) as services:
        first_start_s = time.perf_counter() - started
        async with loaded_sizes(services, plan, said, progress) as sizes, plain_connection(services.database) as bare:
            machine["postgres"] = await bare.fetchval("SHOW server_version")
            machine["pgvector"] = services.database.prepared.pgvector_version
            figures = await measure_searches(plan, said, sizes, bare, random, progress)
            largest = sizes[max(plan.sizes)]
            await choose(plan, said, largest, random, progress)
            await settle(largest.database)
            figures += await measure_hypotheses(plan, said, largest, bare, random, progress)
            figures += await measure_adding(plan, said, largest, random, progress)
    figures += await measure_process(plan, said, folder, random)
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    return [*figures, Figure("startup_s/first", first_start_s, "s", note="makes the database and the model's file")]


def service_settings(folder: Path) -> Settings:
    """The service as it comes, in `folder`, whatever the environment says."""
    kept: dict[str, Any] = {name: field.get_default() for name, field in Settings.model_fields.items()}
    return Settings(_env_file=None, **kept | {"data_dir": folder / "data", "log_dir": folder / "logs"})  # pyright: ignore[reportCallIssue]


@asynccontextmanager
async def plain_connection(database: Database) -> AsyncGenerator[Any]:
    """A superuser's connection of the driver alone to the same database, for the floor and for upkeep."""
    url = database.server.url if database.server is not None else database.prepared.url
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def loaded_sizes(
    services: Services, plan: Plan, said: sentences.Sentences, progress: Progress
) -> AsyncGenerator[dict[int, Services]]:
    """Services by number of memories, all on one server and one embedder; the largest are `services`."""
    pool = await embed_pool(services, said.memories[: plan.pool], progress)
    opened: dict[int, Services] = {}
    try:
        for size in plan.sizes:
            opened[size] = services if size == max(plan.sizes) else await open_beside(services, f"memories_{size}")
            await load(opened[size], pool, size, progress)
            await settle(opened[size].database)
        yield opened
    finally:
        for each in opened.values():
            if each is not services:
                await each.database.aclose()


async def open_beside(services: Services, name: str) -> Services:
    """The same services on a new database of the same server."""
    async with plain_connection(services.database) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"')
    assert services.database.server is not None, "the benchmark runs on the embedded server"
    url = services.database.server.url.replace("/postgres?", f"/{name}?")
    database = Database(await prepare_database(url))
    await migrate(database)
    beside = build_services(services.settings, database, services.embedder)
    await beside.keys.ensure_default_tenant()
    await beside.catalogues.warm()
    return beside


async def embed_pool(services: Services, texts: Sequence[tuple[MemoryType, str]], progress: Progress) -> Pool:
    """The sentences with their vectors and slots."""
    bar = progress.add_task("embedding sentences", total=len(texts))
    vectors: list[Vectors] = []
    for start in range(0, len(texts), BATCH):
        batch = [text for _, text in texts[start : start + BATCH]]
        vectors.append(await services.embedder.embed(batch))
        progress.advance(bar, len(batch))
    slots = await services.catalogues.slots_in(DEFAULT_TENANT, [text for _, text in texts])
    return Pool(texts, np.concatenate(vectors), slots)


async def load(services: Services, pool: Pool, size: int, progress: Progress) -> None:
    """Give every user size / 1,000 memories."""
    database, store, vectors, users = services.database, MemoryStore(), SpaceStore(), UserStore()
    space = await services.spaces.own()
    made = varied(pool, size // len(USERS))
    now = datetime.now(UTC)
    async with database.begin(DEFAULT_TENANT) as connection:
        for user_id in USERS:
            await users.ensure(connection, DEFAULT_TENANT, user_id, now)
        await services.spaces.hold(connection, DEFAULT_TENANT, space)
    bar = progress.add_task(f"loading {size:,} memories", total=size)
    while chunk := list(islice(made, CHUNK)):
        async with database.begin(DEFAULT_TENANT) as connection:
            await store.insert(connection, DEFAULT_TENANT, [(memory, slots) for memory, slots, _ in chunk])
            items = [(memory.user_id, memory.memory_id) for memory, _, _ in chunk]
            embedded = np.array([vector for _, _, vector in chunk])
            await vectors.write(connection, DEFAULT_TENANT, space, "memory", items, embedded)
        progress.advance(bar, len(chunk))


def varied(pool: Pool, per_user: int) -> Iterator[tuple[Memory, Sequence[str], np.ndarray]]:
    """Memories of all users with slots and vectors, each content once."""
    random, dice = Random(3), np.random.default_rng(3)
    now = datetime.now(UTC)
    occasions = list(sentences.occasions())
    uses: Counter[int] = Counter()
    for user_id in USERS:
        for index in random.sample(range(len(pool.texts)), per_user):
            kind, text = pool.texts[index]
            vector = pool.vectors[index]
            if uses[index]:
                text += occasions[uses[index] - 1]
                change = dice.standard_normal(len(vector), dtype=np.float32)
                vector = vector + change * (PERTURBATION / np.linalg.norm(change))
                vector /= np.linalg.norm(vector)
            uses[index] += 1
            at = now - timedelta(days=random.uniform(0, 730))
            tags = (random.choice(("work", "home", "travel")),) if random.random() < 0.3 else ()
            confidence = round(random.uniform(0.5, 1.0), 2)
            memory = Memory(
                UUID(int=random.getrandbits(128), version=4),
                user_id,
                kind,
                text,
                confidence,
                tags,
                "benchmark",
                at,
                at,
                at,
            )
            yield memory, pool.slots[index], vector


async def settle(database: Database) -> None:
    """What the database would do by itself a little later."""
    async with plain_connection(database) as connection:
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")


def floor_of(services: Services, bare: Any, text: str) -> Operation:
    """One embedding and one round trip."""

    async def floor() -> None:
        await services.embedder.embed([text])
        await bare.fetchval("SELECT 1")

    return floor


async def measure_searches(
    plan: Plan, said: sentences.Sentences, sizes: dict[int, Services], bare: Any, random: Random, progress: Progress
) -> list[Figure]:
    """Search at every size against the floor."""

    def search(services: Services, query: str) -> Operation:
        user_id = random.choice(USERS)
        return lambda: services.ranking.search(DEFAULT_TENANT, user_id, SearchRequest(query))

    def make(_: int) -> dict[str, Operation]:
        query = random.choice(said.queries)
        searches = {f"search/{size}": search(services, query) for size, services in sizes.items()}
        return {"floor": floor_of(sizes[max(sizes)], bare, query), **searches}

    took = await interleaved(make, rounds=plan.rounds, warm_up=plan.warm_up, random=random, progress=progress)
    floor = took["floor"]
    figures = milliseconds("floor/search", floor, floor_note(floor))
    for size in sizes:
        figures += milliseconds(f"search/{size}", took[f"search/{size}"], f"{size // len(USERS)} memories a user")
    for size in sizes:
        times = took[f"search/{size}"]
        figures += ratios("search", f"/{size}", times, floor, Target("≤", 1.5))
    smallest, largest = took[f"search/{min(sizes)}"], took[f"search/{max(sizes)}"]
    growth, interval = ratio(largest, smallest, 95)
    note = f"{min(sizes):,} to {max(sizes):,} memories; {interval}"
    return [*figures, Figure("search/p95_growth", growth, "×", Target("<", 1.2), note)]


async def choose(plan: Plan, said: sentences.Sentences, services: Services, random: Random, progress: Progress) -> None:
    """Let some users answer what they were asked, mostly with the first hypothesis."""
    store = HypothesisStore()
    bar = progress.add_task("choosing hypotheses", total=plan.choosers * plan.choices)
    for user_id in USERS[: plan.choosers]:
        for _ in range(plan.choices):
            made = await services.hypotheses.hypothesize(DEFAULT_TENANT, user_id, random.choice(said.inputs))
            progress.advance(bar)
            if not made.hypotheses:
                continue
            chosen = made.hypotheses[0] if random.random() < 0.6 else random.choice(made.hypotheses)
            answer = Answer("selected", chosen.id, chosen.slots)
            async with services.database.begin(DEFAULT_TENANT) as connection:
                await store.answer_set(connection, DEFAULT_TENANT, made.set_id, answer, datetime.now(UTC))
    await services.hypotheses.recalibrate(DEFAULT_TENANT)


async def measure_hypotheses(
    plan: Plan, said: sentences.Sentences, services: Services, bare: Any, random: Random, progress: Progress
) -> list[Figure]:
    """Hypothesizing against the floor, for users who have chosen before."""

    def make(_: int) -> dict[str, Operation]:
        text, user_id = random.choice(said.inputs), random.choice(USERS[: plan.choosers])
        return {
            "floor": floor_of(services, bare, text),
            "hypothesize": lambda: services.hypotheses.hypothesize(DEFAULT_TENANT, user_id, text),
        }

    took = await interleaved(make, rounds=plan.rounds, warm_up=plan.warm_up, random=random, progress=progress)
    return [
        *milliseconds("floor/hypothesize", took["floor"], floor_note(took["floor"])),
        *milliseconds("hypothesize", took["hypothesize"], f"{max(plan.sizes):,} memories"),
        *ratios("hypothesize", "", took["hypothesize"], took["floor"], Target("≤", 3.0)),
    ]


def milliseconds(name: str, times: Seconds, note: str) -> list[Figure]:
    """Median and 95th percentile."""
    return [Figure(f"{name}/p{rank}_ms", 1000 * percentile(times, rank), "ms", note=note) for rank in (50, 95)]


def floor_note(floor: Seconds) -> str:
    """What the floor is, and a warning when something else kept the machine busy."""
    spread = percentile(floor, 95) / percentile(floor, 50)
    busy = f"; p95 is {spread:.1f} × p50: the machine was busy, trust the ratios of p50" if spread > BUSY else ""
    return f"embedding and SELECT 1{busy}"


def ratios(name: str, suffix: str, times: Seconds, floor: Seconds, target: Target) -> list[Figure]:
    """Median and 95th percentile as multiples of the floor's; the target is for the latter."""
    median, median_interval = ratio(times, floor, 50)
    slow, slow_interval = ratio(times, floor, 95)
    return [
        Figure(f"{name}/p50_ratio{suffix}", median, "×", note=median_interval),
        Figure(f"{name}/p95_ratio{suffix}", slow, "×", target, slow_interval),
    ]


async def measure_adding(
    plan: Plan, said: sentences.Sentences, services: Services, random: Random, progress: Progress
) -> list[Figure]:
    """Memories added in a second, against the embedder alone on the same texts in the same batches."""
    fresh = list(said.memories[plan.pool :])
    needed = plan.add_rounds * plan.batches * BATCH
    extra = (  # where the data set is small: what is held already, on another occasion
        (kind, text + occasion)
        for occasion in reversed(list(sentences.occasions()))
        for kind, text in said.memories[: plan.pool]
    )
    fresh += islice(extra, needed - len(fresh))
    drafts = [Draft(kind, text) for kind, text in fresh]
    writers = random.sample(USERS, plan.add_rounds * plan.batches)
    took = {"add": 0.0, "embed": 0.0}
    deduplicated = superseded = 0
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def gated(operation: Operation) -> Any:
        async with gate:
            return await operation()

    bar = progress.add_task("adding memories", total=needed)
    for number in range(plan.add_rounds):
        start = number * plan.batches * BATCH
        batches = [drafts[start + BATCH * each : start + BATCH * (each + 1)] for each in range(plan.batches)]
        users = writers[number * plan.batches : (number + 1) * plan.batches]
        operations = {
            "embed": [
                lambda batch=batch: services.embedder.embed([draft.content for draft in batch]) for batch in batches
            ],
            "add": [
                lambda batch=batch, user_id=user_id: services.memories.add(DEFAULT_TENANT, user_id, batch)
                for batch, user_id in zip(batches, users, strict=True)
            ],
        }
        for name in random.sample(sorted(operations), 2):
            started = time.perf_counter()
            done = await asyncio.gather(*map(gated, operations[name]))
            took[name] += time.perf_counter() - started
            if name == "add":
                deduplicated += sum(each.deduplicated for each in done)
                superseded += sum(len(each.superseded) for each in done)
        progress.advance(bar, plan.batches * BATCH)
    shape = f"batches of {BATCH}, {IN_FLIGHT} in flight, to {max(plan.sizes):,} memories"
    share = f"{deduplicated / needed:.1%} merged, {superseded / needed:.1%} superseding"
    return [
        Figure("embed/per_second", needed / took["embed"], "1/s", note="the embedder alone, same batches"),
        Figure("add/per_second", needed / took["add"], "1/s", note=f"{shape}; {share}"),
        Figure("add/rate_ratio", took["embed"] / took["add"], "×", Target("≥", 0.8), "to the embedder alone"),
    ]


async def measure_process(plan: Plan, said: sentences.Sentences, folder: Path, random: Random) -> list[Figure]:
    """The real service on the loaded folder: how soon it is ready, and what it holds after a mixed load."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"DATA_DIR": str(folder / "data"), "LOG_DIR": str(folder / "logs"), "PORT": str(port)}
    environment["PYTHONPATH"] = str(ROOT)
    output = folder / "service.out"
    with output.open("wb") as out:
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", "run"), cwd=folder, env=environment, stdout=out, stderr=out
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            if not await is_ready(client, process):
                raise RuntimeError(f"the service ended before it was ready:\n{output.read_text()[-2000:]}")
            startup_s = time.perf_counter() - started
            service = psutil.Process(process.pid)
            idle_mb = service.memory_info().rss / 2**20
            await put_under_load(plan, said, client, random)
        rss_mb = service.memory_info().rss / 2**20
        database_mb, how = database_memory(service)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    return [
        Figure("rss_mb", rss_mb, "MiB", note="the service's process after a mixed load over HTTP"),
        Figure("rss_mb/idle", idle_mb, "MiB", note="as soon as it is ready"),
        Figure("database_mb", database_mb, "MiB", note=f"the database's processes, {how}"),
        Figure("startup_s", startup_s, "s", note="until /readyz says so, database and Python included"),
    ]


async def is_ready(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
    """True as soon as the service is ready; False when it ended before."""
    while process.returncode is None:
        with suppress(httpx.TransportError):
            if (await client.get("/readyz")).status_code == 200:
                return True
        await asyncio.sleep(0.01)
    return False


async def put_under_load(plan: Plan, said: sentences.Sentences, client: httpx.AsyncClient, random: Random) -> None:
    """Searches and hypotheses, eight at a time, and a few batches of memories."""
    gate = asyncio.Semaphore(8)

    async def post(path: str, body: dict[str, Any]) -> None:
        async with gate:
            (await client.post(path, json=body)).raise_for_status()

    calls = []
    for _ in range(plan.requests):
        user_id = random.choice(USERS)
        calls.append(post("/v1/memories/search", {"user_id": user_id, "query": random.choice(said.queries)}))
        calls.append(post("/v1/hypothesize", {"user_id": user_id, "input_text": random.choice(said.inputs)}))
    for _ in range(max(1, plan.requests // BATCH)):
        memories = [{"type": kind, "content": text} for kind, text in random.sample(said.memories, BATCH)]
        calls.append(post("/v1/memories", {"user_id": random.choice(USERS), "memories": memories}))
    random.shuffle(calls)
    await asyncio.gather(*calls)


def database_memory(service: psutil.Process) -> tuple[float, str]:
    """MiB of the database's processes, and how shared pages were counted."""
    processes = [each for each in service.children(recursive=True) if "postgres" in each.name()]
    try:
        return sum(each.memory_full_info().pss for each in processes) / 2**20, "PSS: shared pages once"
    except (AttributeError, psutil.AccessDenied):
        return sum(each.memory_info().rss for each in processes) / 2**20, "RSS: shared pages in each process"


if __name__ == "__main__":
    main()
