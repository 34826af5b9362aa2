"""Queries about memories. One method is one statement inside the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import TextClause, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector, Vectors
from app.domain.memory import Memory, MemoryType, Neighbour
from app.domain.ranking import Candidate
from app.domain.statements import CONFLICT_COSINE
from app.store.engine import Statements
from app.store.tables import memories, memory_vectors

NEIGHBOURS = 8
"""How many of the nearest memories of its type a draft is compared with."""

_FIELDS = (
    memories.c.memory_id,
    memories.c.user_id,
    memories.c.type,
    memories.c.content,
    memories.c.confidence,
    memories.c.tags,
    memories.c.source,
    memories.c.created_at,
    memories.c.updated_at,
    memories.c.valid_from,
    memories.c.valid_to,
    memories.c.expires_at,
    memories.c.superseded_by,
    memories.c.version_of,
)
_FIELD_NAMES = ", ".join(f"m.{column.name}" for column in _FIELDS)


def _candidates(vector: str, joined: str, condition: str, nulls: str, is_near: str) -> str:
    """The service's hottest question, written as text because it reads best as what it is.

    `mine` are the user's memories that hold at $6, once, with their distance and the query's words found in
    them (OR); `weights` the words' inverse document frequencies among these memories (Robertson and Spärck
    Jones 1976); `placed` each memory's place by vector, by words (share of the weight of all the query's
    words) and, among those that name a value for one of $9, by age. The arguments say where a memory's `vector` in
    the space $5 comes from.
    """
    return f"""
WITH query AS MATERIALIZED (
    SELECT $1::float4[]::vector AS vector,
           tsvector_to_array(to_tsvector('english'::regconfig, $2::text)) AS terms
), mine AS MATERIALIZED (
    SELECT m.memory_id, m.valid_from, {vector} <=> query.vector AS distance,
           m.slots && $9::text[] AND m.type <> 'HISTORY' AS is_slotted,
           CASE WHEN m.terms && query.terms
                THEN ARRAY(SELECT term FROM unnest(query.terms) AS term WHERE term = ANY(m.terms)) END AS hits
    FROM memories m {joined}, query
    WHERE m.tenant_id = $3::text AND m.user_id = $4::text {condition}
      AND m.valid_from <= $6::timestamptz AND (m.valid_to IS NULL OR m.valid_to > $6::timestamptz)
      AND (m.expires_at IS NULL OR m.expires_at > $6::timestamptz)
      AND ($7::text[] IS NULL OR m.type = ANY($7::text[]))
      AND (CAST($8::text[] AS text[]) IS NULL OR m.tags @> $8::text[])
), weights AS MATERIALIZED (
    SELECT term, ln(1 + ((SELECT count(*) FROM mine) - found + 0.5)::float8 / (found + 0.5)) AS weight
    FROM query, unnest(query.terms) AS term,
         LATERAL (SELECT count(*) AS found FROM mine WHERE term = ANY(mine.hits)) AS counted
), scored AS (
    SELECT memory_id, valid_from, distance, is_slotted,
           CASE WHEN hits IS NOT NULL
                THEN (SELECT sum(weight) FILTER (WHERE term = ANY(hits)) / sum(weight) FROM weights) END AS lexical
    FROM mine
), placed AS (
    SELECT memory_id, distance, lexical, is_slotted,
           row_number() OVER (ORDER BY distance {nulls}, memory_id) AS by_vector,
           row_number() OVER (ORDER BY lexical DESC NULLS LAST, memory_id) AS by_words,
           row_number() OVER (ORDER BY is_slotted DESC, valid_from DESC, memory_id) AS by_slot
    FROM scored
)
SELECT {_FIELD_NAMES}, coalesce(1 - placed.distance, 0) AS cosine, coalesce(placed.lexical, 0) AS lexical,
       vector_send({vector}) AS vector
FROM placed
JOIN memories m ON m.tenant_id = $3::text AND m.memory_id = placed.memory_id {joined}
WHERE ({is_near} placed.by_vector <= $10::int)
   OR (placed.lexical IS NOT NULL AND placed.by_words <= $10::int)
   OR (placed.is_slotted AND placed.by_slot <= $10::int)
