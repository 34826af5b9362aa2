"""Queries about trials of embedding spaces, their vectors and their outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import column, func, literal, select, table, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vectors
from app.domain.spaces import StoredSpace
from app.domain.trials import Outcomes, Trial
from app.store.hypotheses import DECIDED
from app.store.tables import AnyRow, memories, space_trials
from app.store.vectors import vector_literal

STANDING_SECTIONS = ("preferences_style", "constraints")
"""Sections of a prompt that hold what the user always wants: no search has to find it."""

_FIELDS = [column for column in space_trials.c if column.name != "tenant_id"]


def _write_vectors(space: StoredSpace) -> str:
    """Whoever changes a memory holds its row: what was embedded is written only where it is still what the memory says,
    and nobody who writes a memory ever waits for this (the next fill finds what was skipped). Nothing is written for a
    trial that was stopped meanwhile."""
    return f"""
WITH trial AS (
    SELECT FROM space_trials WHERE tenant_id = :tenant_id AND space = :space AND status <> 'ended' FOR SHARE
), given AS (
    SELECT memory_id, content, CAST(vector AS vector) AS vector
    FROM unnest(CAST(:ids AS uuid[]), CAST(:contents AS text[]), CAST(:vectors AS text[]))
         AS given(memory_id, content, vector)
), held AS (
    SELECT m.memory_id, m.user_id, given.vector
    FROM memories m JOIN given ON given.memory_id = m.memory_id AND given.content = m.content
    WHERE m.tenant_id = :tenant_id
    ORDER BY m.memory_id
    FOR SHARE OF m SKIP LOCKED
)
INSERT INTO {space.memory_table} (tenant_id, user_id, memory_id, embedding)
SELECT :tenant_id, user_id, memory_id, in_space(vector, :tenant_id, {space.number}, 'trial')::{space.column_type}
FROM held, trial
ON CONFLICT DO NOTHING
"""


_OUTCOMES = text("""
SELECT user_id, CAST(sum(selected) AS int), CAST(sum(answered) AS int), CAST(sum(used) AS int),
       CAST(sum(executed) AS int), CAST(sum(succeeded) AS int), CAST(sum(judged) AS int)
