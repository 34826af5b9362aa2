"""Plugs the background jobs together: which kinds there are, and who runs them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from app.api.deps import Services
from app.domain.spaces import StoredSpace
from app.ports import SystemClock
from app.services.ingest import INGEST
from app.services.jobs import graphs
from app.services.jobs.consolidation import CONSOLIDATION, EVERY_NIGHT, ConsolidationService
from app.services.jobs.expiry import EVERY_HOUR, EXPIRY, ExpiryService
from app.services.jobs.facet_priors import EVERY_NIGHT as PRIORS_EVERY_NIGHT
from app.services.jobs.facet_priors import FACET_PRIORS, FacetPriorService
from app.services.jobs.graphs import GRAPH, GraphService
from app.services.jobs.ingest import IngestJobs
from app.services.jobs.queue import JobQueue
from app.services.jobs.run import JobHandler
from app.services.jobs.spaces import EVERY_FIVE_MINUTES, SPACE_BACKLOG, SPACE_FILL, SpaceJobs
from app.services.space_filler import IN_FLIGHT
from app.services.space_switch import SpaceSwitch
from app.services.spaces import Spaces
from app.services.turns import TurnService
from app.settings import Settings
from app.store.consolidation import ConsolidationStore
from app.store.engine import Database, open_database
from app.store.expiry import ExpiryStore
from app.store.facets import FacetStore
from app.store.graphs import GraphStore
from app.store.ingests import IngestStore
from app.store.jobs import JobStore
from app.store.memories import MemoryStore
from app.store.quarantine import QuarantineStore
from app.store.recalls import RecallStore
from app.store.spaces import SpaceStore
from app.store.users import UserStore
from app.wiring import build_switch, late_spaces, open_turns

if TYPE_CHECKING:
    from app.services.jobs.worker import Worker

log = structlog.get_logger(__name__)


def job_handlers(settings: Settings, database: Database, spaces: Spaces, turns: TurnService) -> list[JobHandler[Any]]:
    """What a worker does, kind by kind."""
    filling = build_space_jobs(database, spaces)
    ingesting = IngestJobs(database, turns, IngestStore())
    large = GraphService(database, GraphStore(), SpaceStore(), JobQueue(database, JobStore()))
    kept = timedelta(days=settings.expired_kept_days)
    expiry = ExpiryService(
        database,
        ExpiryStore(),
        IngestStore(),
        QuarantineStore(),
        RecallStore(),
        SystemClock(),
        kept,
        timedelta(days=settings.recalls_kept_days),
    )
    consolidating = ConsolidationService(
        database, spaces, ConsolidationStore(), MemoryStore(), UserStore(), SystemClock()
    )
    priors = FacetPriorService(database, FacetStore(), SystemClock(), settings.facet_half_life_days)
    return [
        JobHandler(CONSOLIDATION, consolidating.handle, cron=EVERY_NIGHT),
        JobHandler(EXPIRY, expiry.handle, cron=EVERY_HOUR),
        JobHandler(FACET_PRIORS, priors.handle, cron=PRIORS_EVERY_NIGHT),
        JobHandler(GRAPH, large.handle, cron=graphs.EVERY_HOUR),
        JobHandler(INGEST, ingesting.handle),
        JobHandler(SPACE_BACKLOG, filling.look, cron=EVERY_FIVE_MINUTES),
        JobHandler(SPACE_FILL, filling.fill),
    ]


def build_space_jobs(database: Database, spaces: Spaces) -> SpaceJobs:
    """What workers do about spaces."""
    return SpaceJobs(database, JobQueue(database, JobStore()), build_switch(database, spaces))


def build_worker(
    settings: Settings, database: Database, spaces: Spaces, turns: TurnService, *, concurrency: int = 1
) -> "Worker":
    """A worker for every kind of job; it takes none before it is run."""
    from app.services.jobs.worker import Worker  # noqa: PLC0415 - the library and its driver, for workers only

    return Worker(database, JobStore(), job_handlers(settings, database, spaces, turns), concurrency=concurrency)


@asynccontextmanager
async def running_worker(settings: Settings, services: Services) -> AsyncGenerator[None]:
    """A worker inside the service's process, where the settings want one; on leaving it finishes its jobs or gives them
    back."""
    if not settings.worker_inside:
        yield
        return
    worker = build_worker(settings, services.database, services.spaces, services.turns)
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
    """A worker on the database alone, with connections for each of its jobs."""
    pool_size = max(settings.database_pool_size, concurrency * IN_FLIGHT + 4)
    database = await open_database(settings.model_copy(update={"database_pool_size": pool_size}))
    try:
        async with (
            late_spaces(settings, database) as spaces,
            open_turns(settings, database, spaces) as turns,
        ):
            yield build_worker(settings, database, spaces, turns, concurrency=concurrency)
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


async def fill_in_background(switch: SpaceSwitch, tenant_id: str, jobs: int, slowdown: float) -> StoredSpace:
    """Have the workers fill the tenant's new space, in so many jobs side by side. Raises NotFound."""
    return await SpaceJobs(switch.database, JobQueue(switch.database, JobStore()), switch).begin(
        tenant_id, jobs, slowdown
    )
