"""The job of consolidation: users whose memories changed are looked through, some at a time."""

from dataclasses import dataclass

import numpy as np
import structlog
from prometheus_client import Counter

from app.domain.consolidation import Consolidated, consolidate
from app.domain.jobs import JobKind, JobPayload
from app.ports import Clock
from app.services.jobs.run import JobRun
from app.services.memories import end_values, merge_values
from app.services.spaces import Spaces
from app.store.consolidation import ConsolidationStore
from app.store.engine import Database
from app.store.memories import MemoryStore
from app.store.users import UserStore

log = structlog.get_logger(__name__)

CONSOLIDATION = JobKind("consolidation", JobPayload)
EVERY_NIGHT = "41 2 * * *"

USERS = 100
"""Users who are looked up at a time."""

MOST = 2_000
"""A user's memories that are compared with one another, the latest told."""

CONSOLIDATED = Counter("embed_service_consolidated_total", "Memories that consolidation changed, by how.", ["action"])


@dataclass(frozen=True)
class ConsolidationService:
    """Compares what users told with what they told before."""

    database: Database
    spaces: Spaces
    consolidation: ConsolidationStore
    memories: MemoryStore
    users: UserStore
    clock: Clock

    async def handle(self, payload: JobPayload, run: JobRun) -> None:
        """The job of a tenant: user after user, each in a transaction of its own, which may be done twice."""
        merged = ended = 0
        while True:
            async with self.database.begin(payload.tenant_id) as connection:
                users = await self.consolidation.changed_users(connection, payload.tenant_id, USERS)
            for user_id in users:
                found = await self.consolidate(payload.tenant_id, user_id)
                merged, ended = merged + len(found.repeats), ended + len(found.ended)
            if len(users) < USERS:
                break
        if merged or ended:
            log.info("memories_consolidated", merged=merged, superseded=ended)

    async def consolidate(self, tenant_id: str, user_id: str) -> Consolidated:
        """Look through one user's memories, held meanwhile; what changed."""
        now = self.clock.now()
        space = (await self.spaces.of(tenant_id)).serving
        async with self.database.begin(tenant_id) as connection:
            await self.users.lock(connection, tenant_id, user_id)
            held = await self.consolidation.live(connection, tenant_id, user_id, space, now, MOST)
            vectors = np.stack([vector for _, vector in held]) if held else np.zeros((0, 1), np.float32)
            found = consolidate([memory for memory, _ in held], vectors, now)
            for memory in found.merged:
                await self.memories.update(connection, tenant_id, memory.memory_id, merge_values(memory), now)
            for repeat, kept in found.repeats:
                await self.consolidation.fold(connection, tenant_id, repeat, kept.memory_id, now)
            for memory in found.ended:
                await self.memories.update(connection, tenant_id, memory.memory_id, end_values(memory, now), now)
            await self.consolidation.note(connection, tenant_id, user_id)
        CONSOLIDATED.labels("merged").inc(len(found.repeats))
        CONSOLIDATED.labels("superseded").inc(len(found.ended))
        for memory in found.ended:
            log.info(
                "memory_conflict_resolved",
                memory_id=str(memory.superseded_by),
                action="supersede",
                reason="consolidation",
                others=[str(memory.memory_id)],
            )
        return found
