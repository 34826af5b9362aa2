"""Recalls: what was found for what can be looked at, judged and done again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import Memory, MemoryType
from app.domain.ranking import Weights
from app.domain.relevance import fusion_of
from app.services.ranking import Found, RankingService, SearchRequest
from app.services.recall_log import RecallLog
from app.store.engine import Database
from app.store.memories import MemoryStore
from app.store.recalls import Recall, RecallStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Receipt:
    """A recall with its memories as they were known when it was made, and as they are `current` now; None for each that
    is gone."""

    recall: Recall
    memories: Sequence[Memory | None]
    current: Sequence[Memory | None]


@dataclass(frozen=True)
class Replay:
    """A recall done again: by what was known then, and by what is known now."""

    recall: Recall
    then: Found
    now: Found

    @property
    def is_same(self) -> bool:
        """Whether what was known then gives the same memories in the same order; of those for a prompt or a chat, where
        more were found than told, those that were told. A memory that was changed since is what its earlier version
        says."""
        told = [UUID(each["id"]) for each in self.recall.shown if each.get("score") is not None]
        known = set(told)
        again = [_id_among(known, each.memory) for each in self.then.ranked]
        if self.recall.kind != "search":
            told, again = sorted(told), sorted(each for each in again if each in known)
        return again == told


def _id_among(told: set[UUID], memory: Memory) -> UUID:
    """The id under which a memory was told, if it was: its own, or that of the one whose earlier version it is."""
    return memory.memory_id if memory.memory_id in told else memory.version_of or memory.memory_id


@dataclass(frozen=True)
class RecallService:
    """The use cases about recalls."""

    database: Database
    ranking: RankingService
    recalls: RecallStore
    memories: MemoryStore
    log: RecallLog

    async def get(self, tenant_id: str, recall_id: UUID, owner: str | None = None) -> Recall:
        """One recall. Raises NotFound, also where there is an `owner` whose it is not; so do the others."""
        recall = self.log.waiting(tenant_id, recall_id)
        if recall is None:
            async with self.database.begin(tenant_id) as connection:
                recall = await self.recalls.get(connection, tenant_id, recall_id)
        if recall is None or owner not in {None, recall.user_id}:
            raise NotFound("no such recall")
        return recall

    async def receipt(self, tenant_id: str, recall_id: UUID, owner: str | None = None) -> Receipt:
        """A recall with its memories. Raises NotFound."""
        return await self._receipt_of(tenant_id, await self.get(tenant_id, recall_id, owner))

    async def _receipt_of(self, tenant_id: str, recall: Recall) -> Receipt:
        ids = recall.memory_ids
        async with self.database.begin(tenant_id) as connection:
            current = await self.memories.many(connection, tenant_id, recall.user_id, ids)
            known = await self.recalls.memories_as_known(connection, tenant_id, recall)
        return Receipt(recall, [known.get(each) for each in ids], [current.get(each) for each in ids])

    async def page(
        self, tenant_id: str, user_id: str, *, after: tuple[datetime, UUID] | None = None, limit: int = 100
    ) -> list[Recall]:
        """A user's recalls, the latest first; those behind `after`, the `asked_at` and id of the last one that was
        seen. Raises NotFound for an unknown user."""
        async with self.database.begin(tenant_id) as connection:
            found = await self.recalls.page(connection, tenant_id, user_id, after=after, limit=limit)
            if not found and not await self.ranking.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
        return found

    async def judge(
        self, tenant_id: str, recall_id: UUID, helpful: Sequence[UUID], owner: str | None = None
    ) -> Receipt:
        """Note which of the memories shown were helpful; what was noted before is replaced. Raises NotFound, and
        InvalidInput for a memory that was not shown."""
        recall = await self.get(tenant_id, recall_id, owner)
        unknown = [str(each) for each in helpful if each not in recall.memory_ids]
        if unknown:
            raise InvalidInput(f"the recall did not show {', '.join(unknown)}", "helpful_ids")
        async with self.database.begin(tenant_id) as connection:
            if not await self.recalls.judge(connection, tenant_id, recall_id, helpful):
                raise NotFound("no such recall")
        log.info("recall_judged", recall_id=str(recall_id), shown=len(recall.shown), helpful=len(helpful))
        return await self._receipt_of(tenant_id, replace(recall, helpful=[str(each) for each in helpful]))

    async def replay(self, tenant_id: str, recall_id: UUID, owner: str | None = None) -> Replay:
        """Do a recall again, and write nothing down. Raises NotFound, and as `RankingService.search`."""
        recall = await self.get(tenant_id, recall_id, owner)
        request = request_of(recall)
        known = replace(request, as_of=recall.as_of, known_at=known_at_of(recall))
        then = await self.ranking.search(tenant_id, recall.user_id, known, is_recorded=False)
        plain = replace(request, weights=None, fusion=None)
        now = await self.ranking.search(tenant_id, recall.user_id, plain, is_recorded=False)
        return Replay(recall, then, now)


def known_at_of(recall: Recall) -> datetime:
    """By what was known at which moment a recall went."""
    asked = recall.asked.get("known_at")
    return recall.asked_at if asked is None else min(recall.asked_at, datetime.fromisoformat(asked))


def request_of(recall: Recall) -> SearchRequest:
    """The search that a recall was, as of now."""
    asked = recall.asked
    types = asked.get("types")
    return SearchRequest(
        recall.query,
        asked.get("limit") or 10,
        [MemoryType(each) for each in types] if types else None,
        asked.get("tags"),
        weights=Weights(**asked["weights"]) if asked.get("weights") else None,
        is_reranked=asked.get("is_reranked", False),
        fusion=fusion_of(asked["fusion"]) if asked.get("fusion") else None,
        token_budget=asked.get("token_budget"),
    )
