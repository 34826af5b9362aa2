"""Queries of consolidation: whose memories changed, and what of theirs is compared."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector
from app.domain.memory import STATES, Memory
from app.domain.spaces import StoredSpace
from app.store.memories import memory_of, with_told
from app.store.memory_search import MEMORY
from app.store.vectors import vector_from_bytes

_CHANGED = text("""
SELECT user_id FROM users WHERE tenant_id = :tenant_id AND writes > consolidated ORDER BY user_id LIMIT :count
""")

_NOTE = text("""
UPDATE users SET consolidated = writes WHERE tenant_id = :tenant_id AND user_id = :user_id
""")

_FOLD = text("""
UPDATE memories
SET version_of = :kept, valid_to = valid_from, updated_at = :now,
    ended_at = array_append(ended_at, CAST(:now AS timestamptz)), told_to = array_append(told_to, valid_to)
WHERE tenant_id = :tenant_id AND user_id = :user_id AND memory_id = :memory_id
""")


class ConsolidationStore:
    """What is asked and written about it."""

    async def changed_users(self, connection: AsyncConnection, tenant_id: str, count: int) -> list[str]:
        """Up to `count` users whose memories changed since they were looked through."""
        return list((await connection.execute(_CHANGED, {"tenant_id": tenant_id, "count": count})).scalars())

    async def live(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        space: StoredSpace,
        at: datetime,
        most: int,
    ) -> list[tuple[Memory, Vector]]:
        """What a user's memories say that are true and can become untrue, with their vectors in a space: the latest
        `most` of those that have one."""
        query = text(f"""
            SELECT {MEMORY}, m.told_at, vector_send(v.embedding::vector) AS vector
            FROM memories m
            CROSS JOIN LATERAL (
                SELECT embedding FROM {space.memory_table} v
                WHERE v.tenant_id = m.tenant_id AND v.user_id = m.user_id AND v.memory_id = m.memory_id LIMIT 1
            ) AS v
            WHERE m.tenant_id = :tenant_id AND m.user_id = :user_id AND m.type = ANY(:types)
              AND m.version_of IS NULL AND m.superseded_by IS NULL
              AND (m.valid_to IS NULL OR m.valid_to > :at) AND (m.expires_at IS NULL OR m.expires_at > :at)
            ORDER BY m.created_at DESC, m.memory_id DESC LIMIT :most
        """)  # noqa: S608 - a table's own name
        arguments = {
            "tenant_id": tenant_id,
            "user_id": user_id,
            "types": [each.value for each in STATES],
            "at": at,
            "most": most,
        }
        rows = await connection.execute(query, arguments)
        return [(with_told(memory_of(row), row.told_at), vector_from_bytes(row.vector)) for row in rows]

    async def fold(
        self, connection: AsyncConnection, tenant_id: str, repeat: Memory, kept: UUID, now: datetime
    ) -> None:
        """Have a memory that another one says already be an earlier version of that one."""
        arguments = {
            "tenant_id": tenant_id,
            "user_id": repeat.user_id,
            "memory_id": repeat.memory_id,
            "kept": kept,
            "now": now,
        }
        await connection.execute(_FOLD, arguments)

    async def note(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> None:
        """Note that a user was looked through, with the transaction that did it."""
        await connection.execute(_NOTE, {"tenant_id": tenant_id, "user_id": user_id})
