"""Queries about embedding spaces: which there are, what a tenant uses each for, and the vectors in them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal
from uuid import UUID

import numpy as np
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import EmbeddingSpace, Vector, Vectors
from app.domain.spaces import Role, Storage, StoredSpace, TenantSpaces
from app.store.engine import Statements
from app.store.memory_search import fetch_by_graph
from app.store.space_tables import create_statements, drop_statements
from app.store.tables import AnyRow, embedding_spaces, space_backlog, tenant_spaces
from app.store.vectors import vector_from_bytes, vector_literal

Kind = Literal["memory", "input"]
"""What has vectors: memories, and what users asked."""

STALE = "ES001"
"""The SQLSTATE of `in_space`: the tenant does not use the space so (any more)."""

_LOCK_SPACES = text("SELECT pg_advisory_xact_lock(hashtextextended('embedding_spaces', 0))")
_HOLD_ROLES = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('spaces of ' || :tenant_id, 0))")
LOCK_ROLES = "SELECT pg_advisory_xact_lock(hashtextextended('spaces of ' || :tenant_id, 0))"


class SpaceStore:
    """What is asked and written about spaces."""

    async def registered(self, connection: AsyncConnection, space_id: str) -> StoredSpace | None:
        """A space by its name."""
        row = (
            await connection.execute(select(embedding_spaces).where(embedding_spaces.c.space_id == space_id))
        ).one_or_none()
        return _stored(row) if row else None

    async def register(
        self, connection: AsyncConnection, space: EmbeddingSpace, *, storage: Storage, endpoint: str | None
    ) -> StoredSpace:
        """The space with its tables, made where there are none yet."""
        await connection.execute(_LOCK_SPACES)
        held = await self.registered(connection, space.id)
        if held is not None:
            return held
        values = {
            "space_id": space.id,
            "model": space.model,
            "revision": space.revision,
            "dimension": space.dimension,
            "pooling": space.pooling,
            "is_normalised": space.is_normalised,
            "prefix": space.prefix,
            "storage": storage,
            "endpoint": endpoint,
        }
        row = (await connection.execute(insert(embedding_spaces).values(values).returning(embedding_spaces))).one()
        for statement in create_statements(row.number, space.dimension, storage):
            await connection.execute(text(statement))
        return _stored(row)

    async def unregister(self, connection: AsyncConnection, space: StoredSpace) -> bool:
        """Drop the tables of a space that no tenant uses; whether that was so."""
        await connection.execute(_LOCK_SPACES)
        try:
            async with connection.begin_nested():
                await connection.execute(delete(embedding_spaces).where(embedding_spaces.c.number == space.number))
        except IntegrityError:
            return False
        for statement in drop_statements(space):
            await connection.execute(text(statement))
        return True

    async def of_tenant(self, connection: AsyncConnection, tenant_id: str) -> TenantSpaces | None:
        """What the tenant uses; None before its first write."""
        query = (
            select(tenant_spaces.c.role, embedding_spaces)
            .join(embedding_spaces, embedding_spaces.c.number == tenant_spaces.c.number)
            .where(tenant_spaces.c.tenant_id == tenant_id)
            .order_by(tenant_spaces.c.number)
        )
        found: list[tuple[StoredSpace, Role]] = [(_stored(row), row.role) for row in await connection.execute(query)]
        serving = next((space for space, role in found if role == "serving"), None)
        if serving is None:
            return None
        return TenantSpaces(serving, tuple(each for each in found if each[1] != "serving"))

    async def begin_to_serve(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> None:
        """Have the tenant be served by a space where none serves yet. The tenant has to exist."""
        query = upsert(tenant_spaces).values(tenant_id=tenant_id, number=space.number, role="serving")
        await connection.execute(query.on_conflict_do_nothing())

    async def hold_roles(self, connection: AsyncConnection, tenant_id: str) -> None:
        """Until the transaction ends, nobody changes what the tenant's spaces are for. For whoever writes vectors."""
        await connection.execute(_HOLD_ROLES, {"tenant_id": tenant_id})

    async def lock_roles(self, connection: AsyncConnection, tenant_id: str) -> None:
        """Wait for whoever holds the roles, and let nobody else write vectors until the transaction ends."""
        await connection.execute(text(LOCK_ROLES), {"tenant_id": tenant_id})

    async def set_role(self, connection: AsyncConnection, tenant_id: str, number: int, role: Role | None) -> None:
        """Give a space a role for the tenant, or none: then what it lacks is forgotten."""
        own = (tenant_spaces.c.tenant_id == tenant_id) & (tenant_spaces.c.number == number)
        if role is None:
            await connection.execute(delete(tenant_spaces).where(own))
            return
        query = upsert(tenant_spaces).values(tenant_id=tenant_id, number=number, role=role)
        since = {"role": role, "since": func.now()}
        await connection.execute(query.on_conflict_do_update(index_elements=["tenant_id", "number"], set_=since))

    async def swap_roles(self, connection: AsyncConnection, tenant_id: str, serving: int, kept: int) -> None:
        """Have `serving` serve in the place of `kept`, in one statement's two steps."""
        for number, role in ((kept, "kept"), (serving, "serving")):
            await connection.execute(
                update(tenant_spaces)
                .where(tenant_spaces.c.tenant_id == tenant_id, tenant_spaces.c.number == number)
                .values(role=role, since=func.now())
            )

    async def write(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        kind: Kind,
        items: Sequence[tuple[str, UUID]],
        vectors: Vectors,
        role: Role | None = None,
    ) -> None:
        """Write the vectors of (user, item), in the place of older ones, and take them off what the space lacks. The
        database refuses (STALE) unless the tenant uses the space in that role, any for None."""
        if not items:
            return
        arguments = {
            "tenant_id": tenant_id,
            "number": space.number,
            "kind": kind,
            "role": role,
            "users": [user_id for user_id, _ in items],
            "items": [item for _, item in items],
            "vectors": [vector_literal(vector) for vector in vectors],
        }
        await connection.execute(text(_write(space, kind)), arguments)

    async def copy(
        self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, memory_id: UUID, to: UUID
    ) -> None:
        """Give a memory the vector of another one of the same words, in a space where that has one."""
        table = space.memory_table
        await connection.execute(
            text(f"""
            WITH copied AS (
                INSERT INTO {table}
                SELECT tenant_id, user_id, CAST(:to AS uuid), embedding FROM {table}
                WHERE tenant_id = :tenant_id AND memory_id = :memory_id
                RETURNING user_id, memory_id
            )
            DELETE FROM space_backlog USING copied
            WHERE tenant_id = :tenant_id AND number = {space.number} AND kind = 'memory'
              AND space_backlog.user_id = copied.user_id AND item_id = copied.memory_id
            """),
            {"tenant_id": tenant_id, "memory_id": memory_id, "to": to},
        )

    async def forget(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, memory_id: UUID) -> None:
        """Delete the vector of a memory: it says something else now."""
        query = f"DELETE FROM {space.memory_table} WHERE tenant_id = :tenant_id AND memory_id = :memory_id"
        await connection.execute(text(query), {"tenant_id": tenant_id, "memory_id": memory_id})

    async def drop_vectors(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> None:
        """Delete all that the tenant has in a space."""
        for table in (space.memory_table, space.input_table):
            query = text(f"DELETE FROM {table} WHERE tenant_id = :tenant_id")
            await connection.execute(query, {"tenant_id": tenant_id})

    async def nearest(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        user_id: str,
        vector: Vector,
        count: int,
    ) -> list[UUID]:
        """The user's memories that are nearest to a vector, as searches find them, nearest first."""
        statements = await Statements.of(connection)
        rows = await statements.fetch(
            "SELECT graph FROM users WHERE tenant_id = $1 AND user_id = $2 AND graph > 0", tenant_id, user_id
        )
        is_by_graph = bool(rows) and space.has_graphs
        query = f"""
        SELECT memory_id FROM {space.memory_table}
        WHERE tenant_id = $1 AND user_id = $2 {f"AND graph = {rows[0][0]:d}" if is_by_graph else ""}
        ORDER BY embedding <=> (SELECT in_space($3::text::vector, $1, {space.number}, NULL)::{space.column_type})
        LIMIT $4
        """
        fetch = partial(fetch_by_graph, statements) if is_by_graph else statements.fetch
        found = await fetch(query, tenant_id, user_id, vector_literal(vector), count)
        return [row["memory_id"] for row in found]

    async def vectors_of(
        self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, user_id: str, count: int | None = None
    ) -> tuple[list[UUID], Vectors]:
        """The user's memories (any `count` of them) and their vectors, shape (memories, dimension)."""
        query = text(f"""
        SELECT memory_id, vector_send(embedding::vector) FROM {space.memory_table}
        WHERE tenant_id = :tenant_id AND user_id = :user_id LIMIT CAST(:count AS bigint)
        """)
        rows = list(await connection.execute(query, {"tenant_id": tenant_id, "user_id": user_id, "count": count}))
        vectors = [vector_from_bytes(row[1]) for row in rows]
        return [row[0] for row in rows], np.array(vectors) if rows else np.empty((0, space.space.dimension), np.float32)

    async def lacking(self, connection: AsyncConnection, tenant_id: str, number: int) -> int:
        """How many items are noted as without a vector in a space."""
        query = select(func.count()).where(space_backlog.c.tenant_id == tenant_id, space_backlog.c.number == number)
        return (await connection.execute(query)).scalar_one()


def _write(space: StoredSpace, kind: Kind) -> str:
    table, item = (space.memory_table, "memory_id") if kind == "memory" else (space.input_table, "set_id")
    return f"""
WITH given AS (
    SELECT user_id, item_id, CAST(vector AS vector) AS vector
    FROM unnest(CAST(:users AS text[]), CAST(:items AS uuid[]), CAST(:vectors AS text[]))
         AS given(user_id, item_id, vector)
), done AS (
    DELETE FROM space_backlog WHERE ctid = ANY(ARRAY(
        -- What somebody fills at this moment stays noted: they will find that it is done.
        SELECT b.ctid FROM space_backlog b JOIN given ON b.user_id = given.user_id AND b.item_id = given.item_id
        WHERE b.tenant_id = :tenant_id AND b.number = {space.number} AND b.kind = '{kind}'
        FOR UPDATE OF b SKIP LOCKED
    ))
)
INSERT INTO {table} (tenant_id, user_id, {item}, embedding)
SELECT :tenant_id, user_id, item_id,
       in_space(vector, :tenant_id, {space.number}, CAST(:role AS text))::{space.column_type}
FROM given
ON CONFLICT (tenant_id, user_id, {item}) DO UPDATE SET embedding = EXCLUDED.embedding
"""


def _stored(row: AnyRow | Any) -> StoredSpace:
    space = EmbeddingSpace(row.model, row.revision, row.dimension, row.pooling, row.is_normalised, row.prefix)
    return StoredSpace(row.number, space, row.storage, row.endpoint)
