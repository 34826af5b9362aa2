"""Expiry: memories that ended by themselves are removed, some time after their end; so are what became of ingests, what
was set apart, and what was recalled."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.jobs import JobKind, JobPayload
from app.ports import Clock
from app.services.jobs.run import JobRun
from app.store.engine import Database
from app.store.expiry import ExpiryStore
from app.store.ingests import IngestStore
from app.store.quarantine import QuarantineStore
from app.store.recalls import RecallStore

log = structlog.get_logger(__name__)

EXPIRY = JobKind("expiry", JobPayload)
EVERY_HOUR = "17 * * * *"
BATCH = 500
"""Memories of one transaction: a writer never waits long for their rows."""


DeleteOld = Callable[[AsyncConnection, str, datetime, int], Awaitable[int]]
"""Deletes up to so many rows of a tenant of before a moment; how many."""


@dataclass(frozen=True)
class ExpiryService:
    """Removes what expired more than `kept` ago. Until then a search as of an earlier moment finds it."""

    database: Database
    memories: ExpiryStore
    ingests: IngestStore
    quarantine: QuarantineStore
    recalls: RecallStore
    clock: Clock
    kept: timedelta
    recalls_kept: timedelta

    async def handle(self, payload: JobPayload, run: JobRun) -> None:
        """The job of a tenant: batch after batch, which may be done twice."""
        before = self.clock.now() - self.kept
        deleted = 0
        while True:
            async with self.database.begin(payload.tenant_id) as connection:
                gone = await self.memories.delete_expired(connection, payload.tenant_id, before, BATCH)
            deleted += gone
            if gone < BATCH:
                break
        if deleted:
            log.info("memories_expired", deleted=deleted)
        await self._forget(payload.tenant_id, before, self.ingests.delete_finished)
        await self._forget(payload.tenant_id, before, self.quarantine.delete_old)
        await self._forget(payload.tenant_id, self.clock.now() - self.recalls_kept, self.recalls.delete_old)

    async def _forget(self, tenant_id: str, before: datetime, delete: DeleteOld) -> None:
        """What is so old is not asked for any more."""
        gone = BATCH
        while gone == BATCH:
            async with self.database.begin(tenant_id) as connection:
                gone = await delete(connection, tenant_id, before, BATCH)
