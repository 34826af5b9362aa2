"""One run of one job, and what is plugged into a worker."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.jobs import JobKind, P
from app.store.engine import Database, Statements
from app.store.jobs import JobStore

JOBS = Counter("embed_service_jobs_total", "Runs of jobs, by how they ended.", ["kind", "outcome"])
SECONDS = Histogram(
    "embed_service_job_seconds",
    "Seconds of a run.",
    ["kind"],
    buckets=(0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0),
)
HELD = Gauge("embed_service_jobs_held", "Jobs in the queue.", ["kind", "state"])


class JobLost(Exception):
    """This worker was given up, or the job taken away: another one has it, and nothing of this run may be kept."""


class JobRun:
    """A job while this worker runs it."""

    def __init__(self, database: Database, jobs: JobStore, job_id: int, worker_id: int, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt
        """1 for the first try."""
        self.worker_id = worker_id
        self._database = database
        self._jobs = jobs
        self._is_ended = False

    @asynccontextmanager
    async def begin(self, tenant_id: str) -> AsyncGenerator[AsyncConnection]:
        """A transaction of the job's tenant that ends the job: what is done in it and the job's end are kept together
        or not at all, so its effect is there exactly once, whatever dies. It is the last thing a job does.

        Raises JobLost instead of committing when the job is another worker's by now; StoreUnavailable.
        """
        async with self._database.begin(tenant_id) as connection:
            yield connection
            await self.end_with(await Statements.of(connection))
        self._is_ended = True

    async def end(self) -> None:
        """End the job, unless `begin` did. Raises as `begin`."""
        if not self._is_ended:
            async with self._database.transact_jobs() as statements:
                await self.end_with(statements)
            self._is_ended = True

    async def end_with(self, statements: Statements) -> None:
        """End the job with a transaction that sees it. Raises JobLost."""
        if not await self._jobs.end(statements, self.job_id, self.worker_id):
            raise JobLost(f"job {self.job_id} is not worker {self.worker_id}'s any more")


@dataclass(frozen=True)
class JobHandler(Generic[P]):
    """What a worker does with a kind of job.

    `handle` works through `Database.begin(payload.tenant_id)`. A worker may die at any moment, and the job is then
    begun anew: what is done before its last transaction (`JobRun.begin`) has to do no harm when it is done twice.
    """

    kind: JobKind[P]
    handle: Callable[[P, JobRun], Awaitable[None]]
    cron: str | None = None
    """When (UTC) a job of this kind is added for every tenant, once however many workers there are. Its payload then
    is the tenant alone."""
