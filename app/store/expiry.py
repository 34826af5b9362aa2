"""Queries about what has expired."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Whoever changes a memory holds its row, and may be giving it a longer life: it is looked at again the next time.
_DELETE_EXPIRED = text("""
WITH expired AS (
    SELECT user_id, memory_id FROM memories
    WHERE tenant_id = :tenant_id AND version_of IS NULL AND expires_at < :before
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