FROM (
    SELECT user_id, count(*) FILTER (WHERE outcome = 'selected') AS selected, count(*) AS answered,
           0 AS used, 0 AS executed, 0 AS succeeded, 0 AS judged
    FROM hypothesis_sets
    WHERE tenant_id = :tenant_id AND created_at >= :since AND created_at < :until
      AND outcome = ANY(CAST(:decided AS text[]))
    GROUP BY user_id
    UNION ALL
    SELECT user_id, 0, 0,
           count(*) FILTER (WHERE EXISTS (
               SELECT FROM jsonb_array_elements(memories_used) AS use
               WHERE use ->> 'section' <> ALL(CAST(:standing AS text[]))
           )),
           count(*), count(*) FILTER (WHERE is_success), count(is_success)
    FROM executions
    WHERE tenant_id = :tenant_id AND created_at >= :since AND created_at < :until
    GROUP BY user_id
) AS counted
GROUP BY user_id
ORDER BY user_id
""")


@dataclass(frozen=True)
class Unfilled:
    """A memory without a vector in a space."""

    memory_id: UUID
    content: str


class TrialStore:
    """What is asked and written about trials."""

    async def open(self, connection: AsyncConnection, tenant_id: str, *, lock: bool = False) -> Trial | None:
        """The trial that is filling or running; a tenant has one at most."""
        query = select(*_FIELDS).where(space_trials.c.tenant_id == tenant_id, space_trials.c.status != "ended")
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return _trial(row) if row else None

    async def latest(self, connection: AsyncConnection, tenant_id: str, trial_id: str | None = None) -> Trial | None:
        """A trial by its id, else the newest one, ended or not."""
        query = select(*_FIELDS).where(space_trials.c.tenant_id == tenant_id)
        if trial_id is not None:
            query = query.where(space_trials.c.trial_id == trial_id)
        row = (await connection.execute(query.order_by(space_trials.c.created_at.desc()).limit(1))).one_or_none()
        return _trial(row) if row else None

    async def insert(self, connection: AsyncConnection, tenant_id: str, trial: Trial) -> bool:
        """Write a new trial; False where another one is open."""
        values = {column.name: getattr(trial, column.name) for column in _FIELDS}
        query = upsert(space_trials).values(tenant_id=tenant_id, **values).on_conflict_do_nothing()
        return (await connection.execute(query)).rowcount == 1

    async def change(self, connection: AsyncConnection, tenant_id: str, trial_id: str, **values: Any) -> None:
        """Write columns of a trial."""
        query = update(space_trials).where(space_trials.c.tenant_id == tenant_id, space_trials.c.trial_id == trial_id)
        await connection.execute(query.values(values))

    async def unfilled(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        *,
        limit: int,
        after: UUID | None = None,
        user_id: str | None = None,
    ) -> Sequence[Unfilled]:
        """Memories without a vector in a space, in the order of their ids, of one user or of all."""
        vectors = table(space.memory_table, column("tenant_id"), column("user_id"), column("memory_id"))
        joined = memories.outerjoin(
            vectors,
            (vectors.c.tenant_id == memories.c.tenant_id)
            & (vectors.c.user_id == memories.c.user_id)
            & (vectors.c.memory_id == memories.c.memory_id),
        )
        query = (
            select(memories.c.memory_id, memories.c.content)
            .select_from(joined)
            .where(memories.c.tenant_id == tenant_id, vectors.c.memory_id.is_(None))
            .order_by(memories.c.memory_id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(memories.c.memory_id > after)
        if user_id is not None:
            query = query.where(memories.c.user_id == user_id)
        return [Unfilled(row.memory_id, row.content) for row in await connection.execute(query)]

    async def write_vectors(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        space: StoredSpace,
        filled: Sequence[Unfilled],
        vectors: Vectors,
    ) -> int:
        """Write the vectors of memories that still say what was embedded, while the trial is open; how many."""
        arguments = {
            "tenant_id": tenant_id,
            "space": space.id,
            "ids": [one.memory_id for one in filled],
            "contents": [one.content for one in filled],
            "vectors": [vector_literal(vector) for vector in vectors],
        }
        return (await connection.execute(text(_write_vectors(space)), arguments)).rowcount

    async def count(self, connection: AsyncConnection, tenant_id: str, space: StoredSpace | None) -> tuple[int, int]:
        """(memories with a vector in a space, all memories). None: a space that was given up."""
        every = select(func.count()).where(memories.c.tenant_id == tenant_id).scalar_subquery()
        filled = literal(0) if space is None else _count(space, tenant_id)
        row = (await connection.execute(select(filled, every))).one()
        return row[0], row[1]

    async def outcomes(
        self, connection: AsyncConnection, tenant_id: str, since: datetime, until: datetime
    ) -> list[Outcomes]:
        """What each user did in a time that says whether the right memories were found."""
        arguments = {
            "tenant_id": tenant_id,
            "since": since,
            "until": until,
            "decided": list(DECIDED),
            "standing": list(STANDING_SECTIONS),
        }
        return [
            Outcomes(user_id, {"selection": (hits, tries), "use": (used, executed), "success": (good, judged)})
            for user_id, hits, tries, used, executed, good, judged in await connection.execute(_OUTCOMES, arguments)
        ]


def _count(space: StoredSpace, tenant_id: str) -> Any:
    vectors = table(space.memory_table, column("tenant_id"))
    return select(func.count()).where(vectors.c.tenant_id == tenant_id).scalar_subquery()


def _trial(row: AnyRow) -> Trial:
    return Trial(*row)
