"""A worker: takes jobs out of the queue and runs them. Any number of processes may have one.

`procrastinate` fetches jobs (in order, one of a lane at a time), wakes the worker, adds recurring jobs once and ends
the worker gently. What ends a job is written here, because it has to hold only while the job is this worker's: see
`docs/decisions/0024-job-queue.md`.
"""

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.worker import Worker as LibraryWorker
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from structlog.contextvars import bound_contextvars

from app.domain.errors import StoreUnavailable
from app.services.jobs.queue import decode, tenant_job
from app.services.jobs.run import HELD, JOBS, SECONDS, JobHandler, JobLost, JobRun
from app.store.engine import Database, Statements
from app.store.jobs import JobStore
from app.store.tenants import every_tenant

log = structlog.get_logger(__name__)

_CATCH_UP_S = 86_400.0  # a recurring job that was due while no worker ran is added at the next start
_COUNTED_S = 15.0
_TRIES = 3  # a job of the same key may be added at the very moment in which one is put back
_PLAN = "plan:"
_BEAT = "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %(worker_id)s RETURNING id"
_LOST = (StoreUnavailable, ConnectorException, psycopg.Error, asyncpg.PostgresError, SQLAlchemyError, OSError)


class WorkerLost(Exception):
    """The database did not hear of this worker for too long, or has given it up: its jobs are no longer its own."""


@dataclass(frozen=True)
class Pulse:
    """How a worker shows that it lives, in seconds. Its jobs go to another one at the latest `stale_s` + 2 `beat_s` +
    `poll_s` after its death; it stops them by itself before that when it cannot reach the database."""

    beat_s: float = 3.0
    lost_s: float = 10.0
    """Without a heartbeat for so long a worker lets go of its jobs."""
    stale_s: float = 20.0
    """Without one for so long it is given up by the others."""
    poll_s: float = 2.0
    """How often it looks for jobs of which nobody told it: those put off, those of a lane."""
    stop_s: float = 10.0
    """What jobs get to finish when it is asked to stop; then they are given back."""


