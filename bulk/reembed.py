"""Filling an embedding space as a Ray Data job: read what it lacks in shards, embed, write.

A row of the data set is a shard of up to SHARD items, not an item: a task that Ray does again, because its node or its
result was lost, reads what is lacking by then, and still gives one row, as Ray counts on. Each shard is written in one
transaction, together with what it takes off the backlog. So a shard that comes twice finds its items done, and what was
changed since it was read stays noted for the next pass.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import structlog

from app.domain.errors import NotFound
from app.services.space_filler import OnFilled, SpaceFiller
from app.services.space_switch import SpaceStatus, SpaceSwitch
from app.settings import Settings
from app.store.engine import open_database
from app.store.space_fills import FillStore
from app.store.spaces import SpaceStore
from app.wiring import build_switch, late_spaces
from bulk.backlog import Shard, cut
from bulk.cluster import CORES, Starts, cause_of, ray_module
from bulk.steps import Embedding, Job, Writing, read_tasks

log = structlog.get_logger(__name__)

SHARD = 256
"""Items of a shard: about a second's work of one core."""

WORTH_A_PASS = 2000
"""Items: fewer are embedded here before the processes of another pass have started."""


@dataclass(frozen=True)
class Share:
    """What a job may use of a cluster: `workers` embed, `connections` to the database read and write, half
    and half."""

    workers: int
    connections: int = 2

    @property
    def readers(self) -> int:
        """Actors that read, with a connection each."""
        return max(1, self.connections // 2)

    @property
    def writers(self) -> int:
        """Actors that write, with a connection each."""
        return max(1, self.connections - self.readers)


@dataclass(frozen=True)
class Reembedded:
    """What a job did. `written`: vectors that the cluster made, in `seconds`; `left_over`: items that were written or
    held by somebody meanwhile and were filled at the end, in this process; `again`: shards that were embedded once
    more, because a node or a process was lost."""

    space: str
    role: str
    items: int
    written: int
    left_over: int
    again: int
    passes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Vectors a second."""
        return self.written / self.seconds if self.seconds else 0.0


async def reembed(
    settings: Settings, tenant_id: str, share: Share, *, shard: int = SHARD, on_filled: OnFilled | None = None
) -> Reembedded:
    """Fill the tenant's new space on the Ray cluster that this process has joined (`bulk.cluster.joined`), until
    nothing is lacking. Broken off, it can be begun again; any number of jobs and of `space fill` may share the work.

    The database has to be one that every node reaches: the service's own is on this machine only. Raises NotFound
    where no space is to be filled, ModelUnavailable, StoreUnavailable, JobFailed.
    """
    async with AsyncExitStack() as stack:
        database = await open_database(settings)
        stack.push_async_callback(database.aclose)
        spaces = await stack.enter_async_context(late_spaces(settings, database))
        switch = build_switch(database, spaces)

        new = await _new_space(switch, tenant_id)
        await SpaceFiller(database, spaces, SpaceStore(), FillStore()).note(tenant_id, new.space)
        job = Job(tenant_id, new.space, settings, database.prepared)
        tell = on_filled or _tell_nobody
        had, written, again, passes = new.items - new.lacking, 0, 0, 0
        tell(had, new.items)
        started = time.monotonic()
        while True:
            async with database.begin(tenant_id) as connection:
                shards = await cut(connection, tenant_id, new.space.number, shard)
            if len(shards) * shard <= (WORTH_A_PASS if passes else 0):
                break
            before = written
            async for one in _run(job, share, shards):
                written += one.written
                again += one.again
                tell(min(had + written, new.items), new.items)
            passes += 1
            if written == before:
                break  # somebody else is at work on what is left
        seconds = time.monotonic() - started
        left_over = (await _new_space(switch, tenant_id)).lacking
        filled = await switch.fill(tenant_id, on_filled)
        log.info("space_filled_in_bulk", space=new.space.id, written=written, passes=passes, again=again)
        return Reembedded(new.space.id, filled.role, filled.items, written, left_over, again, passes, seconds)


def _tell_nobody(_done: int, _items: int) -> None:
    pass


async def _new_space(switch: SpaceSwitch, tenant_id: str) -> SpaceStatus:
    """The tenant's space that is to be filled."""
    found = {one.role: one for one in await switch.status(tenant_id)}
    for role in ("filling", "filled", "kept"):
        if role in found:
            return found[role]
    raise NotFound("no embedding space is being filled: `embed-service space create` makes one")


@dataclass(frozen=True)
class _Done:
    """A shard that was written, or (`again`) what a pass repeated."""

    written: int
    again: int = 0


async def _run(job: Job, share: Share, shards: Sequence[Shard]) -> AsyncIterator[_Done]:
    """One pass over the shards, each as soon as it is written. Ray Data starts no task whose result would have no
    room, so reading is never further ahead than the blocks' memory allows."""
    starts = _starts()
    rows = iter(_rows(job, share, shards, starts))
    try:
        while (row := await asyncio.to_thread(next, rows, None)) is not None:
            yield _Done(int(row["written"]))
        begun = await asyncio.to_thread(lambda: ray_module().get(starts.count.remote()))
        yield _Done(0, again=begun - len(shards))
    except Exception as error:
        raise cause_of(error) from error


def _rows(job: Job, share: Share, shards: Sequence[Shard], starts: Any) -> Any:
    """The job as Ray Data has it. Reading is an actor's work too: Ray ends processes of tasks that wait for a second,
    and a new one takes seconds to load all it needs."""
    data = ray_module("ray.data")

    class Backlog(data.Datasource):
        def get_name(self) -> str:
            return "Backlog"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            return read_tasks(job, shards)

    reading, writing = data.ActorPoolStrategy(size=share.readers), data.ActorPoolStrategy(size=share.writers)
    return (
        data.read_datasource(Backlog(), override_num_blocks=len(shards), compute=reading, num_cpus=0)
        .map(
            Embedding,
            fn_constructor_args=(job, starts),
            compute=data.ActorPoolStrategy(size=share.workers),
            num_cpus=CORES,
        )
        .map(Writing, fn_constructor_args=(job,), compute=writing, num_cpus=0)
        .iter_rows()
    )


def _starts() -> Any:
    """What counts how often a shard's embedding was begun, on this process's node: whichever is lost, it still
    knows."""
    ray = ray_module()
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(Starts).options(num_cpus=0, label_selector=here).remote()
