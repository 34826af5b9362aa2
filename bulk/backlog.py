"""Queries about what a space lacks, by shards: stretches of `space_backlog` in the order of its key."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.space_fills import Lacking

_CUT = text("""
SELECT kind, user_id, item_id FROM (
    SELECT kind, user_id, item_id, row_number() OVER (ORDER BY kind, user_id, item_id) - 1 AS place
    FROM space_backlog WHERE tenant_id = :tenant_id AND number = :number
) AS ordered
WHERE place % :size = 0 ORDER BY kind, user_id, item_id
""")

_WITHIN = """
SELECT kind, user_id, item_id FROM space_backlog
WHERE tenant_id = :tenant_id AND number = :number
  AND (kind, user_id, item_id) >= (:kind, :user_id, CAST(:item_id AS uuid)) {end}
ORDER BY kind, user_id, item_id LIMIT :most
"""
_END = "AND (kind, user_id, item_id) < (:end_kind, :end_user_id, CAST(:end_item_id AS uuid))"

_HOLD = text("""
SELECT b.kind, b.user_id, b.item_id FROM space_backlog b
JOIN unnest(CAST(:kinds AS text[]), CAST(:users AS text[]), CAST(:items AS uuid[])) AS given(kind, user_id, item_id)
  ON b.kind = given.kind AND b.user_id = given.user_id AND b.item_id = given.item_id
WHERE b.tenant_id = :tenant_id AND b.number = :number
FOR UPDATE OF b SKIP LOCKED
""")


@dataclass(frozen=True)
class Shard:
    """What a space lacks from one key to the next shard's (None: to the end), at most `most` items at a time."""

    first: Lacking
    end: Lacking | None
    most: int


async def cut(connection: AsyncConnection, tenant_id: str, number: int, size: int) -> list[Shard]:
    """What a space lacks in shards of `size` items; the index is read once, and the first key of each comes back."""
    rows = await connection.execute(_CUT, {"tenant_id": tenant_id, "number": number, "size": size})
    firsts = [Lacking(row.kind, row.user_id, row.item_id) for row in rows]
    return [Shard(first, end, size) for first, end in pairwise([*firsts, None]) if first is not None]


async def within(connection: AsyncConnection, tenant_id: str, number: int, shard: Shard) -> list[Lacking]:
    """What is lacking in a shard now. What was noted in it meanwhile beyond its size is left for the next pass."""
    arguments: dict[str, Any] = {
        "tenant_id": tenant_id,
        "number": number,
        "kind": shard.first.kind,
        "user_id": shard.first.user_id,
        "item_id": shard.first.item_id,
        "most": shard.most,
    }
    if shard.end is not None:
        end = {"end_kind": shard.end.kind, "end_user_id": shard.end.user_id, "end_item_id": shard.end.item_id}
        arguments |= end
    query = text(_WITHIN.format(end=_END if shard.end is not None else ""))
    return [Lacking(row.kind, row.user_id, row.item_id) for row in await connection.execute(query, arguments)]


async def hold(
    connection: AsyncConnection, tenant_id: str, number: int, items: Sequence[Lacking]
) -> set[tuple[str, str, UUID]]:
    """Those of the items that are still lacking and that nobody else is at work on; nobody else gets them until the
    transaction ends."""
    arguments = {
        "tenant_id": tenant_id,
        "number": number,
        "kinds": [each.kind for each in items],
        "users": [each.user_id for each in items],
        "items": [each.item_id for each in items],
    }
    return {(row.kind, row.user_id, row.item_id) for row in await connection.execute(_HOLD, arguments)}
