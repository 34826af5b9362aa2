"""Making the data and writing it: two databases in one pass, of which the small one holds some of the same users; then
the graphs of the large ones, by the service's own job."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.domain.embeddings import Vectors
from app.ports import Embedder
from app.services.jobs.graphs import GRAPH, GraphService
from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobHandler
from app.services.jobs.worker import Worker
from app.store.engine import Database
from app.store.graphs import GraphStore
from app.store.jobs import JobStore
from app.store.spaces import SpaceStore
from benchmarks import sentences
from benchmarks.scale.data import NOW, Change, Chunk, Numbers, Pool, Vocabulary, fit_change, memories_of, perturbed
from benchmarks.scale.tables import GLOBAL_INDEX, OTHERS

TENANT = "default"
BYTES_OF_OTHERS = 3_500
"""What an element of the others' index takes while it is built in memory."""
BATCH = 100

_COLUMNS = (
    "tenant_id user_id memory_id type content confidence tags slots source created_at updated_at valid_from valid_to"
).split()
_VECTOR_COLUMNS = "tenant_id user_id memory_id embedding".split()
_USER_COLUMNS = "tenant_id user_id created_at updated_at memories".split()


@dataclass(frozen=True)
class Held:
    """What one user holds: ids and float32 vectors (memories, d) of the memories that hold, in no order."""

    ids: Sequence[UUID]
    vectors: Vectors

    def nearest(self, vector: NDArray[np.float32], count: int) -> tuple[list[UUID], float]:
        """The true nearest by brute force, nearest first, and the cosine of the last."""
        cosines = self.vectors @ vector
        order = np.argsort(-cosines, kind="stable")[:count]
        return [self.ids[index] for index in order], float(cosines[order[-1]])

    def cosines(self, ids: Sequence[UUID], vector: NDArray[np.float32]) -> list[float]:
        """The true cosines of some of them."""
        places = {memory_id: index for index, memory_id in enumerate(self.ids)}
        return [float(self.vectors[places[memory_id]] @ vector) for memory_id in ids]


def user_id(rank: int) -> str:
    """The name of the user who holds the `rank`-th most (from 0)."""
    return f"user-{rank:06d}"