class Worker:
    """Runs jobs until it is stopped; when the database goes away it comes back with it."""

    def __init__(
        self,
        database: Database,
        jobs: JobStore,
        handlers: Iterable[JobHandler[Any]],
        *,
        concurrency: int = 1,
        pulse: Pulse | None = None,
    ) -> None:
        """Nothing runs yet. `concurrency`: most jobs at a time. Jobs of kinds without a handler are left to others."""
        self._database = database
        self._jobs = jobs
        self._handlers = {handler.kind.name: handler for handler in handlers}
        self._concurrency = concurrency
        self._pulse = pulse or Pulse()
        self._library: LibraryWorker | None = None
        self._is_stopping = asyncio.Event()
        self._beaten_at = 0.0
        self._counted_at = 0.0

    def stop(self) -> None:
        """Ask it to end: it takes no job any more, finishes those it has within `stop_s` or gives them back."""
        self._is_stopping.set()
        if self._library is not None:
            # No heart beats from now on: nobody may have given it up before it lets go.
            left_s = self._pulse.stale_s - self._pulse.beat_s - (time.monotonic() - self._beaten_at)
            self._library.shutdown_graceful_timeout = max(0.0, min(self._pulse.stop_s, left_s))
            self._library.stop()

    async def run(self) -> None:
        """Run jobs until `stop`, at the same database under a new name after every interruption."""
        # Its lines hold the jobs' arguments, and tracebacks in the words of whatever failed.
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        log.info("worker_started", kinds=sorted(self._handlers), concurrency=self._concurrency)
        wait_s = 0.5
        while not self._is_stopping.is_set():
            begun_at = time.monotonic()
            try:
                await self._run_once()
                cause = "heartbeat"
            except (WorkerLost, *_LOST) as error:
                cause = type(error).__name__
            if self._is_stopping.is_set():
                break
            wait_s = 0.5 if time.monotonic() - begun_at > 60 else min(wait_s * 2, 30.0)
            log.warning("worker_interrupted", cause=cause, again_s=wait_s)
            await _wait(self._is_stopping, wait_s)
        log.info("worker_stopped")

    async def _run_once(self) -> None:
        """One life of the library's worker: until it is stopped or loses the database."""
        app = self._make_app()
        pulse = self._pulse
        async with app.open_async():
            self._beaten_at = time.monotonic()
            self._library = LibraryWorker(
                app=app,
                queues=[queue for name in self._handlers for queue in (name, _PLAN + name)],
                concurrency=self._concurrency,
                fetch_job_polling_interval=pulse.poll_s,
                abort_job_polling_interval=3600.0,  # nobody asks for that
                shutdown_graceful_timeout=0.0,  # where it ends without being asked, it lets go at once
                install_signal_handlers=False,
                update_heartbeat_interval=pulse.beat_s,
                stalled_worker_timeout=pulse.stale_s,
            )
            if self._is_stopping.is_set():
                return
            try:
                await self._library.run()
            finally:
                self._library = None

    def _make_app(self) -> procrastinate.App:
        """The library's application over a small pool of its own, which sees the jobs and no tenant's rows."""
        prepared = self._database.prepared

        async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute("SELECT set_config('app.purpose', 'jobs', false)")
            if prepared.role is not None:
                await connection.execute("SELECT set_config('role', %s, false)", (prepared.role,))
            await connection.commit()

        alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 10_000}
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(
                conninfo="postgresql://" + prepared.url.partition("://")[2],
                min_size=1,
                max_size=2,
                timeout=10.0,
                configure=configure,
                kwargs={"application_name": "embed-service worker", "connect_timeout": 10, **alive},
            ),
            periodic_defaults={"max_delay": _CATCH_UP_S},
        )
        app.job_manager = _Manager(app.connector, self._beat)
        for handler in self._handlers.values():
            name = handler.kind.name
            app.task(name=name, queue=name, pass_context=True)(self._performer(handler))
            if handler.cron is not None:
                planner = app.task(
                    name=_PLAN + name, queue=_PLAN + name, queueing_lock=_PLAN + name, pass_context=True
                )(self._planner(handler))
                app.periodic(cron=handler.cron)(planner)
        return app

    def _performer(self, handler: JobHandler[Any]) -> Callable[..., Awaitable[None]]:
        async def perform(context: JobContext, /, **fields: Any) -> None:
            async def work(run: JobRun) -> None:
                await handler.handle(decode(handler.kind, fields), run)
                await run.end()

            await self._perform(handler, context, work)

        return perform

    def _planner(self, handler: JobHandler[Any]) -> Callable[..., Awaitable[None]]:
        """Adds the recurring job of every tenant, and is done with the same transaction."""

        async def plan(context: JobContext, timestamp: int) -> None:
            async def work(run: JobRun) -> None:
                async with self._database.transact_jobs() as statements:
                    tenants = await every_tenant(statements)
                    await self._jobs.add(statements, [tenant_job(handler.kind, tenant) for tenant in tenants])
                    await run.end_with(statements)

            await self._perform(handler, context, work)

        return plan

    async def _perform(
        self, handler: JobHandler[Any], context: JobContext, work: Callable[[JobRun], Awaitable[None]]
    ) -> None:
        """Run a job to its end, and write down how it ended."""
        job = context.job
        assert job.id is not None
        assert job.worker_id is not None
        run = JobRun(self._database, self._jobs, job.id, job.worker_id, job.attempts + 1)
        kind = job.task_name
        begun_at = time.monotonic()
        with bound_contextvars(job_id=job.id, job_kind=kind):
            log.info("job_started", attempt=run.attempt)
            try:
                await work(run)
            except JobLost:
                JOBS.labels(kind, "lost").inc()
                log.warning("job_lost")
            except asyncio.CancelledError as error:
                is_stopped = context.should_abort()
                ending = self._give_back(run, kind) if is_stopped else self._fail(handler, run, kind, error)
                await asyncio.shield(ending)
                raise
            except Exception as error:
                await self._fail(handler, run, kind, error)
                raise
            else:
                JOBS.labels(kind, "finished").inc()
                log.info("job_finished", seconds=round(time.monotonic() - begun_at, 3))
            finally:
                SECONDS.labels(kind).observe(time.monotonic() - begun_at)

    async def _give_back(self, run: JobRun, kind: str) -> None:
        if await self._settle(lambda statements: self._jobs.give_back(statements, run.job_id, run.worker_id)):
            JOBS.labels(kind, "given_back").inc()
            log.info("job_given_back")

    async def _fail(self, handler: JobHandler[Any], run: JobRun, kind: str, error: BaseException) -> None:
        """Put a job that failed off, or let it rest after its last try; one that cannot be read is not tried again."""
        what = describe_error(error)
        ids = (run.job_id, run.worker_id)
        if run.attempt < handler.kind.attempts and not isinstance(error, ValidationError):
            wait_s = handler.kind.wait_s(run.attempt, random.random())  # noqa: S311 - spreads load, guards nothing
            if await self._settle(lambda statements: self._jobs.retry(statements, *ids, wait_s, what)):
                JOBS.labels(kind, "failed").inc()
                log.warning("job_failed", error=what, attempt=run.attempt, again_s=round(wait_s, 1))
        elif await self._settle(lambda statements: self._jobs.bury(statements, *ids, what)):
            JOBS.labels(kind, "dead").inc()
            log.error("job_dead", error=what, attempt=run.attempt)

    async def _settle(self, write: Callable[[Statements], Awaitable[bool]]) -> bool:
        """Write how a run ended; False when the job is not this worker's. When it cannot be written the worker begins
        a new life, which sets all its jobs free."""
        try:
            for left in reversed(range(_TRIES)):
                try:
                    async with self._database.transact_jobs() as statements:
                        return await write(statements)
                except asyncpg.UniqueViolationError:
                    if not left:
                        raise
        except _LOST:
            if self._library is not None:
                self._library.stop()
            raise
        raise AssertionError("the last try returns or raises")

    async def _beat(self, asked: Awaitable[Sequence[Any]]) -> None:
        """Show that this worker lives, and take over from those that do not. Raises WorkerLost, and lets go of all
        jobs at once, when it did not get through for `lost_s` or was given up: when what is `asked` finds no row."""
        pulse = self._pulse
        try:
            async with asyncio.timeout(pulse.beat_s):
                is_known = bool(await asked)
        except (TimeoutError, *_LOST):
            if time.monotonic() - self._beaten_at < pulse.lost_s:
                return
            is_known = False
        if not is_known:
            if self._library is not None:
                self._library.stop()
            raise WorkerLost
        self._beaten_at = time.monotonic()
        try:
            async with asyncio.timeout(pulse.beat_s):
                await self._take_over()
                await self._count()
        except (TimeoutError, *_LOST) as error:
            log.debug("worker_interrupted", cause=type(error).__name__)

    async def _take_over(self) -> None:
        attempts = {name: handler.kind.attempts for name, handler in self._handlers.items()}
        attempts |= {_PLAN + name: most for name, most in attempts.items()}
        async with self._database.transact_jobs() as statements:
            orphans = await self._jobs.take_over(statements, self._pulse.stale_s, attempts, WorkerLost.__name__)
        for orphan in orphans:
            JOBS.labels(orphan.kind, "dead" if orphan.is_dead else "orphaned").inc()
            if orphan.is_dead:
                log.error("job_dead", job_id=orphan.job_id, job_kind=orphan.kind, error=WorkerLost.__name__)
            else:
                log.warning("job_orphaned", job_id=orphan.job_id, job_kind=orphan.kind)

    async def _count(self) -> None:
        if time.monotonic() - self._counted_at < _COUNTED_S:
            return
        async with self._database.transact_jobs() as statements:
            counts = await self._jobs.counts(statements)
        HELD.clear()
        for (kind, state), jobs in counts.items():
            HELD.labels(kind, state).set(jobs)
        self._counted_at = time.monotonic()


class _Manager(JobManager):
    """The library's, but for what it would write about a job without asking whose it is."""

    def __init__(self, connector: Any, beat: Callable[[Awaitable[Sequence[Any]]], Awaitable[None]]) -> None:
        super().__init__(connector)
        self._beat = beat

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Nothing: `Worker._perform` has written how it ended."""

    async def update_heartbeat(self, worker_id: int) -> None:
        """A heartbeat that fails when nobody listens; over the library's connections, which no request waits for."""
        await self._beat(self.connector.execute_query_all_async(_BEAT, worker_id=worker_id))

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """The next job; None also when another worker took one of the same lane at this moment."""
        try:
            return await super().fetch_job(queues, worker_id)
        except UniqueViolation:
            return None


def describe_error(error: BaseException) -> str:
    """The class of an error and the line it comes from. Its message is left out: it may quote a user."""
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
