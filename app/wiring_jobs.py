"""Plugs the background jobs together: which kinds there are, and who runs them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from app.ports import SystemClock
from app.services.jobs.expiry import EVERY_HOUR, EXPIRY, ExpiryService
from app.services.jobs.queue import JobQueue
from app.services.jobs.run import JobHandler
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.expiry import ExpiryStore
from app.store.jobs import JobStore

if TYPE_CHECKING:
    from app.services.jobs.worker import Worker

log = structlog.get_logger(__name__)


def job_handlers(settings: Settings, database: Database) -> list[JobHandler[Any]]:
    """What a worker does, kind by kind."""
    expiry = ExpiryService(database, ExpiryStore(), SystemClock(), timedelta(days=settings.expired_kept_days))
    return [JobHandler(EXPIRY, expiry.handle, cron=EVERY_HOUR)]


def build_worker(settings: Settings, database: Database, *, concurrency: int = 1) -> "Worker":
    """A worker for every kind of job; it takes none before it is run."""
    from app.services.jobs.worker import Worker  # noqa: PLC0415 - the library and its driver, for workers only

    return Worker(database, JobStore(), job_handlers(settings, database), concurrency=concurrency)


@asynccontextmanager
async def running_worker(settings: Settings, database: Database) -> AsyncGenerator[None]:
    """A worker inside this process, where the settings want one; on leaving it finishes its jobs or gives them back."""
    if not settings.worker_inside:
        yield
        return
    worker = build_worker(settings, database)
    task = asyncio.create_task(worker.run())
    task.add_done_callback(_note_failure)
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait({task})


def _note_failure(task: asyncio.Task[None]) -> None:
    """A worker that ends by an error nobody foresaw takes no other part of the service with it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("worker_failed", exc_info=error)


@asynccontextmanager
async def open_worker(settings: Settings, concurrency: int) -> AsyncGenerator["Worker"]:
    """A worker on the database alone, with a connection for each of its jobs."""
    pool_size = max(settings.database_pool_size, concurrency + 2)
    database = await open_database(settings.model_copy(update={"database_pool_size": pool_size}))
    try:
        yield build_worker(settings, database, concurrency=concurrency)
    finally:
        await database.aclose()


@asynccontextmanager
async def open_jobs(settings: Settings) -> AsyncGenerator[JobQueue]:
    """The queue of jobs on the database alone."""
    database = await open_database(settings)
    try:
        yield JobQueue(database, JobStore())
    finally:
        await database.aclose()
