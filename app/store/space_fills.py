"""Queries of whoever fills an embedding space: what it lacks, claimed by one at a time, and whether it is whole.

`space_backlog` says what a space lacks. A claim is a row lock: it ends with its transaction, so a process that dies
gives back what it had, and nobody else works on it meanwhile. Items are looked up one by one (subqueries that yield one
row): these tables grow from nothing within minutes, and a plan by the statistics of an empty table compares every item
with every other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector, Vectors
from app.domain.errors import StaleSpace
from app.domain.spaces import StoredSpace
from app.store.spaces import Kind
from app.store.vectors import vector_from_bytes, vector_literal

NOTED = 1000
"""Items that are looked at in one transaction while it is noted what a space lacks."""

FIRST = ("", UUID(int=0))
"""Before every (user, item)."""

_LOCK_NOT_AVAILABLE = "55P03"
_NO_SUCH_ROW = "23503"


class NoteBusy(Exception):
    """A writer is at work on a note."""


def _note(space: StoredSpace, kind: Kind) -> str:
    """What comes after a place, and is noted where it has no vector. A writer that holds one of the same notes is not
    waited for longer than a moment: it might wait for one of ours."""
    source, item, order = ("memories", "memory_id", "user_id, memory_id")
    table = space.memory_table
    if kind == "input":
        source, item, order, table = ("hypothesis_sets", "set_id", "set_id", space.input_table)
    after = ":item" if kind == "input" else ":user_id, :item"
    return f"""
    WITH part AS (
        SELECT user_id, {item} AS item_id FROM {source}
        WHERE tenant_id = :tenant_id AND ({order}) > ({after}) ORDER BY {order} LIMIT {NOTED}
    ), noted AS (
        INSERT INTO space_backlog (tenant_id, number, kind, user_id, item_id)
        SELECT :tenant_id, {space.number}, '{kind}', user_id, item_id FROM part
        WHERE (
            SELECT v.{item} FROM {table} v
            WHERE v.tenant_id = :tenant_id AND v.user_id = part.user_id AND v.{item} = part.item_id LIMIT 1
        ) IS NULL
        ON CONFLICT DO NOTHING
        RETURNING item_id
    )
    SELECT user_id, item_id, (SELECT count(*) FROM noted) AS noted FROM part
    ORDER BY {order.replace(item, "item_id")}
    OFFSET (SELECT greatest(count(*) - 1, 0) FROM part)
    """


_IS_USED = text("""
SELECT EXISTS (
    SELECT FROM tenant_spaces WHERE tenant_id = :tenant_id AND number = :number AND role <> 'dropped'
)
""")

_CLAIM = text("""
SELECT kind, user_id, item_id FROM space_backlog
WHERE tenant_id = :tenant_id AND number = :number
  AND (kind, user_id, item_id) > (:kind, :user_id, CAST(:item AS uuid))
