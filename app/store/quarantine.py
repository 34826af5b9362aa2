"""Queries about statements that did not pass the write gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.gate import Reason
from app.domain.memory import Draft, MemoryType
from app.store.pages import delete_oldest, page_of
from app.store.tables import quarantine


@dataclass(frozen=True)
class SetApart:
    """A statement that was set apart, and why."""

    item_id: UUID
    user_id: str
    type: MemoryType
    content: str
    confidence: float
    source: str
    quote: str | None
    reason: Reason
    valid_from: datetime
    created_at: datetime

    @property
    def draft(self) -> Draft:
        """The memory that it would be."""
        return Draft(
            self.type,
            self.content,
            self.confidence,
            source=self.source,
            valid_from=self.valid_from,
            quote=self.quote,
        )


_COLUMNS = (
    quarantine.c.item_id,
    quarantine.c.user_id,
    quarantine.c.type,
    quarantine.c.content,
    quarantine.c.confidence,
    quarantine.c.source,
    quarantine.c.quote,
    quarantine.c.reason,
    quarantine.c.valid_from,
    quarantine.c.created_at,
)


def _set_apart(row: Sequence[object]) -> SetApart:
    item_id, user_id, kind, *rest = row
    return SetApart(item_id, user_id, MemoryType(kind), *rest)  # pyright: ignore[reportArgumentType]


class QuarantineStore:
    """What is asked and written about them."""

    async def put(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        items: Sequence[tuple[Draft, Reason]],
        now: datetime,
    ) -> None:
        """Set statements apart."""
        rows = [
            {
                "tenant_id": tenant_id,
                "item_id": uuid4(),
                "user_id": user_id,
                "type": draft.type.value,
                "content": draft.content,
                "confidence": draft.confidence,
                "source": draft.source,
                "quote": draft.quote,
                "reason": reason,
                "valid_from": draft.valid_from or now,
                "created_at": now,
            }
            for draft, reason in items
        ]
        if rows:
            await connection.execute(insert(quarantine), rows)

    async def page(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        *,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[SetApart]:
        """A user's, the latest first: the first `limit`, or those that come after one (its `created_at`, its id)."""
        c = quarantine.c
        query = select(*_COLUMNS).where(c.tenant_id == tenant_id, c.user_id == user_id)
        rows = await connection.execute(page_of(query, c.created_at, c.item_id, after, limit))
        return [_set_apart(row) for row in rows]

    async def get(self, connection: AsyncConnection, tenant_id: str, item_id: UUID) -> SetApart | None:
        """One of them."""
        query = select(*_COLUMNS).where(quarantine.c.tenant_id == tenant_id, quarantine.c.item_id == item_id)
        row = (await connection.execute(query)).one_or_none()
        return None if row is None else _set_apart(row)

    async def take(self, connection: AsyncConnection, tenant_id: str, item_id: UUID) -> bool:
        """Take one off; False where it is not there any more."""
        query = delete(quarantine).where(quarantine.c.tenant_id == tenant_id, quarantine.c.item_id == item_id)
        return (await connection.execute(query)).rowcount == 1

    async def delete_old(self, connection: AsyncConnection, tenant_id: str, before: datetime, count: int) -> int:
        """Delete up to `count` that were set apart before a moment; how many."""
        c = quarantine.c
        return await delete_oldest(connection, tenant_id, c.created_at, c.item_id, before=before, count=count)
