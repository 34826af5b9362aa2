"""Ingest: the turns of a conversation become memories, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.domain.errors import NotFound
from app.domain.facts import correction_in
from app.domain.memory import STATES, Draft
from app.domain.turns import Message, corrected, drafts_of
from app.services.memories import MemoryService
from app.services.ranking import RankingService, SearchRequest

log = structlog.get_logger(__name__)

KNOWN = 5
"""Memories among which a correction looks for what it sets right."""


@dataclass(frozen=True)
class Ingested:
    """How many turns were taken, the memories that hold what they left, and how many they superseded."""

    turns: int
    ids: tuple[UUID, ...]
    superseded: int


@dataclass(frozen=True)
class IngestService:
    """The use case about conversations."""

    memories: MemoryService
    ranking: RankingService

    async def take(
        self, tenant_id: str, user_id: str, messages: Sequence[Message], session: str, first_turn: int = 1
    ) -> Ingested:
        """Remember each turn with what it tells, one transaction a turn. Raises as `MemoryService.add`."""
        ids: list[UUID] = []
        superseded = 0
        for turn, message in enumerate(messages, first_turn):
            drafts = drafts_of(message, session, turn)
            drafts += await self._corrections(tenant_id, user_id, message, f"turn:{session}:{turn}"[:128])
            added = await self.memories.add(tenant_id, user_id, drafts)
            ids += added.ids
            superseded += len(added.superseded)
        log.info("turns_ingested", turns=len(messages), memories=len(set(ids)), superseded=superseded)
        return Ingested(len(messages), tuple(dict.fromkeys(ids)), superseded)

    async def _corrections(self, tenant_id: str, user_id: str, message: Message, source: str) -> list[Draft]:
        correction = correction_in(message.content) if message.role == "user" else None
        if correction is None:
            return []
        request = SearchRequest(correction.old, KNOWN, sorted(STATES))
        try:
            found = await self.ranking.search(tenant_id, user_id, request)
        except NotFound:  # nothing was said before
            return []
        draft = corrected(correction, [item.memory for item in found.ranked], source)
        return [] if draft is None else [draft]