async def embed(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Vectors of shape (len(texts), d)."""
    parts = [await embedder.embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return np.concatenate(parts)


async def make_pool(said: sentences.Sentences, embedder: Embedder, sampled: int, random: Random) -> Pool:
    """The sentences embedded, and the change fitted to `sampled` of them that were really changed and embedded."""
    texts = [text for _, text in said.memories]
    vectors = await embed(embedder, texts)
    vocabulary = Vocabulary.of(texts)
    places = random.sample(range(len(texts)), min(sampled, len(texts)))
    changed = await embed(embedder, [perturbed(texts[place], vocabulary, random) for place in places])
    change: Change = fit_change(vectors[places], changed)
    return Pool(said.memories, vectors, change)


def encoder(dtype: str) -> Callable[[NDArray[np.float32]], bytes]:
    """How the driver sends a vector: two bytes of dimension, two spare ones, big-endian floats of `dtype`."""

    def encode(vector: NDArray[np.float32]) -> bytes:
        return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(dtype).tobytes()

    return encode


async def read_vectors(connection: Any) -> None:
    """Let the driver send both kinds of vectors as arrays."""
    for name, dtype in (("vector", ">f4"), ("halfvec", ">f2")):
        await connection.set_type_codec(name, schema="public", encoder=encoder(dtype), decoder=bytes, format="binary")


async def load(
    pool: Pool,
    sizes: Numbers,
    databases: Mapping[str, Any],
    *,
    table: str,
    small: Numbers,
    watched: Numbers,
    others: Any,
    others_share: int,
    advance: Callable[[int], None],
) -> dict[int, Held]:
    """Write every memory to the `databases` "large" and, where its user is one of `small`, "small", its vector to
    `table`; to `others` in their form where its user is one in `others_share`. Returns what the `watched` users hold,
    by rank. Triggers are off meanwhile: who has how many memories is written as it is."""
    kept: dict[int, list[tuple[UUID, NDArray[np.float32]]]] = {int(rank): [] for rank in watched}
    is_small, is_watched = np.zeros(len(sizes), bool), np.zeros(len(sizes), bool)
    is_small[small], is_watched[watched] = True, True
    for name, connection in databases.items():
        await connection.execute("SET session_replication_role = replica")
        await write_users(connection, sizes, np.arange(len(sizes)) if name == "large" else small)
    await others.execute(OTHERS)
    for chunk in memories_of(pool, sizes, seed=1):
        written = list(records_of(chunk, table))
        plain: list[tuple[Any, ...]] = []
        for rank, memory_id, row, vector in zip(chunk.owners, chunk.ids, chunk.rows, chunk.vectors, strict=True):
            if row[-1] is not None:  # it no longer holds
                continue
            if not rank % others_share:
                plain.append((memory_id, user_id(rank), row[1], vector))
            if is_watched[rank]:
                kept[int(rank)].append((memory_id, vector))
        chosen = np.flatnonzero(is_small[chunk.owners])
        for name, connection in databases.items():
            for target, columns, rows in written:
                records = rows if name == "large" else [rows[place] for place in chosen]
                await connection.copy_records_to_table(target, records=records, columns=columns)
        await others.copy_records_to_table("everything", records=plain)
        advance(len(chunk.ids))
    for connection in databases.values():
        await connection.execute("SET session_replication_role = DEFAULT")
        await connection.execute("VACUUM (ANALYZE)")
    return {
        rank: Held([each for each, _ in found], np.stack([vector for _, vector in found]))
        for rank, found in kept.items()
        if found
    }


async def write_users(connection: Any, sizes: Numbers, ranks: Numbers) -> None:
    """Write who has how many memories, of the users of some ranks."""
    users = [(TENANT, user_id(int(rank)), NOW, NOW, int(sizes[rank])) for rank in ranks]
    await connection.copy_records_to_table("users", records=users, columns=_USER_COLUMNS)


Records = Sequence[tuple[Any, ...]]


def records_of(chunk: Chunk, table: str) -> Iterator[tuple[str, Sequence[str], Records]]:
    """The rows of some memories: of which table, which columns, and their values; their vectors in `table`."""
    memories: list[tuple[Any, ...]] = []
    vectors: list[tuple[Any, ...]] = []
    for rank, memory_id, row, vector in zip(chunk.owners, chunk.ids, chunk.rows, chunk.vectors, strict=True):
        kind, content, confidence, tags, slots, since, until = row
        own = (TENANT, user_id(rank), memory_id)
        memories.append((*own, kind, content, confidence, tags, slots, "benchmark", since, since, since, until))
        vectors.append((*own, vector))
    yield "memories", _COLUMNS, memories
    yield table, _VECTOR_COLUMNS, vectors


async def build_graphs(database: Database, limit: int, advance: Callable[[int, int], None]) -> dict[int, int]:
    """Have the service's own worker, two jobs at a time, make the graphs of users with more than `limit` memories;
    their numbers by the users' ranks."""
    queue = JobQueue(database, JobStore())
    service = GraphService(database, GraphStore(), SpaceStore(), queue, limit)
    async with database.begin(TENANT) as connection:
        large = await service.graphs.large(connection, TENANT, limit)
        await queue.add(connection, new_job(GRAPH, GRAPH.payload(tenant_id=TENANT), key="recurring"))
    worker = Worker(database, JobStore(), [JobHandler(GRAPH, service.handle)], concurrency=2)
    task = asyncio.create_task(worker.run())
    try:
        while not task.done() and await queue.find(kind=GRAPH.name):
            async with database.transact(TENANT) as statements:
                rows = await statements.fetch("SELECT user_id, graph FROM users WHERE graph > 0")
            advance(len(rows), len(large))
            await asyncio.sleep(0.2)
    finally:
        worker.stop()
        await task
    async with database.transact(TENANT) as statements:
        rows = await statements.fetch("SELECT user_id, graph FROM users WHERE graph > 0")
    return {int(row["user_id"].removeprefix("user-")): int(row["graph"]) for row in rows}


async def build_global(others: Any) -> float:
    """The others' index, on two cores and in memory that holds it whole; seconds."""
    megabytes = room_for_global(await others.fetchval("SELECT count(*) FROM everything")) // 2**20
    await others.execute(f"SET maintenance_work_mem = '{megabytes}MB'; SET max_parallel_maintenance_workers = 1")
    started = time.perf_counter()
    await others.execute(GLOBAL_INDEX)
    took = time.perf_counter() - started
    await others.execute("VACUUM (ANALYZE)")
    return took


def room_for_global(memories: int) -> int:
    """Bytes of memory in which the others' index over so many is built."""
    return 2**28 + memories * BYTES_OF_OTHERS
