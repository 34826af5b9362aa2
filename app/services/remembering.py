"""What chats leave behind: the one place through which the proxy remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import UserErased
from app.domain.hypotheses import Turn
from app.domain.remembering import SOURCE, drafts_of
from app.services.corrections import Corrections
from app.services.gate import Candidate, GateService
from app.services.memories import Added, MemoryService

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Remembering:
    """Remembers what users say in chats."""

    memories: MemoryService
    gate: GateService

    async def remember(
        self, tenant_id: str, user_id: str, messages: Sequence[Turn], *, known_since: datetime | None = None
    ) -> None:
        """Take in what a user said, oldest first. Of a user who was `known_since` a moment and is erased by now nothing
        is kept. Raises ModelUnavailable, StoreUnavailable: nothing is remembered then."""
        heard = [each.content for each in messages]
        candidates = [Candidate(draft, heard) for draft in drafts_of(messages)]
        now, corrections = self.memories.clock.now(), Corrections(self.memories)
        for each in heard:
            right = await corrections.set_right(tenant_id, user_id, each, now, SOURCE)
            candidates += [right] if right is not None else []
        if not candidates:
            return
        passed = await self.gate.passed(tenant_id, user_id, candidates)

        async def also(connection: AsyncConnection, _: Added) -> None:
            await self.gate.set_apart(connection, tenant_id, user_id, passed, self.memories.clock.now())

        try:
            added = await self.memories.add(tenant_id, user_id, passed.kept, known_since=known_since, within=also)
        except UserErased:
            log.info("learning_dropped", reason="the user was erased meanwhile")
            return
        log.info(
            "chat_remembered",
            memories=len(added.ids),
            deduplicated=added.deduplicated,
            set_apart=len(passed.set_apart),
        )
