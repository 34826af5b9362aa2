"""The write gate in use: what statements are kept, what is set apart, and how much of it is junk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import ModelUnavailable, NotFound
from app.domain.gate import Reason, is_reworded, reason_against
from app.domain.memory import Draft
from app.domain.statements import NEAR_DUPLICATE_COSINE, Statement, contradiction
from app.domain.wording import normalise
from app.ports import Clock, Reranker
from app.services.memories import Added, MemoryService
from app.store.quarantine import QuarantineStore, SetApart
from app.store.recalls import RecallStore

log = structlog.get_logger(__name__)

STATEMENTS = Counter(
    "embed_service_statements_total", "Statements made of what was said, by the write gate's verdict.", ["verdict"]
)

RECALLED_WITHIN = timedelta(days=1)
"""A statement that is word for word a memory recalled so lately is its echo, and no second proof of it."""


@dataclass(frozen=True)
class Candidate:
    """A statement as it comes to the gate: the memory that it would be, and the words that it may rest on."""

    draft: Draft
    heard: Sequence[str]


@dataclass
class Passed:
    """What became of some statements."""

    kept: list[Draft] = field(default_factory=list[Draft])
    set_apart: list[tuple[Draft, Reason]] = field(default_factory=list[tuple[Draft, Reason]])


@dataclass(frozen=True)
class GateService:
    """The use cases about the write gate. `reranker`: a model that reads a statement with its quote, where there is
    one that is good at it."""

    memories: MemoryService
    quarantine: QuarantineStore
    recalls: RecallStore
    clock: Clock
    reranker: Reranker | None = None

    async def passed(self, tenant_id: str, user_id: str, candidates: Sequence[Candidate]) -> Passed:
        """Which of some statements are kept and which are set apart; echoes of what was recalled are neither."""
        passed = Passed()
        if not candidates:
            return passed
        now = self.clock.now()
        async with self.memories.database.begin(tenant_id) as connection:
            recalled = await self.recalls.contents_since(connection, tenant_id, user_id, now - RECALLED_WITHIN, now)
        echoes = {normalise(each) for each in recalled}
        for candidate in candidates:
            if normalise(candidate.draft.content) in echoes and not _is_news(candidate.draft, passed.kept):
                STATEMENTS.labels("recalled").inc()
                continue
            reason = await self._reason_against(candidate)
            STATEMENTS.labels(reason or "kept").inc()
            if reason is None:
                passed.kept.append(candidate.draft)
            else:
                passed.set_apart.append((candidate.draft, reason))
        return passed

    async def _reason_against(self, candidate: Candidate) -> Reason | None:
        draft, heard = candidate.draft, candidate.heard
        reason = reason_against(draft, heard)
        is_asked = reason == "unsupported"
        if reason is None:
            is_asked = is_reworded(draft, heard) and draft.replaces is None
        if not is_asked or self.reranker is None:
            return reason
        try:
            (relevance,) = await self.reranker.rerank(draft.content, [draft.quote or heard[-1]])
        except ModelUnavailable as error:
            log.warning("reranking_unavailable", cause=error.cause, reason=str(error))
            return reason
        return reason_against(draft, heard, relevance)

    async def remember(
        self,
        tenant_id: str,
        user_id: str,
        candidates: Sequence[Candidate],
        also_drafts: Sequence[Draft] = (),
        *,
        known_since: datetime | None = None,
    ) -> tuple[Added, int]:
        """Remember `also_drafts`, which are no statements, and those of `candidates` that are kept, and set the others
        apart: what became of what is remembered, and how many were set apart. Raises as `MemoryService.add`."""
        passed = await self.passed(tenant_id, user_id, candidates)
        drafts = [*also_drafts, *passed.kept]
        if not drafts and not passed.set_apart:
            return Added((), 0, ()), 0

        async def also(connection: AsyncConnection, _: Added) -> None:
            await self.set_apart(connection, tenant_id, user_id, passed, self.memories.clock.now())

        added = await self.memories.add(tenant_id, user_id, drafts, known_since=known_since, within=also)
        return added, len(passed.set_apart)

    async def set_apart(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, passed: Passed, now: datetime
    ) -> None:
        """Keep what did not pass where it can be read, with the caller's transaction."""
        await self.quarantine.put(connection, tenant_id, user_id, passed.set_apart, now)

    async def page(
        self, tenant_id: str, user_id: str, *, after: tuple[datetime, UUID] | None = None, limit: int = 100
    ) -> list[SetApart]:
        """A user's statements that are set apart, the latest first; those behind `after`, the `created_at` and id of
        the last one that was seen. Raises NotFound for an unknown user."""
        async with self.memories.database.begin(tenant_id) as connection:
            found = await self.quarantine.page(connection, tenant_id, user_id, after=after, limit=limit)
            if not found and not await self.memories.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
        return found

    async def get(self, tenant_id: str, item_id: UUID, owner: str | None = None) -> SetApart:
        """One of them. Raises NotFound, also where there is an `owner` whose it is not."""
        async with self.memories.database.begin(tenant_id) as connection:
            found = await self.quarantine.get(connection, tenant_id, item_id)
        if found is None or owner not in {None, found.user_id}:
            raise NotFound("no such statement")
        return found

    async def release(self, tenant_id: str, item_id: UUID, owner: str | None = None) -> Added:
        """Let a statement through after all: it becomes a memory. Raises NotFound, and as `MemoryService.add`."""
        item = await self.get(tenant_id, item_id, owner)

        async def take(connection: AsyncConnection, _: Added) -> None:
            if not await self.quarantine.take(connection, tenant_id, item_id):
                raise NotFound("no such statement")

        return await self.memories.add(tenant_id, item.user_id, [item.draft], within=take)


def _is_news(draft: Draft, kept: Sequence[Draft]) -> bool:
    """Whether what is said before it, at the same time, contradicts a statement: then it takes that back."""
    said = Statement(draft.content)
    return any(contradiction(said, Statement(each.content), NEAR_DUPLICATE_COSINE) is not None for each in kept)
