"""Jobs for the tests: kinds whose effect is a row, and workers that run them with a quick pulse."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.jobs import JobKind, JobPayload
from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobHandler, JobRun
from app.services.jobs.worker import Pulse, Worker
from app.store.engine import Database
from app.store.jobs import JobStore
from app.store.tenants import TenantStore

QUICK = Pulse(beat_s=0.2, lost_s=1.0, stale_s=2.0, poll_s=0.1, stop_s=0.3)
PATIENCE_S = 60.0
USER = "worked-on"


class Numbered(JobPayload):
    """A job that is one of many."""

    number: int
    lane: int = 0


def kind_of_its_own(payload: type[Any] = Numbered, **settings: Any) -> JobKind[Any]:
    """A kind that no other test's worker knows."""
    return JobKind(f"test-{uuid.uuid4().hex[:8]}", payload, **({"first_wait_s": 0.05, "attempts": 3} | settings))


async def create_user(database: Database, tenant: str) -> None:
    """Write the rows of a tenant and of the user whom effects are about."""
    async with database.begin(tenant) as connection:
        await TenantStore().ensure(connection, tenant)
        query = "INSERT INTO users (tenant_id, user_id, created_at, updated_at) VALUES (:tenant, :user, now(), now())"
        await connection.execute(text(query), {"tenant": tenant, "user": USER})


async def write_effect(connection: AsyncConnection, payload: Numbered, worker: str = "") -> None:
    """One row more for each time this is kept."""
    query = (
        "INSERT INTO signals (tenant_id, signal_id, user_id, kind, body, created_at) "
        "VALUES (:tenant, gen_random_uuid(), :user, 'effect', CAST(:body AS jsonb), clock_timestamp())"
    )
    body = orjson.dumps(payload.model_dump() | {"worker": worker}).decode()
    await connection.execute(text(query), {"tenant": payload.tenant_id, "user": USER, "body": body})


async def effects(database: Database, tenant: str) -> list[dict[str, Any]]:
    """What was kept, in the order in which it was written."""
    async with database.begin(tenant) as connection:
        rows = await connection.execute(text("SELECT body FROM signals WHERE kind = 'effect' ORDER BY created_at"))
        return [row.body for row in rows]


async def add_numbered(
    database: Database, tenant: str, kind: JobKind[Numbered], count: int, lanes: int | None = None
) -> None:
    """Jobs of the kind, numbered from 0, in so many lanes."""
    async with database.begin(tenant) as connection:
        for number in range(count):
            lane = number % lanes if lanes else 0
            payload = Numbered(tenant_id=tenant, number=number, lane=lane)
            job = new_job(kind, payload, lane=f"user-{lane}" if lanes else None)
            await queue_of(database).add(connection, job)


async def notes(database: Database, tenant: str) -> list[Any]:
    """The beginnings and ends of runs, in order, as `tests.e2e.job_worker` notes them."""
    async with database.begin(tenant) as connection:
        query = "SELECT kind, body, created_at FROM signals WHERE kind IN ('begin', 'end') ORDER BY created_at"
        return list((await connection.execute(text(query))).all())


async def numbers(database: Database, tenant: str) -> list[int]:
    """The numbers of the jobs whose effect was kept, in order."""
    return [effect["number"] for effect in await effects(database, tenant)]


async def are_done(database: Database, tenant: str, least: int) -> bool:
    """Whether so many effects were kept."""
    return len(await effects(database, tenant)) >= least


async def keep_effect(payload: Numbered, run: JobRun) -> None:
    """What most of the tests' jobs do: their effect, together with their end."""
    async with run.begin(payload.tenant_id) as connection:
        await write_effect(connection, payload)


async def is_empty(queue: JobQueue, kind: str) -> bool:
    """Whether no job of the kind waits or runs."""
    return await queue.find(kind=kind, states=("waiting", "running")) == []


def queue_of(database: Database) -> JobQueue:
    """The queue of the tests' database."""
    return JobQueue(database, JobStore())


@asynccontextmanager
async def working(database: Database, *handlers: JobHandler[Any], **settings: Any) -> AsyncIterator[Worker]:
    """A worker in this process; it is stopped on leaving."""
    worker = Worker(database, JobStore(), handlers, **({"pulse": QUICK} | settings))
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Return when it is so; fails when it does not come to be."""
    async with asyncio.timeout(PATIENCE_S):
        while not await is_so():  # noqa: ASYNC110 - it comes to be in the database
            await asyncio.sleep(0.02)
