"""What chats leave behind: the one place through which the proxy remembers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from app.domain.errors import UserErased
from app.domain.hypotheses import Turn
from app.domain.remembering import SOURCE, drafts_of
from app.services.corrections import Corrections
from app.services.gate import Candidate, GateService

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Remembering:
    """Remembers what users say in chats."""

    gate: GateService

    async def remember(
        self, tenant_id: str, user_id: str, messages: Sequence[Turn], *, known_since: datetime | None = None
    ) -> None:
        """Take in what a user said, oldest first. Of a user who was `known_since` a moment and is erased by now nothing
        is kept. Raises ModelUnavailable, StoreUnavailable: nothing is remembered then."""
        heard = [each.content for each in messages]
        candidates = [Candidate(draft, heard) for draft in drafts_of(messages)]
        now, corrections = self.gate.clock.now(), Corrections(self.gate.memories)
        for each in heard:
            right = await corrections.set_right(tenant_id, user_id, each, now, SOURCE)
            candidates += [right] if right is not None else []
        if not candidates:
            return
        try:
            added, set_apart = await self.gate.remember(tenant_id, user_id, candidates, known_since=known_since)
        except UserErased:
            log.info("learning_dropped", reason="the user was erased meanwhile")
            return
        log.info(
            "chat_remembered",
            memories=len(added.ids),
            deduplicated=added.deduplicated,
            set_apart=set_apart,
        )