"""


_CANDIDATES = _candidates("m.embedding", "", "AND m.space = $5::text", "", "placed.distance IS NOT NULL AND")

# A memory without a vector in the trial's space comes first of all, without one: then this is no answer.
_TRIAL_CANDIDATES = _candidates(
    "v.embedding",
    "LEFT JOIN memory_vectors v ON v.tenant_id = m.tenant_id AND v.memory_id = m.memory_id AND v.space = $5::text",
    "",
    "NULLS FIRST",
    "",
)


def _nearest(condition: str) -> TextClause:
    """For each draft the nearest memories of its type that meet the condition."""
    return text(f"""
WITH draft AS MATERIALIZED (
    -- Read from text once; in the loop below it would be read again for each memory it is compared with.
    SELECT type, CAST(vector AS vector) AS vector, ordinal
    FROM unnest(CAST(:types AS text[]), CAST(:vectors AS text[])) WITH ORDINALITY AS draft(type, vector, ordinal)
)
SELECT {_FIELD_NAMES}, near.cosine, draft.ordinal
FROM draft
CROSS JOIN LATERAL (
    SELECT n.memory_id, 1 - (n.embedding <=> draft.vector) AS cosine
    FROM memories n
    WHERE n.tenant_id = :tenant_id AND n.user_id = :user_id AND n.type = draft.type AND n.space = :space
      AND n.version_of IS NULL AND {condition}
    ORDER BY n.embedding <=> draft.vector
    LIMIT :count
) near
JOIN memories m ON m.tenant_id = :tenant_id AND m.memory_id = near.memory_id
WHERE near.cosine >= :floor
ORDER BY draft.ordinal, near.cosine DESC, m.memory_id
""")


_NEIGHBOURS = _nearest(
    "n.superseded_by IS NULL AND (n.valid_to IS NULL OR n.valid_to > :at) "
    "AND (n.expires_at IS NULL OR n.expires_at > :at)"
)
_REPLACED_NEIGHBOURS = _nearest("n.superseded_by IS NOT NULL AND (n.expires_at IS NULL OR n.expires_at > :at)")


@dataclass(frozen=True)
class SearchFilter:
    """Which memories may be found: those that held at `at`, of these types, with all these tags."""

    at: datetime
    types: Sequence[str] | None = None
    tags: Sequence[str] | None = None


def _filters(where: SearchFilter) -> tuple[datetime, list[str] | None, list[str] | None]:
    return where.at, list(where.types) if where.types else None, list(where.tags) if where.tags else None


def _candidate(row: Any) -> Candidate:
    return Candidate(memory_of(row), row["cosine"], row["lexical"], vector_from_bytes(row["vector"]))


def vector_literal(vector: Vector | None) -> str | None:
    """`vector` as the text the database reads: nine digits keep every float32 exactly. None stays None."""
    if vector is None:
        return None
    return "[" + ",".join([format(value, ".9g") for value in vector.tolist()]) + "]"


def vector_from_bytes(data: bytes) -> Vector:
    """The inverse of the database's vector_send: a two-byte dimension, two spare bytes, big-endian floats."""
    return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)


def memory_of(row: Any) -> Memory:
    """A row of either kind (SQLAlchemy's, the driver's) that begins with the memory's fields, in order."""
    memory_id, user_id, kind, content, confidence, tags, source, *moments = row[:14]
    return Memory(memory_id, user_id, MemoryType(kind), content, confidence, tuple(tags), source, *moments)


