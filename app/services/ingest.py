"""Ingest: conversations are handed in and remembered in the background; what became of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid4, uuid5

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import NotFound
from app.domain.jobs import JobKind, JobPayload
from app.domain.turns import Utterance, session_of
from app.ports import Clock
from app.services.jobs.queue import JobQueue, new_job
from app.store.engine import Database
from app.store.ingests import Ingest, IngestStore
from app.store.users import UserStore

log = structlog.get_logger(__name__)

_NAMESPACE = UUID("5f0c5a0e-4a53-4a3c-9d53-6a1f7f7d9b57")
"""Of ids that callers' own keys give."""


class IngestPayload(JobPayload):
    """A user's ingest."""

    user_id: str
    ingest_id: UUID


INGEST = JobKind("ingest", IngestPayload)

IngestState = Literal["waiting", "running", "done", "dead"]


@dataclass(frozen=True)
class IngestService:
    """The use cases about ingests."""

    database: Database
    queue: JobQueue
    ingests: IngestStore
    users: UserStore
    clock: Clock

    async def begin(
        self,
        tenant_id: str,
        user_id: str,
        said: Sequence[Utterance],
        session: str | None = None,
        key: str | None = None,
    ) -> UUID:
        """Hand in turns of a conversation; the ingest's id. They are remembered after those that were handed in before
        them for the same user. With a `key` of the caller's, what was handed in under it already is not again."""
        now = self.clock.now()
        ingest_id = uuid4() if key is None else uuid5(_NAMESPACE, f"{tenant_id}\n{user_id}\n{key}")
        async with self.database.begin(tenant_id) as connection:
            await self.users.ensure(connection, tenant_id, user_id, now)
            conversation = session or session_of(ingest_id)
            if await self.ingests.create(connection, tenant_id, user_id, ingest_id, conversation, said, now):
                await self._add_job(connection, tenant_id, user_id, ingest_id)
        log.info("ingest_begun", ingest_id=str(ingest_id), turns=len(said))
        return ingest_id

    async def resume(self, connection: AsyncConnection, tenant_id: str, users: Sequence[str]) -> None:
        """Have ingests remembered that came with an import, with the caller's transaction."""
        for ingest in await self.ingests.jobless(connection, tenant_id, users):
            await self._add_job(connection, tenant_id, ingest.user_id, ingest.ingest_id)

    async def status(self, tenant_id: str, ingest_id: UUID, owner: str | None = None) -> tuple[Ingest, IngestState]:
        """An ingest and how it stands. Raises NotFound, also where there is an `owner` whose it is not."""
        async with self.database.begin(tenant_id) as connection:
            ingest = await self.ingests.get(connection, tenant_id, ingest_id)
        if ingest is None or owner not in {None, ingest.user_id}:
            raise NotFound("no such job")
        if ingest.finished_at is not None:
            return ingest, "done"
        state = None if ingest.job is None else await self.queue.state(ingest.job)
        if state is None:  # it ended between the two looks, or its operator dropped it
            async with self.database.begin(tenant_id) as connection:
                ingest = await self.ingests.get(connection, tenant_id, ingest_id) or ingest
            return ingest, "dead" if ingest.finished_at is None else "done"
        return ingest, state

    async def _add_job(self, connection: AsyncConnection, tenant_id: str, user_id: str, ingest_id: UUID) -> None:
        payload = IngestPayload(tenant_id=tenant_id, user_id=user_id, ingest_id=ingest_id)
        (job,) = await self.queue.add(connection, new_job(INGEST, payload, lane=f"ingest/{user_id}"))
        await self.ingests.give_job(connection, tenant_id, ingest_id, job)
