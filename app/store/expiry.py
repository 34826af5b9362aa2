"""Queries about what has expired."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Whoever writes a user's memories holds the user, and may be giving one a longer life: they are looked at again the
# next time. The user comes before the memories here too (see `UserStore.lock`).
_DELETE_EXPIRED = text("""
WITH held AS MATERIALIZED (
    SELECT user_id FROM users
    WHERE tenant_id = :tenant_id AND user_id IN (
        SELECT user_id FROM (
            SELECT user_id FROM memories
            WHERE tenant_id = :tenant_id AND version_of IS NULL AND expires_at < :before
            ORDER BY expires_at LIMIT :count
        ) AS first
    )
    FOR NO KEY UPDATE SKIP LOCKED
), expired AS (
    SELECT user_id, memory_id FROM memories
    WHERE tenant_id = :tenant_id AND version_of IS NULL AND expires_at < :before
      AND user_id = ANY(ARRAY(SELECT user_id FROM held))
    ORDER BY expires_at LIMIT :count FOR UPDATE SKIP LOCKED
)
DELETE FROM memories AS m USING expired
WHERE m.tenant_id = :tenant_id AND m.user_id = expired.user_id
  AND (m.memory_id = expired.memory_id OR m.version_of = expired.memory_id)
RETURNING m.version_of IS NULL AS is_memory
""")


class ExpiryStore:
    """What is written about memories that expired."""

    async def delete_expired(self, connection: AsyncConnection, tenant_id: str, before: datetime, count: int) -> int:
        """Delete up to `count` memories that expired before a moment, each with its earlier versions; how many memories
        went."""
        arguments = {"tenant_id": tenant_id, "before": before, "count": count}
        return sum(row.is_memory for row in await connection.execute(_DELETE_EXPIRED, arguments))