ORDER BY kind, user_id, item_id
LIMIT :count
FOR UPDATE SKIP LOCKED
""")

_CONTENTS = {
    "memory": text("""
        SELECT s.memory_id, s.content
        FROM unnest(CAST(:users AS text[]), CAST(:items AS uuid[])) AS wanted(user_id, item_id)
        CROSS JOIN LATERAL (
            SELECT memory_id, content FROM memories
            WHERE tenant_id = :tenant_id AND user_id = wanted.user_id AND memory_id = wanted.item_id LIMIT 1
        ) AS s
    """),
    "input": text("""
        SELECT set_id, input_text FROM hypothesis_sets
        WHERE tenant_id = :tenant_id AND set_id = ANY(CAST(:items AS uuid[]))
    """),
}


def missing_query(number: int, *, but_noted: bool = False) -> str:
    """Counts the memories and inputs of :tenant_id without a vector in the space of that number; `but_noted`: those
    that are noted are not counted."""
    counts: list[str] = []
    for kind, source, item in (("memory", "memories", "memory_id"), ("input", "hypothesis_sets", "set_id")):
        noted = f"""
            AND NOT EXISTS (
                SELECT FROM space_backlog b WHERE b.tenant_id = s.tenant_id AND b.number = {number}
                AND b.kind = '{kind}' AND b.user_id = s.user_id AND b.item_id = s.{item})"""
        counts.append(f"""(
            SELECT count(*) FROM {source} s WHERE s.tenant_id = :tenant_id AND NOT EXISTS (
                SELECT FROM {kind}_vectors_{number} v
                WHERE v.tenant_id = s.tenant_id AND v.user_id = s.user_id AND v.{item} = s.{item})
            {noted if but_noted else ""})""")
    return f"SELECT {' + '.join(counts)}"


@dataclass(frozen=True)
class Lacking:
    """An item without a vector in a space."""

    kind: Kind
    user_id: str
    item_id: UUID


FRONT = Lacking("input", *FIRST)
"""Before everything that may be lacking."""


@dataclass(frozen=True)
class Noted:
    """How many items were noted, and after which place it goes on; None at the end."""

    items: int
    after: tuple[str, UUID] | None


class FillStore:
    """What is asked and written by whoever fills a space."""

    async def note(
        self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, kind: Kind, after: tuple[str, UUID]
    ) -> Noted:
        """Note which of the NOTED items after a place have no vector in a space.

        Raises NoteBusy where a writer is at work on one of them: then the transaction is over, and it can be tried
        again. Raises StaleSpace where the space was dropped.
        """
        await connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
        used = await connection.execute(_IS_USED, {"tenant_id": tenant_id, "number": space.number})
        if not used.scalar_one():
            raise StaleSpace(f"the embedding space {space.id} was given up")
        arguments = {"tenant_id": tenant_id, "user_id": after[0], "item": after[1]}
        if kind == "input":
            del arguments["user_id"]
        try:
            row = (await connection.execute(text(_note(space, kind)), arguments)).one_or_none()
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == _NO_SUCH_ROW:
                raise StaleSpace(f"the embedding space {space.id} was given up") from error
            if state != _LOCK_NOT_AVAILABLE:
                raise
            raise NoteBusy from error
        return Noted(0, None) if row is None else Noted(row.noted, (row.user_id, row.item_id))

    async def claim(
        self, connection: AsyncConnection, tenant_id: str, number: int, count: int, after: Lacking = FRONT
    ) -> list[Lacking]:
        """Up to `count` items after a place that a space lacks and nobody else works on; nobody else gets them until
        the transaction ends. Who goes on where the last claim ended does not pass again what was forgotten there,
        which lies in the index until it is vacuumed."""
        arguments = {"kind": after.kind, "user_id": after.user_id, "item": after.item_id}
        rows = await connection.execute(_CLAIM, {**arguments, "tenant_id": tenant_id, "number": number, "count": count})
        return [Lacking(row.kind, row.user_id, row.item_id) for row in rows]

    async def contents(
        self, connection: AsyncConnection, tenant_id: str, claimed: Sequence[Lacking]
    ) -> dict[UUID, str]:
        """What claimed items say; those that are gone are not in it."""
        found: dict[UUID, str] = {}
        for kind, query in _CONTENTS.items():
            own = [each for each in claimed if each.kind == kind]
            if own:
                arguments: dict[str, Any] = {"tenant_id": tenant_id, "items": [each.item_id for each in own]}
                if kind == "memory":
                    arguments["users"] = [each.user_id for each in own]
                found |= {row[0]: row[1] for row in await connection.execute(query, arguments)}
        return found

    async def write(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        claimed: Sequence[Lacking],
        contents: Sequence[str],
        vectors: Vectors,
    ) -> int:
        """Write the vectors of claimed items that still say what was embedded, and forget that they were lacking; how
        many. One that says something else by now, or is being changed at this moment, stays noted."""
        written = 0
        for kind, table, item, source, content in (
            ("memory", space.memory_table, "memory_id", "memories", "content"),
            ("input", space.input_table, "set_id", "hypothesis_sets", "input_text"),
        ):
            own = [place for place, each in enumerate(claimed) if each.kind == kind]
            if not own:
                continue
            arguments = {
                "tenant_id": tenant_id,
                "users": [claimed[place].user_id for place in own],
                "items": [claimed[place].item_id for place in own],
                "contents": [contents[place] for place in own],
                "vectors": [vector_literal(vectors[place]) for place in own],
            }
            query = text(f"""
            WITH given AS (
                SELECT * FROM unnest(
                    CAST(:users AS text[]), CAST(:items AS uuid[]), CAST(:contents AS text[]), CAST(:vectors AS text[])
                ) AS given(user_id, item_id, content, vector)
            ), held AS (
                SELECT s.user_id, s.item_id, given.vector FROM given
                CROSS JOIN LATERAL (
                    SELECT user_id, {item} AS item_id FROM {source}
                    WHERE tenant_id = :tenant_id AND user_id = given.user_id AND {item} = given.item_id
                      AND {content} = given.content
                    LIMIT 1 FOR SHARE SKIP LOCKED
                ) AS s
            ), written AS (
                INSERT INTO {table} (tenant_id, user_id, {item}, embedding)
                SELECT :tenant_id, user_id, item_id,
                       in_space(CAST(vector AS vector), :tenant_id, {space.number}, NULL)::{space.column_type}
                FROM held
                ON CONFLICT (tenant_id, user_id, {item}) DO UPDATE SET embedding = EXCLUDED.embedding
                RETURNING user_id, {item} AS item_id
            )
            DELETE FROM space_backlog USING written
            CROSS JOIN LATERAL (
                SELECT b.ctid AS place FROM space_backlog b
                WHERE b.tenant_id = :tenant_id AND b.number = {space.number} AND b.kind = '{kind}'
                  AND b.user_id = written.user_id AND b.item_id = written.item_id
                LIMIT 1
            ) AS done
            WHERE space_backlog.ctid = done.place AND space_backlog.tenant_id = :tenant_id
            """)
            written += (await connection.execute(query, arguments)).rowcount
        return written

    async def forget(self, connection: AsyncConnection, tenant_id: str, number: int, gone: Sequence[Lacking]) -> None:
        """Take items that are no more off what a space lacks."""
        if gone:
            await connection.execute(
                text("""
                DELETE FROM space_backlog WHERE tenant_id = :tenant_id AND number = :number
                  AND item_id = ANY(CAST(:items AS uuid[]))
                """),
                {"tenant_id": tenant_id, "number": number, "items": [each.item_id for each in gone]},
            )

    async def missing(
        self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, *, but_noted: bool = False
    ) -> int:
        """How many memories and inputs have no vector in a space, counted one by one; `but_noted`: and are not noted,
        so that nobody would give them one."""
        query = text(missing_query(space.number, but_noted=but_noted))
        return (await connection.execute(query, {"tenant_id": tenant_id})).scalar_one()

    async def counts(self, connection: AsyncConnection, tenant_id: str) -> tuple[int, int]:
        """(memories, inputs) of the tenant."""
        query = text("""
        SELECT (SELECT count(*) FROM memories WHERE tenant_id = :tenant_id),
               (SELECT count(*) FROM hypothesis_sets WHERE tenant_id = :tenant_id)
        """)
        row = (await connection.execute(query, {"tenant_id": tenant_id})).one()
        return row[0], row[1]

    async def sample_filled(
        self, connection: AsyncConnection, tenant_id: str, space: StoredSpace, count: int
    ) -> tuple[list[str], list[Vector]]:
        """The words of up to `count` of the tenant's memories that have a vector in a space, by chance, and those
        vectors."""
        query = f"""
        SELECT m.content, vector_send(v.embedding::vector) FROM (
            SELECT tenant_id, user_id, memory_id FROM {space.memory_table} WHERE tenant_id = :tenant_id
            ORDER BY random() LIMIT :count
        ) AS chosen
        JOIN {space.memory_table} v USING (tenant_id, user_id, memory_id)
        JOIN memories m USING (tenant_id, user_id, memory_id)
        """
        rows = list(await connection.execute(text(query), {"tenant_id": tenant_id, "count": count}))
        return [row[0] for row in rows], [vector_from_bytes(row[1]) for row in rows]

    async def sample(self, connection: AsyncConnection, tenant_id: str, count: int) -> list[tuple[str, str]]:
        """(user, text) of up to `count` of the tenant's latest inputs, else of its memories: queries to try."""
        for table, content in (("hypothesis_sets", "input_text"), ("memories", "content")):
            query = text(
                f"SELECT user_id, {content} FROM {table} WHERE tenant_id = :tenant_id "
                "ORDER BY created_at DESC LIMIT :count"
            )
            rows: list[Any] = list(await connection.execute(query, {"tenant_id": tenant_id, "count": count}))
            if rows:
                return [(row[0], row[1]) for row in rows]
        return []
