"""Expiry: memories that ended by themselves are removed, some time after their end; so is what became of ingests."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.domain.jobs import JobKind, JobPayload
from app.ports import Clock
from app.services.jobs.run import JobRun
from app.store.engine import Database
from app.store.expiry import ExpiryStore
from app.store.ingests import IngestStore

log = structlog.get_logger(__name__)

EXPIRY = JobKind("expiry", JobPayload)
EVERY_HOUR = "17 * * * *"
BATCH = 500
"""Memories of one transaction: a writer never waits long for their rows."""


@dataclass(frozen=True)
class ExpiryService:
    """Removes what expired more than `kept` ago. Until then a search as of an earlier moment finds it."""

    database: Database
    memories: ExpiryStore
    ingests: IngestStore
    clock: Clock
    kept: timedelta

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
        await self._forget_ingests(payload.tenant_id, before)

    async def _forget_ingests(self, tenant_id: str, before: datetime) -> None:
        """What became of conversations that were handed in long ago is not asked any more."""
        gone = BATCH
        while gone == BATCH:
            async with self.database.begin(tenant_id) as connection:
                gone = await self.ingests.delete_finished(connection, tenant_id, before, BATCH)
