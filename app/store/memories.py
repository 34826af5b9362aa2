"""Queries about memories. One method is one statement inside the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import orjson
from sqlalchemy import case, delete, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector
from app.domain.memory import Evidence, Memory, MemoryType, Neighbour
from app.domain.places import SESSION_BITS, number_of, place_of
from app.domain.ranking import Candidate
from app.domain.spaces import Embedded, Role, StoredSpace
from app.domain.statements import RELATED_COSINE
from app.domain.times import REACH_DAYS, Span
from app.store.engine import Statements
from app.store.memory_fields import Looked, exact_field, graph_field, looked, looked_by_graph, picked
from app.store.memory_search import FIELDS, NEWEST, by_graph, exact, fetch_by_graph, nearest
from app.store.pages import page_of
from app.store.tables import Moment, memories
from app.store.vectors import vector_from_bytes, vector_literal

NEIGHBOURS = 8
"""How many of the nearest memories of its type a draft is compared with."""

OVER = 50
"""And how many of those that are over, where it tells of the past: a life has more of them than it has at a time."""

MAX_KNOWN = 10_000
"""Large users whose graph is remembered by a process."""

_FIELDS = tuple(memories.c[name] for name in FIELDS)

_INSERT = text("""
INSERT INTO memories (
    tenant_id, memory_id, user_id, type, content, confidence, tags, source, slots, created_at, updated_at, valid_from,
    valid_to, expires_at, superseded_by, version_of, session, turn, speaker, place, quote, proof_count, is_set_right,
    told_at, later_sources, later_quotes
)
SELECT :tenant_id, given.* FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS given(
    memory_id uuid, user_id text, type text, content text, confidence float8, tags text[], source text, slots text[],
    created_at timestamptz, updated_at timestamptz, valid_from timestamptz,
    valid_to timestamptz, expires_at timestamptz, superseded_by uuid, version_of uuid,
    session text, turn int, speaker text, place bigint, quote text, proof_count int,
    is_set_right boolean, told_at timestamptz[], later_sources text[], later_quotes text[]
)
""")


_LAST_TURNS = f"""
SELECT asked.number, (
    SELECT max(m.place) FROM memories m
    WHERE m.tenant_id = $1::text AND m.user_id = $2::text AND m.place IS NOT NULL
      AND m.place >= asked.number << {SESSION_BITS} AND m.place < (asked.number + 1) << {SESSION_BITS}
) AS place
FROM unnest($3::bigint[]) AS asked(number)
"""


@dataclass(frozen=True)
class SearchFilter:
    """Which memories may be found: those that held at `at`, of these types, with all these tags; by what was known at
    `known_at`, where it is not by what is known now."""

    at: datetime
    types: Sequence[str] | None = None
    tags: Sequence[str] | None = None
    known_at: datetime | None = None


@dataclass(frozen=True)
class Asked:
    """Whose memories are searched for what: by `words`, and by a vector of a space where there is one."""

    tenant_id: str
    user_id: str
    words: str
    vector: Vector | None
    space: StoredSpace
    where: SearchFilter
    role: Role = "serving"
    spans: Sequence[Span] = ()
    """The times that the words name."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first seven of the statements of a search."""
        values = None if self.vector is None else self.vector.tolist()
        return values, self.words, self.tenant_id, self.user_id, *_filters(self.where)

    @property
    def known_at(self) -> tuple[datetime, ...]:
        """The last argument of those that go by what was known at a moment, and of no others."""
        return () if self.where.known_at is None else (self.where.known_at,)

    @property
    def times(self) -> tuple[Sequence[datetime], ...]:
        """The last arguments of those that go by times, and of no others: from when to when each is."""
        reach = timedelta(days=REACH_DAYS)
        pairs = [(each.start - reach, each.end + reach) for each in self.spans]
        return tuple(zip(*pairs, strict=True))


def _filters(where: SearchFilter) -> tuple[datetime, list[str] | None, list[str] | None]:
    return where.at, list(where.types) if where.types else None, list(where.tags) if where.tags else None


def _vector_of(held: bytes | None, space: StoredSpace) -> Vector:
    """One that has no vector yet is near to nothing."""
    return np.zeros(space.space.dimension, np.float32) if held is None else vector_from_bytes(held)


def _candidate(row: Any, space: StoredSpace) -> Candidate:
    return Candidate(memory_of(row), row["cosine"], row["lexical"], _vector_of(row["vector"], space))