class MemoryStore:
    """What is asked and written about memories."""

    async def candidates(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector | None,
        space: str,
        words: str,
        arm: int,
        where: SearchFilter,
        slots: Sequence[str] = (),
    ) -> list[Candidate]:
        """Up to `arm` nearest by vector (none without one), `arm` by words, and `arm` that name a
        value for one of `slots`."""
        values = None if vector is None else vector.tolist()
        arguments = (values, words, tenant_id, user_id, space, *_filters(where), list(slots), arm)
        return [_candidate(row) for row in await statements.fetch(_CANDIDATES, *arguments)]

    async def trial_candidates(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector,
        space: str,
        words: str,
        arm: int,
        where: SearchFilter,
        slots: Sequence[str] = (),
    ) -> list[Candidate] | None:
        """As `candidates`, in the space of a trial; None where a memory that may be found has no vector there: an
        answer never mixes spaces."""
        arguments = (vector.tolist(), words, tenant_id, user_id, space, *_filters(where), list(slots), arm)
        rows = await statements.fetch(_TRIAL_CANDIDATES, *arguments)
        return None if any(row["vector"] is None for row in rows) else [_candidate(row) for row in rows]

    async def neighbours(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        *,
        types: Sequence[str],
        vectors: Vectors,
        space: str,
        at: datetime,
        is_replaced: bool = False,
    ) -> list[list[Neighbour]]:
        """For each draft (its type, its vector), the nearest live (or replaced) memories of its type, nearest
        first."""
        found: list[list[Neighbour]] = [[] for _ in types]
        rows = await connection.execute(
            _REPLACED_NEIGHBOURS if is_replaced else _NEIGHBOURS,
            {
                "tenant_id": tenant_id,
                "user_id": user_id,
                "types": list(types),
                "vectors": [vector_literal(vector) for vector in vectors],
                "space": space,
                "at": at,
                "count": NEIGHBOURS,
                "floor": CONFLICT_COSINE,
            },
        )
        for row in rows:
            found[row.ordinal - 1].append(Neighbour(memory_of(row), row.cosine))
        return found

    async def insert(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        items: Iterable[tuple[Memory, Sequence[str], Vector]],
        space: str,
    ) -> None:
        """Write memories with the slots they name a value for and their vectors."""
        rows = [_row(tenant_id, memory, slots, vector, space) for memory, slots, vector in items]
        if rows:
            await connection.execute(insert(memories), rows)

    async def get(
        self, connection: AsyncConnection, tenant_id: str, memory_id: UUID, *, lock: bool = False
    ) -> Memory | None:
        """The memory with that id, or None; old versions have ids of their own and are found too."""
        query = select(*_FIELDS).where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return memory_of(row) if row else None

    async def history(self, connection: AsyncConnection, tenant_id: str, memory_id: UUID) -> list[Memory]:
        """Earlier versions of a memory and the memories it superseded, oldest first."""
        query = (
            select(*_FIELDS)
            .where(
                memories.c.tenant_id == tenant_id,
                (memories.c.version_of == memory_id) | (memories.c.superseded_by == memory_id),
            )
            .order_by(memories.c.valid_from, memories.c.updated_at, memories.c.memory_id)
        )
        return [memory_of(row) for row in await connection.execute(query)]

    async def copy_as_version(
        self, connection: AsyncConnection, tenant_id: str, memory_id: UUID, version_id: UUID, at: datetime
    ) -> None:
        """Keep the memory as it is now under `version_id`, true until `at`."""
        stored = [column for column in memories.c if column.name != "terms"]
        changed: dict[str, Any] = {"memory_id": version_id, "version_of": memory_id, "valid_to": at}
        source = select(
            *(
                # A value for a changed column, the column itself for the others.
                text(f":{column.name}").bindparams(**{column.name: changed[column.name]})
                if column.name in changed
                else column
                for column in stored
            )
        ).where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)
        await connection.execute(insert(memories).from_select([column.name for column in stored], source))

    async def update(
        self, connection: AsyncConnection, tenant_id: str, memory_id: UUID, values: Mapping[str, Any]
    ) -> None:
        """Set columns of one memory. With another vector, those it has in the spaces of trials are of no use."""
        await connection.execute(
            update(memories)
            .where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)
            .values(dict(values))
        )
        if "embedding" in values:
            await connection.execute(
                delete(memory_vectors).where(
                    memory_vectors.c.tenant_id == tenant_id, memory_vectors.c.memory_id == memory_id
                )
            )

    async def delete(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, kind: str | None = None
    ) -> int:
        """Delete a user's memories, of one type or all; how many rows went, versions included."""
        query = delete(memories).where(memories.c.tenant_id == tenant_id, memories.c.user_id == user_id)
        if kind is not None:
            query = query.where(memories.c.type == kind)
        return (await connection.execute(query)).rowcount

    async def delete_one(self, connection: AsyncConnection, tenant_id: str, memory_id: UUID) -> int:
        """Delete a memory with its old versions; how many rows went."""
        query = delete(memories).where(
            memories.c.tenant_id == tenant_id,
            (memories.c.memory_id == memory_id) | (memories.c.version_of == memory_id),
        )
        return (await connection.execute(query)).rowcount


def _row(tenant_id: str, memory: Memory, slots: Sequence[str], vector: Vector, space: str) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "memory_id": memory.memory_id,
        "user_id": memory.user_id,
        "type": memory.type.value,
        "content": memory.content,
        "confidence": memory.confidence,
        "tags": list(memory.tags),
        "source": memory.source,
        "slots": list(slots),
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "expires_at": memory.expires_at,
        "superseded_by": memory.superseded_by,
        "version_of": memory.version_of,
        "space": space,
        "embedding": vector,
    }
