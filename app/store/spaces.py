"""Queries about embedding spaces: which there are, what a tenant uses each for, and the vectors in them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal
from uuid import UUID

import numpy as np
from sqlalchemy import Select, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import EmbeddingSpace, Vector, Vectors
from app.domain.errors import NotReady, StaleSpace
from app.domain.spaces import Fingerprint, Role, Storage, StoredSpace, TenantSpaces
from app.store.engine import Statements
from app.store.memory_search import fetch_by_graph
from app.store.space_tables import create_statements, retired_name, tie_statements
from app.store.tables import AnyRow, embedding_spaces, space_backlog, tenant_spaces
from app.store.vectors import vector_from_bytes, vector_literal

Kind = Literal["memory", "input"]
"""What has vectors: memories, and what users asked."""

KINDS: tuple[Kind, ...] = ("memory", "input")

STALE = "ES001"
"""The SQLSTATE of `in_space`: the tenant does not use the space so (any more)."""

LOCK_SPACES = text("SELECT pg_advisory_xact_lock(hashtextextended('embedding_spaces', 0))")
_HOLD_ROLES = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('spaces of ' || :tenant_id, 0))")
TIES = text("""
SELECT conname FROM pg_constraint
WHERE conrelid IN (to_regclass(:memory_table), to_regclass(:input_table)) AND contype = 'f'
""")
LOCK_ROLES = "SELECT pg_advisory_xact_lock(hashtextextended('spaces of ' || :tenant_id, 0))"


_FIELDS = [column for column in embedding_spaces.c if column.name not in {"told", "fingerprint"}]
"""Of a space, as it is read again and again: without what it is recognised by."""


class SpaceStore:
    """What is asked and written about spaces."""

    async def registered(self, connection: AsyncConnection, space_id: str) -> StoredSpace | None:
        """A space by its name."""
        row = (await connection.execute(select(*_FIELDS).where(embedding_spaces.c.space_id == space_id))).one_or_none()
        return _stored(row) if row else None

    async def register(
        self, connection: AsyncConnection, space: EmbeddingSpace, *, storage: Storage, endpoint: str | None
    ) -> StoredSpace:
        """The space with its tables, made where there are none yet; those are to be tied before they are used."""
        await connection.execute(LOCK_SPACES)
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
        row = (await connection.execute(insert(embedding_spaces).values(values).returning(*_FIELDS))).one()
        for statement in create_statements(row.number, space.dimension, storage):
            await connection.execute(text(statement))
        return _stored(row)

    async def tie(self, connection: AsyncConnection, space: StoredSpace) -> bool:
        """Add a foreign key that the tables of a space lack; False where they lack none. Whoever writes what it leads
        to waits until the transaction ends."""
        if not await self._untied(connection, space):
            return False
        await connection.execute(LOCK_SPACES)
        for statement in (await self._untied(connection, space))[:1]:
            await connection.execute(text(statement))
        return True

    async def keep_fingerprint(
        self, connection: AsyncConnection, space: StoredSpace, found: Fingerprint
    ) -> tuple[Fingerprint, bool]:
        """What a space is recognised by: what was found, where there is nothing yet, and whether that was so. Raises
        StaleSpace where the space was dropped."""
        own = embedding_spaces.c.number == space.number
        query = select(embedding_spaces.c.told, func.vector_send(embedding_spaces.c.fingerprint)).where(own)
        row = (await connection.execute(query)).one_or_none()
        if row is not None and row[1] is None:
            kept = await connection.execute(
                text("""
                UPDATE embedding_spaces SET told = :told, fingerprint = CAST(CAST(:vector AS text) AS vector)
                WHERE number = :number AND fingerprint IS NULL
                """),
                {"number": space.number, "told": found.told, "vector": vector_literal(found.vector)},
            )
            if kept.rowcount:
                return found, True
            row = (await connection.execute(query)).one_or_none()  # somebody was quicker
        if row is None:
            raise StaleSpace(f"the embedding space {space.id} was given up")
        return Fingerprint(row[0], vector_from_bytes(row[1])), False

    async def of_tenant(self, connection: AsyncConnection, tenant_id: str) -> TenantSpaces | None:
        """What the tenant uses; None before its first write."""
        query = _uses(tenant_id).where(tenant_spaces.c.role != "dropped")
        found: list[tuple[StoredSpace, Role]] = [(_stored(row), row.role) for row in await connection.execute(query)]
        serving = next((space for space, role in found if role == "serving"), None)
        if serving is None:
            return None
        return TenantSpaces(serving, tuple(each for each in found if each[1] != "serving"))

    async def dropped(self, connection: AsyncConnection, tenant_id: str) -> list[StoredSpace]:
        """The spaces that the tenant uses no more, and has something in."""
        query = _uses(tenant_id).where(tenant_spaces.c.role == "dropped")
        return [_stored(row) for row in await connection.execute(query)]

    async def role(self, connection: AsyncConnection, tenant_id: str, number: int) -> Role | None:
        """What the tenant uses a space for; None for nothing."""
        own = (tenant_spaces.c.tenant_id == tenant_id) & (tenant_spaces.c.number == number)
        return (await connection.execute(select(tenant_spaces.c.role).where(own))).scalar_one_or_none()

    async def begin_to_serve(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace) -> None:
        """Have the tenant be served by a space where none serves yet. The tenant has to exist. Raises StaleSpace where
        the space was dropped."""
        query = upsert(tenant_spaces).values(tenant_id=tenant_id, number=space.number, role="serving")
        await self._hold_registered(connection, space.number)
        await connection.execute(query.on_conflict_do_nothing())

    async def hold_roles(self, connection: AsyncConnection, tenant_id: str) -> None:
        """Until the transaction ends, nobody changes what the tenant's spaces are for. For whoever writes vectors."""
        await connection.execute(_HOLD_ROLES, {"tenant_id": tenant_id})

    async def lock_roles(self, connection: AsyncConnection, tenant_id: str) -> None:
        """Wait for whoever holds the roles, and let nobody else write vectors until the transaction ends."""
        await connection.execute(text(LOCK_ROLES), {"tenant_id": tenant_id})

    async def set_role(self, connection: AsyncConnection, tenant_id: str, number: int, role: Role | None) -> None:
        """Give a space a role for the tenant, or none: then what it lacks is forgotten. Raises NotReady for one whose
        vectors are being deleted, for they are not kept up, and StaleSpace for one that is gone."""
        own = (tenant_spaces.c.tenant_id == tenant_id) & (tenant_spaces.c.number == number)
        if role is None:
            await connection.execute(delete(tenant_spaces).where(own))
            return
        query = upsert(tenant_spaces).values(tenant_id=tenant_id, number=number, role=role)
        given = query.on_conflict_do_update(
            index_elements=["tenant_id", "number"],
            set_={"role": role, "since": func.now()},
            where=tenant_spaces.c.role != "dropped",
        )
        await self._hold_registered(connection, number)
        if (await connection.execute(given.returning(tenant_spaces.c.number))).one_or_none() is None:
            raise NotReady("What there was in this space is still being deleted: embed-service space drop ends it.")

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

    async def _hold_registered(self, connection: AsyncConnection, number: int) -> None:
        """Have nobody drop the tables of a space until the transaction ends. Raises StaleSpace where somebody is."""
        query = select(embedding_spaces.c.space_id).where(embedding_spaces.c.number == number)
        found = (await connection.execute(query.with_for_update(read=True, key_share=True))).scalar_one_or_none()
        if found is None or found.endswith(retired_name("", number)):
            raise StaleSpace("the embedding space was given up at this moment")

    async def _untied(self, connection: AsyncConnection, space: StoredSpace) -> list[str]:
        """What adds each foreign key that the tables of a space lack."""
        tables = {"memory_table": space.memory_table, "input_table": space.input_table}
        held = set((await connection.execute(TIES, tables)).scalars())
        return [statement for name, statement in tie_statements(space.number).items() if name not in held]


def _uses(tenant_id: str) -> Select[Any]:
    return (
        select(tenant_spaces.c.role, *_FIELDS)
        .join(embedding_spaces, embedding_spaces.c.number == tenant_spaces.c.number)
        .where(tenant_spaces.c.tenant_id == tenant_id)
        .order_by(tenant_spaces.c.number)
    )


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
