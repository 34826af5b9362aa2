"""The queue of background jobs: what is added to it, and what its operator sees and does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput
from app.domain.jobs import MAX_PAYLOAD_BYTES, JobKind, JobPayload, JobState, JobView, P
from app.store.engine import Database, Statements
from app.store.jobs import JobStore, NewJob

log = structlog.get_logger(__name__)


def new_job(
    kind: JobKind[P],
    payload: P,
    *,
    lane: str | None = None,
    key: str | None = None,
    run_at: datetime | None = None,
    priority: int = 0,
) -> NewJob:
    """A job to be added. Jobs of one `lane` of a tenant (a user's id, say) run one after the other, in the order in
    which they were added; of one `key` of a kind and tenant one job waits at most. A higher `priority` comes first.

    Raises InvalidInput for a payload that is more than ids.
    """
    text = payload.model_dump_json()
    if len(text.encode()) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(f"a job holds ids, {MAX_PAYLOAD_BYTES} bytes at most")
    tenant_id = payload.tenant_id
    own_lane = None if lane is None else f"{tenant_id}/{lane}"
    own_key = None if key is None else f"{kind.name}/{tenant_id}/{key}"
    return NewJob(kind.name, text, own_lane, own_key, run_at, priority)


def decode(kind: JobKind[P], fields: object) -> P:
    """The payload of a job out of the database. Raises ValidationError (pydantic)."""
    return kind.payload.model_validate(fields)


@dataclass(frozen=True)
class JobQueue:
    """The use cases about jobs."""

    database: Database
    jobs: JobStore

    async def add(self, connection: AsyncConnection | Statements, *added: NewJob) -> list[int]:
        """Add jobs with the caller's transaction, which has to be their tenant's: they are there when it is committed,
        and never were when it is undone. The ids of those added, without those whose key waits already."""
        statements = connection if isinstance(connection, Statements) else await Statements.of(connection)
        return await self.jobs.add(statements, added)

    async def find(
        self,
        *,
        states: Sequence[JobState] = ("waiting", "running", "dead"),
        kind: str | None = None,
        tenant_id: str | None = None,
        limit: int = 100,
    ) -> list[JobView]:
        """Jobs of every tenant, or of one, in the order in which they were added."""
        async with self.database.transact_jobs() as statements:
            return await self.jobs.find(statements, states=states, kind=kind, tenant_id=tenant_id, limit=limit)

    async def state(self, job_id: int) -> JobState | None:
        """How a job stands; None where it is done or was dropped."""
        async with self.database.transact_jobs() as statements:
            return await self.jobs.state(statements, job_id)

    async def counts(self) -> dict[tuple[str, JobState], int]:
        """Jobs by kind and state."""
        async with self.database.transact_jobs() as statements:
            return await self.jobs.counts(statements)

    async def put_back(self, job_ids: Sequence[int] | None) -> list[int]:
        """Let dead jobs (all of them for None) be tried again; their ids. A waiting job of the same key goes."""
        async with self.database.transact_jobs() as statements:
            back = await self.jobs.put_back(statements, job_ids)
        log.info("jobs_put_back", jobs=back)
        return back

    async def drop(self, job_ids: Sequence[int] | None) -> list[int]:
        """Delete dead jobs (all of them for None); their ids."""
        async with self.database.transact_jobs() as statements:
            dropped = await self.jobs.drop(statements, job_ids)
        log.info("jobs_dropped", jobs=dropped)
        return dropped


def tenant_job(kind: JobKind[JobPayload], tenant_id: str) -> NewJob:
    """A recurring job of a tenant: none is added while one waits."""
    return new_job(kind, kind.payload(tenant_id=tenant_id), key="recurring")
