"""Queries of whoever gives an embedding space up: what a tenant has in it, deleted part by part, and its tables."""

from uuid import UUID

from sqlalchemy import Delete, delete, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.spaces import StoredSpace
from app.store.space_tables import partition_statements, retired_name, table_statements
from app.store.spaces import LOCK_SPACES, Kind
from app.store.tables import embedding_spaces, tenant_spaces

NOTES, VECTORS = 2000, 2000
"""How many notes, and how many vectors, are deleted in one transaction."""

FORGET_NOTES = text("""
DELETE FROM space_backlog WHERE tenant_id = :tenant_id AND ctid = ANY(ARRAY(
    SELECT ctid FROM space_backlog WHERE tenant_id = :tenant_id AND number = :number
    LIMIT :count FOR UPDATE SKIP LOCKED
))
""")


class DropStore:
    """What is asked and written about a space that is given up."""

    async def forget_notes(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> int:
        """Forget up to NOTES items that the space lacks, and how many that were; those that somebody fills at this
        moment are left."""
        arguments = {"tenant_id": tenant_id, "number": space.number, "count": NOTES}
        return (await connection.execute(FORGET_NOTES, arguments)).rowcount

    async def vectors(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> int:
        """How many vectors the tenant has in the space."""
        query = text(
            f"SELECT (SELECT count(*) FROM {space.memory_table} WHERE tenant_id = :tenant_id) + "
            f"(SELECT count(*) FROM {space.input_table} WHERE tenant_id = :tenant_id)"
        )
        return (await connection.execute(query, {"tenant_id": tenant_id})).scalar_one()

    async def delete_part(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        kind: Kind,
        after: tuple[str, UUID],
    ) -> tuple[int, tuple[str, UUID] | None]:
        """Delete the next VECTORS vectors after a place; how many those were, and the place it goes on at, None at the
        end."""
        table, item = (space.memory_table, "memory_id") if kind == "memory" else (space.input_table, "set_id")
        where = f"tenant_id = :tenant_id AND (user_id, {item}) > (:user_id, CAST(:item AS uuid))"
        arguments = {"tenant_id": tenant_id, "user_id": after[0], "item": after[1]}
        order = f"user_id, {item}"
        query = text(f"SELECT {order} FROM {table} WHERE {where} ORDER BY {order} OFFSET :skip LIMIT 1")
        last = (await connection.execute(query, {**arguments, "skip": VECTORS - 1})).one_or_none()
        if last is not None:
            where += f" AND (user_id, {item}) <= (:last_user, CAST(:last_item AS uuid))"
            arguments |= {"last_user": last[0], "last_item": last[1]}
        deleted = (await connection.execute(text(f"DELETE FROM {table} WHERE {where}"), arguments)).rowcount
        return deleted, None if last is None else (last[0], last[1])

    async def retire(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> bool:
        """Have nobody begin to use a space that no other tenant uses, for its tables will go; whether that is so. Its
        name is free from now on."""
        await connection.execute(LOCK_SPACES)
        own = embedding_spaces.c.number == space.number
        name = (await connection.execute(select(embedding_spaces.c.space_id).where(own))).scalar_one_or_none()
        if name is None or name == retired_name(space.id, space.number):
            return True
        if not await self._is_alone(connection, tenant_id, space):
            return False
        await connection.execute(
            update(embedding_spaces).where(own).values(space_id=retired_name(space.id, space.number))
        )
        return True

    async def drop_partitions(self, connection: AsyncConnection, space: StoredSpace, kind: Kind) -> None:
        """Drop what there still is of the partitions of a retired space: what takes long, and nobody waits for."""
        for statement in partition_statements(kind, space.number):
            await connection.execute(text(statement))

    async def drop_table(self, connection: AsyncConnection, space: StoredSpace, kind: Kind) -> None:
        """Drop what is left of a table of a retired space, with the foreign key that whoever uses memories or users
        waits for until the transaction ends: each in one of its own, or two would wait for each other."""
        for statement in table_statements(kind, space.number):
            await connection.execute(text(statement))

    async def end_use(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> None:
        """Forget that the tenant used a space, and the space too where it is retired."""
        await connection.execute(_use(tenant_id, space))
        await connection.execute(
            delete(embedding_spaces).where(embedding_spaces.c.space_id == retired_name(space.id, space.number))
        )

    async def _is_alone(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> bool:
        """Whether no other tenant uses the space. What others do is hidden, but not from the foreign key."""
        tried = await connection.begin_nested()
        try:
            await connection.execute(_use(tenant_id, space))
            await connection.execute(delete(embedding_spaces).where(embedding_spaces.c.number == space.number))
        except IntegrityError:
            return False
        else:
            return True
        finally:
            await tried.rollback()


def _use(tenant_id: str, space: StoredSpace) -> Delete:
    return delete(tenant_spaces).where(tenant_spaces.c.tenant_id == tenant_id, tenant_spaces.c.number == space.number)
