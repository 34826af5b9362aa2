"""The steps of re-embedding, as Ray runs them in processes of its own: each opens what it needs there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential

from app.clients.embeddings.late import LateEmbedder
from app.domain.embeddings import Vectors
from app.domain.errors import ModelUnavailable, Overloaded, StaleSpace, StoreUnavailable
from app.domain.spaces import StoredSpace
from app.settings import Settings
from app.store.engine import Database, PreparedDatabase
from app.store.space_fills import FillStore, Lacking
from app.wiring import build_spaces, open_embedder
from bulk.backlog import Shard, hold, within
from bulk.cluster import ray_module

PATIENCE_S = 60.0
"""How long a step tries an endpoint or a database that does not answer, before the job ends."""

AT_ONCE = 64
"""Texts that an embedder is asked at a time."""

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every step is told: whose items, the space that lacks them, what embeds (`settings`) and the database."""

    tenant_id: str
    space: StoredSpace
    settings: Settings
    prepared: PreparedDatabase

    def connect(self) -> Database:
        """One connection, made when it is used."""
        return Database(self.prepared, pool_size=1)


def read_tasks(job: Job, shards: Sequence[Shard]) -> list[Any]:
    """A task for each shard that reads what it lacks into one row, and only that when it is done again. What is gone
    from the database is taken off what is lacking."""
    metadata, task = ray_module("ray.data.block").BlockMetadata, ray_module("ray.data").ReadTask

    def reading(shard: Shard) -> Callable[[], Iterable[Any]]:
        return lambda: [_block(asyncio.run(_patiently(lambda: _read(job, shard))))]

    told = metadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
    return [task(reading(shard), told) for shard in shards]


class Embedding:
    """Adds the vectors of a row's items; the model is loaded once."""

    def __init__(self, job: Job, on_start: Any) -> None:
        """`on_start` is the actor that counts how often a shard was begun."""
        self._job = job
        self._on_start = on_start
        self._runner = asyncio.Runner()
        own = LateEmbedder(lambda: open_embedder(job.settings))
        self._spaces = build_spaces(job.settings, job.connect(), own)

    def __call__(self, row: Row) -> Row:
        """`vectors`: float32 of shape (items, dimension), as bytes."""
        self._on_start.note.remote()
        return {**row, "vectors": self._runner.run(self._embed(list(row["contents"]))).tobytes()}

    async def _embed(self, texts: list[str]) -> Vectors:
        made = [np.empty((0, self._job.space.space.dimension), np.float32)]
        for first in range(0, len(texts), AT_ONCE):
            some = texts[first : first + AT_ONCE]
            embedded = await _patiently(partial(self._spaces.embed_in, self._job.space, some))
            made.append(embedded.vectors)
        return np.concatenate(made)


class Writing:
    """Writes a row's vectors in one transaction and gives how many were written."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._runner = asyncio.Runner()
        self._database = job.connect()

    def __call__(self, row: Row) -> Row:
        """`written`: the items that were still lacking, were held by nobody, and still say what was embedded."""
        items = [
            Lacking(kind, user_id, UUID(item_id))
            for kind, user_id, item_id in zip(row["kinds"], row["users"], row["items"], strict=True)
        ]
        vectors = np.frombuffer(row["vectors"], np.float32).reshape(len(items), -1 if items else 0)
        written = self._runner.run(_patiently(lambda: self._write(items, list(row["contents"]), vectors)))
        return {"items": len(items), "written": written}

    async def _write(self, items: list[Lacking], contents: list[str], vectors: Any) -> int:
        job, fills = self._job, FillStore()
        async with self._database.begin(job.tenant_id) as connection:
            held = await hold(connection, job.tenant_id, job.space.number, items)
            own = [place for place, each in enumerate(items) if (each.kind, each.user_id, each.item_id) in held]
            if not own:
                return 0
            return await fills.write(
                connection,
                job.tenant_id,
                job.space,
                [items[place] for place in own],
                [contents[place] for place in own],
                vectors[own],
            )


async def _read(job: Job, shard: Shard) -> list[tuple[Lacking, str]]:
    fills = FillStore()
    database = job.connect()
    try:
        async with database.begin(job.tenant_id) as connection:
            found = await within(connection, job.tenant_id, job.space.number, shard)
            contents = await fills.contents(connection, job.tenant_id, found)
            gone = [each for each in found if each.item_id not in contents]
            await fills.forget(connection, job.tenant_id, job.space.number, gone)
    finally:
        await database.aclose()
    return [(each, contents[each.item_id]) for each in found if each.item_id in contents]


def _block(found: Sequence[tuple[Lacking, str]]) -> Any:
    """One row with a list for each field."""
    arrow = ray_module("pyarrow")
    texts = arrow.list_(arrow.string())
    columns = {
        "kinds": [[each.kind for each, _ in found]],
        "users": [[each.user_id for each, _ in found]],
        "items": [[str(each.item_id) for each, _ in found]],
        "contents": [[content for _, content in found]],
    }
    return arrow.table({name: arrow.array(value, texts) for name, value in columns.items()})


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, and again for PATIENCE_S where a model or the database does not answer for the moment."""
    tries = AsyncRetrying(
        retry=retry_if_exception(_is_passing),
        wait=wait_exponential(0.25, max=5),
        stop=stop_after_delay(PATIENCE_S),
        reraise=True,
    )
    async for attempt in tries:
        with attempt:
            return await work()
    raise AssertionError("the last try returns or raises")


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, StaleSpace) or (isinstance(error, ModelUnavailable) and error.cause == "other_space"):
        return False
    return isinstance(error, ModelUnavailable | Overloaded | StoreUnavailable)
