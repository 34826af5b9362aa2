"""Queries about recalls: what memories were found for what, and what each was ranked by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, and_, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.memory import Memory
from app.store.memories import memory_of
from app.store.memory_search import FIELDS
from app.store.pages import delete_oldest, page_of
from app.store.tables import recalls, users

Kind = Literal["search", "execute", "chat"]
"""What memories were recalled for: for the caller, for a prompt, for a chat."""


@dataclass(frozen=True)
class Recall:
    """What was recalled, once. `asked`: how it was asked for; `shown`: each memory's id, score and parts, best first;
    `helpful`: which of them were, where somebody said so."""

    recall_id: UUID
    user_id: str
    kind: Kind
    query: str
    asked_at: datetime
    as_of: datetime
    asked: Mapping[str, Any]
    space: str
    is_degraded: bool
    shown: Sequence[Mapping[str, Any]]
    helpful: Sequence[str] | None = None

    @property
    def memory_ids(self) -> list[UUID]:
        """The memories shown, best first."""
        return [UUID(each["id"]) for each in self.shown]


_COLUMNS = (
    recalls.c.recall_id,
    recalls.c.user_id,
    recalls.c.kind,
    recalls.c.query,
    recalls.c.asked_at,
    recalls.c.as_of,
    recalls.c.asked,
    recalls.c.space,
    recalls.c.is_degraded,
    recalls.c.shown,
    recalls.c.helpful,
)

_PUT = text("""
INSERT INTO recalls (
    tenant_id, recall_id, user_id, kind, query, asked_at, as_of, asked, space, is_degraded, shown
)
SELECT :tenant_id, given.* FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS given(
    recall_id uuid, user_id text, kind text, query text, asked_at timestamptz, as_of timestamptz, asked jsonb,
    space text, is_degraded boolean, shown jsonb
)
WHERE EXISTS (SELECT FROM users u WHERE u.tenant_id = :tenant_id AND u.user_id = given.user_id)
ON CONFLICT DO NOTHING
""")

_CONTENTS = text("""
SELECT DISTINCT m.content
FROM recalls r
CROSS JOIN LATERAL jsonb_array_elements(r.shown) AS told(item)
CROSS JOIN LATERAL (
    SELECT content FROM memories m
    WHERE m.tenant_id = r.tenant_id AND m.user_id = r.user_id AND m.memory_id = (told.item ->> 'id')::uuid
      AND m.version_of IS NULL AND m.superseded_by IS NULL AND (m.valid_to IS NULL OR m.valid_to > :now)
      AND (m.expires_at IS NULL OR m.expires_at > :now)
    LIMIT 1
) AS m
WHERE r.tenant_id = :tenant_id AND r.user_id = :user_id AND r.asked_at >= :since
""")

_AS_KNOWN = text("""
SELECT m.*, known.at AS end_learned_at, known.told AS end_told, shown.memory_id AS shown_id
FROM unnest(CAST(:ids AS uuid[])) AS shown(memory_id)
CROSS JOIN LATERAL (
    SELECT * FROM memories m
    WHERE m.tenant_id = :tenant_id AND m.user_id = :user_id
      AND (m.memory_id = shown.memory_id OR m.version_of = shown.memory_id)
      AND coalesce(m.known_from, m.created_at) <= :at
    ORDER BY coalesce(m.known_from, m.created_at) DESC, m.memory_id LIMIT 1
) AS m
LEFT JOIN LATERAL (
    SELECT at, told FROM unnest(m.ended_at, m.told_to) AS was(at, told) WHERE was.at > :at ORDER BY was.at LIMIT 1
) AS known ON true
""")
"""Of each memory the version of that moment, and where its end was learned later, the end that was known then."""


class RecallStore:
    """What is asked and written about recalls."""

    async def put(self, connection: AsyncConnection, tenant_id: str, made: Sequence[Recall]) -> None:
        """Write some down, of users who are not erased by now."""
        rows = [
            {
                "recall_id": recall.recall_id,
                "user_id": recall.user_id,
                "kind": recall.kind,
                "query": recall.query,
                "asked_at": recall.asked_at,
                "as_of": recall.as_of,
                "asked": recall.asked,
                "space": recall.space,
                "is_degraded": recall.is_degraded,
                "shown": recall.shown,
            }
            for recall in made
        ]
        await connection.execute(_PUT, {"tenant_id": tenant_id, "rows": orjson.dumps(rows, default=str).decode()})

    async def get(self, connection: AsyncConnection, tenant_id: str, recall_id: UUID) -> Recall | None:
        """One of them."""
        query = select(*_COLUMNS).where(recalls.c.tenant_id == tenant_id, recalls.c.recall_id == recall_id)
        row = (await connection.execute(query)).one_or_none()
        return None if row is None else Recall(*row)

    async def memories_as_known(
        self, connection: AsyncConnection, tenant_id: str, recall: Recall
    ) -> dict[UUID, Memory]:
        """The memories of a recall that are not deleted, each as it was known when it was shown, by the id shown."""
        arguments = {"tenant_id": tenant_id, "user_id": recall.user_id, "ids": recall.memory_ids, "at": recall.asked_at}
        rows = (await connection.execute(_AS_KNOWN, arguments)).mappings()
        return {row["shown_id"]: _as_known(row) for row in rows}

    async def page(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        *,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[Recall]:
        """A user's, the latest first: the first `limit`, or those that come after one (its `asked_at`, its id)."""
        c = recalls.c
        query = select(*_COLUMNS).where(c.tenant_id == tenant_id, c.user_id == user_id)
        rows = await connection.execute(page_of(query, c.asked_at, c.recall_id, after, limit))
        return [Recall(*row) for row in rows]

    async def judge(
        self, connection: AsyncConnection, tenant_id: str, recall_id: UUID, helpful: Sequence[UUID]
    ) -> bool:
        """Note which memories of a recall were helpful; False where it is not there."""
        query = update(recalls).where(recalls.c.tenant_id == tenant_id, recalls.c.recall_id == recall_id)
        return (await connection.execute(query.values(helpful=[str(each) for each in helpful]))).rowcount == 1

    async def judged(self, connection: AsyncConnection, tenant_id: str, limit: int) -> list[Recall]:
        """Recalls of which somebody said what was helpful, of users who let their data be learned from, the latest
        `limit`, oldest first."""
        c = recalls.c
        learns = and_(users.c.tenant_id == c.tenant_id, users.c.user_id == c.user_id, users.c.has_consent)
        query = select(*_COLUMNS).join(users, learns).where(c.tenant_id == tenant_id, c.helpful.is_not(None))
        rows = await connection.execute(query.order_by(c.asked_at.desc(), c.recall_id.desc()).limit(limit))
        return [Recall(*row) for row in rows][::-1]

    async def count_judged(self, connection: AsyncConnection, tenant_id: str) -> int:
        """Of how many somebody said what was helpful."""
        query = select(func.count()).select_from(recalls)
        query = query.where(recalls.c.tenant_id == tenant_id, recalls.c.helpful.is_not(None))
        return (await connection.execute(query)).scalar_one()

    async def contents_since(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, since: datetime, now: datetime
    ) -> list[str]:
        """What the memories say that were recalled for a user since a moment and are live now: whoever says what is
        over says something new."""
        arguments = {"tenant_id": tenant_id, "user_id": user_id, "since": since, "now": now}
        return list((await connection.execute(_CONTENTS, arguments)).scalars())

    async def delete_old(self, connection: AsyncConnection, tenant_id: str, before: datetime, count: int) -> int:
        """Delete up to `count` of before a moment; how many."""
        c = recalls.c
        return await delete_oldest(connection, tenant_id, c.asked_at, c.recall_id, before=before, count=count)


def _as_known(row: RowMapping) -> Memory:
    memory = memory_of([row[name] for name in FIELDS])
    if row["end_learned_at"] is None:
        return memory
    by = memory.superseded_by if row["end_told"] is not None else None
    return replace(memory, valid_to=row["end_told"], superseded_by=by)