def memory_of(row: Any) -> Memory:
    """A row of either kind (SQLAlchemy's, the driver's) that begins with the memory's fields, in order."""
    memory_id, user_id, kind, content, confidence, tags, source, *rest, sources, quotes = row[: len(FIELDS)]
    told = tuple(Evidence(source, quote or None) for source, quote in zip(sources, quotes, strict=False))
    return Memory(
        memory_id, user_id, MemoryType(kind), content, confidence, tuple(tags), source, *rest, later_evidence=told
    )


def with_told(memory: Memory, told_at: Sequence[datetime]) -> Memory:
    """A memory with the moments of which it was told again."""
    return replace(memory, told_at=tuple(told_at)) if told_at else memory


class MemoryStore:
    """What is asked and written about memories."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[str, str], int] = {}

    async def candidates(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector | None,
        space: StoredSpace,
        words: str,
        arm: int,
        where: SearchFilter,
        slots: Sequence[str] = (),
    ) -> list[Candidate]:
        """Up to `arm` nearest by vector (none without one), `arm` by words, and `arm` that name a
        value for one of `slots`. Raises StaleSpace where another space serves.

        By the user's graph where this process knows of one; exactly where it turns out to be another one, or where few
        memories pass the filters.
        """
        values = None if vector is None else vector.tolist()
        arguments = (values, words, tenant_id, user_id, *_filters(where), list(slots), arm)
        graph = self._graphs.get((tenant_id, user_id), 0) if space.has_graphs else 0
        if graph:
            rows = await fetch_by_graph(statements, by_graph(space, graph), *arguments)
            if rows and rows[0]["graph"] == graph and (vector is None or rows[0]["near"] >= arm):
                return [_candidate(row, space) for row in rows]
        rows = await statements.fetch(exact(space, "serving"), *arguments)
        if rows:
            self._learn((tenant_id, user_id), rows[0]["graph"])
        return [_candidate(row, space) for row in rows]

    def _learn(self, user: tuple[str, str], graph: int) -> None:
        if not graph:
            self._graphs.pop(user, None)
            return
        if len(self._graphs) >= MAX_KNOWN:
            self._graphs.clear()
        self._graphs[user] = graph

    async def look(
        self, statements: Statements, asked: Asked, *, nearest: int, is_exact: bool = False
    ) -> Looked | None:
        """What is known of a user's memories for a query: of every one that may be found, or for one who has a graph
        of the `nearest` and of those that hold one of its words. None where a memory lacks a vector of a trial's space.
        Raises StaleSpace where another space serves.
        """
        space, user = asked.space, (asked.tenant_id, asked.user_id)
        may_use_graph = space.has_graphs and asked.role == "serving" and not is_exact and not asked.known_at
        graph = self._graphs.get(user, 0) if may_use_graph else 0
        if graph:
            query = graph_field(space, graph, is_dated=bool(asked.spans))
            rows = await fetch_by_graph(statements, query, *asked.arguments, nearest, *asked.times)
            if rows[0]["graph"] == graph and (asked.vector is None or rows[0]["near"] >= nearest):
                return looked_by_graph(rows[0])
        query = exact_field(space, asked.role, is_known=bool(asked.known_at), is_dated=bool(asked.spans))
        row = (await statements.fetch(query, *asked.arguments, *asked.known_at))[0]
        if asked.role == "trial" and row["lacking"]:
            return None
        if asked.role == "serving":
            self._learn(user, row["graph"])
        return looked(row)

    async def pick(self, statements: Statements, asked: Asked, looked: Looked, ids: Sequence[UUID]) -> list[Candidate]:
        """Those of some of the memories that were looked at that may be found, in no order; asked for only where they
        did not come along."""
        if not ids:
            return []
        if looked.rows is None:
            query = picked(asked.space, asked.role, is_known=bool(asked.known_at))
            rows = await statements.fetch(query, *asked.arguments, list(ids), *asked.known_at)
        else:
            wanted = set(ids)
            rows = [row for row in looked.rows if row[0] in wanted]
        found = ((memory_of(row), *row[len(FIELDS) :]) for row in rows)
        return [
            Candidate(memory, cosine or 0.0, 0.0, _vector_of(vector, asked.space)) for memory, cosine, vector in found
        ]

    async def last_turn(self, statements: Statements, tenant_id: str, user_id: str, session: str) -> int:
        """The number of the last turn of a conversation that was named; 0 where nothing of it is known."""
        number = number_of(session)
        return (await self.last_turns(statements, tenant_id, user_id, [number])).get(number, 0)

    async def last_turns(
        self, statements: Statements, tenant_id: str, user_id: str, sessions: Sequence[int]
    ) -> dict[int, int]:
        """The last turn of each session that has any, by the session's number in places."""
        rows = await statements.fetch(_LAST_TURNS, tenant_id, user_id, list(sessions))
        return {row["number"]: row["place"] & ((1 << SESSION_BITS) - 1) for row in rows if row["place"] is not None}

    async def turns_before(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, session: str, turn: int, count: int
    ) -> list[str]:
        """What the last `count` turns of a conversation say before one of it, in order."""
        c, conversation = memories.c, number_of(session)
        query = select(c.content).where(
            c.tenant_id == tenant_id,
            c.user_id == user_id,
            c.place >= place_of(conversation, 0),
            c.place < place_of(conversation, turn),
            c.type == MemoryType.HISTORY.value,
            c.version_of.is_(None),
        )
        rows = await connection.execute(query.order_by(c.place.desc(), c.memory_id).limit(count))
        return list(rows.scalars())[::-1]

    async def trial_candidates(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector,
        space: StoredSpace,
        words: str,
        arm: int,
        where: SearchFilter,
        slots: Sequence[str] = (),
    ) -> list[Candidate] | None:
        """As `candidates`, in the space of a trial, always exactly; None where a memory that may be found has no vector
        there: an answer never mixes spaces."""
        arguments = (vector.tolist(), words, tenant_id, user_id, *_filters(where), list(slots), arm)
        rows = await statements.fetch(exact(space, "trial"), *arguments)
        return None if any(row["vector"] is None for row in rows) else [_candidate(row, space) for row in rows]

    async def neighbours(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        types: Sequence[str],
        embedded: Embedded,
        at: datetime,
        is_over: bool = False,
        graph: int = 0,
    ) -> list[list[Neighbour]]:
        """For each draft (its type, its vector), the nearest memories of its type that are live (or over), nearest
        first; the live ones by the user's graph where it has one. Raises StaleSpace where another space serves."""
        is_by_graph = graph > 0 and embedded.space.has_graphs and not is_over
        query = nearest(embedded.space, is_over=is_over, graph=graph if is_by_graph else 0)
        most = OVER if is_over else NEIGHBOURS
        literals = [vector_literal(vector) for vector in embedded.vectors]
        fetch = partial(fetch_by_graph, statements) if is_by_graph else statements.fetch
        rows = await fetch(query, tenant_id, user_id, at, list(types), literals, most, RELATED_COSINE)
        found: list[list[Neighbour]] = [[] for _ in types]
        for row in rows:
            found[row["ordinal"] - 1].append(Neighbour(with_told(memory_of(row), row["told_at"]), row["cosine"]))
        return found

    async def newest(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        types: Sequence[str],
        at: datetime,
        limit: int,
    ) -> list[Memory]:
        """A user's memories of these types that hold, the newest `limit` of them, newest first."""
        return [memory_of(row) for row in await statements.fetch(NEWEST, tenant_id, user_id, list(types), at, limit)]

    async def insert(
        self, connection: AsyncConnection, tenant_id: str, items: Iterable[tuple[Memory, Sequence[str]]]
    ) -> None:
        """Write memories with the slots they name a value for, all in one statement. Their vectors are SpaceStore's to
        write."""
        rows = [_row(memory, slots) for memory, slots in items]
        if rows:
            await connection.execute(
                _INSERT, {"tenant_id": tenant_id, "rows": orjson.dumps(rows, default=str).decode()}
            )

    async def get(
        self, connection: AsyncConnection, tenant_id: str, memory_id: UUID, *, lock: bool = False
    ) -> Memory | None:
        """The memory with that id, or None; old versions have ids of their own and are found too."""
        query = select(*_FIELDS).where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return memory_of(row) if row else None

    async def many(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, ids: Sequence[UUID]
    ) -> dict[UUID, Memory]:
        """Those of a user's memories that are there, by id."""
        query = select(*_FIELDS).where(
            memories.c.tenant_id == tenant_id, memories.c.user_id == user_id, memories.c.memory_id.in_(ids)
        )
        found = [memory_of(row) for row in await connection.execute(query)]
        return {memory.memory_id: memory for memory in found}

    async def page(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        *,
        where: SearchFilter,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> list[Memory]:
        """Memories that pass, by when they became true, newest first: the first `limit`, or those that come after one
        (its `valid_from`, its id)."""
        c = memories.c
        query = select(*_FIELDS).where(
            c.tenant_id == tenant_id,
            c.user_id == user_id,
            c.valid_from <= where.at,
            c.valid_to.is_(None) | (c.valid_to > where.at),
            c.expires_at.is_(None) | (c.expires_at > where.at),
        )
        if where.types:
            query = query.where(c.type.in_(where.types))
        if where.tags:
            query = query.where(c.tags.op("@>")(literal(list(where.tags), c.tags.type)))
        rows = await connection.execute(page_of(query, c.valid_from, c.memory_id, after, limit))
        return [memory_of(row) for row in rows]

    async def history(self, connection: AsyncConnection, tenant_id: str, user_id: str, memory_id: UUID) -> list[Memory]:
        """Earlier versions of a user's memory and the memories it superseded, oldest first."""
        query = (
            select(*_FIELDS)
            .where(
                memories.c.tenant_id == tenant_id,
                memories.c.user_id == user_id,
                (memories.c.version_of == memory_id) | (memories.c.superseded_by == memory_id),
            )
            .order_by(memories.c.valid_from, memories.c.updated_at, memories.c.memory_id)
        )
        return [memory_of(row) for row in await connection.execute(query)]

    async def copy_as_version(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        memory_id: UUID,
        version_id: UUID,
        at: datetime,
        now: datetime,
    ) -> None:
        """Keep the memory as it is now under `version_id`, true until `at` as is known from `now` on."""
        await self.copy(connection, tenant_id, memory_id, {"memory_id": version_id, "version_of": memory_id})
        await self.update(connection, tenant_id, version_id, {"valid_to": at}, now)

    async def copy(
        self, connection: AsyncConnection, tenant_id: str, memory_id: UUID, changed: Mapping[str, Any]
    ) -> None:
        """Write a memory once more, with other values in the columns that change, its id among them."""
        stored = [column for column in memories.c if column.name != "terms"]
        source = select(
            *(
                literal(changed[column.name], column.type).label(column.name) if column.name in changed else column
                for column in stored
            )
        ).where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id)
        await connection.execute(insert(memories).from_select([column.name for column in stored], source))

    async def update(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        memory_id: UUID,
        values: Mapping[str, Any],
        now: datetime | None = None,
    ) -> None:
        """Set columns of one memory. With a moment, what was known before of when it ends is kept beside it."""
        changed = dict(values)
        if now is not None and "valid_to" in values:
            is_moved = memories.c.valid_to.is_distinct_from(literal(values["valid_to"], memories.c.valid_to.type))
            for name, last in (("ended_at", literal(now, Moment)), ("told_to", memories.c.valid_to)):
                column = memories.c[name]
                changed[name] = case((is_moved, func.array_append(column, last)), else_=column)
        await connection.execute(
            update(memories).where(memories.c.tenant_id == tenant_id, memories.c.memory_id == memory_id).values(changed)
        )

    async def delete(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, kind: str | None = None
    ) -> int:
        """Delete a user's memories, of one type or all; how many rows went, versions included."""
        query = delete(memories).where(memories.c.tenant_id == tenant_id, memories.c.user_id == user_id)
        if kind is not None:
            query = query.where(memories.c.type == kind)
        return (await connection.execute(query)).rowcount

    async def delete_one(self, connection: AsyncConnection, tenant_id: str, user_id: str, memory_id: UUID) -> int:
        """Delete a user's memory with its old versions; how many rows went."""
        query = delete(memories).where(
            memories.c.tenant_id == tenant_id,
            memories.c.user_id == user_id,
            (memories.c.memory_id == memory_id) | (memories.c.version_of == memory_id),
        )
        return (await connection.execute(query)).rowcount


def later_evidence(memory: Memory) -> dict[str, list[str]]:
    """The columns of what told a memory after the first."""
    return {
        "later_sources": [each.source for each in memory.later_evidence],
        "later_quotes": [each.quote or "" for each in memory.later_evidence],
    }


def _row(memory: Memory, slots: Sequence[str]) -> dict[str, Any]:
    return {
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
        "session": memory.session,
        "turn": memory.turn,
        "speaker": memory.speaker,
        "place": memory.place,
        "quote": memory.quote,
        "proof_count": memory.proof_count,
        "is_set_right": memory.is_set_right,
        "told_at": list(memory.told_at),
        **later_evidence(memory),
    }
