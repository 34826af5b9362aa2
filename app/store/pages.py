"""What tables of dated rows have in common: they are read a page at a time, the latest first, and the oldest go."""

from datetime import datetime
from typing import TypeVarTuple
from uuid import UUID

from sqlalchemy import Column, Select, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

Fields = TypeVarTuple("Fields")


def page_of(
    query: Select[*Fields],
    moment: Column[datetime],
    key: Column[UUID],
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> Select[*Fields]:
    """A query's rows, the latest first: the first `limit`, or those that come after one (its moment, its key)."""
    if after is not None:
        query = query.where(tuple_(moment, key) < tuple_(*after))
    return query.order_by(moment.desc(), key.desc()).limit(limit)


async def delete_oldest(
    connection: AsyncConnection,
    tenant_id: str,
    moment: Column[datetime],
    key: Column[UUID],
    *,
    before: datetime,
    count: int,
) -> int:
    """Delete up to `count` of a tenant's rows of before a moment, the oldest first, none that somebody holds; how
    many went."""
    table = key.table
    old = (
        select(key)
        .where(table.c.tenant_id == tenant_id, moment < before)
        .order_by(moment)
        .limit(count)
        .with_for_update(skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    gone = delete(table).where(table.c.tenant_id == tenant_id, key == old.c[key.name])
    return (await connection.execute(gone)).rowcount
