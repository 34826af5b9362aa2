"""Queries about ingests: conversations that were handed in, and their turns that are still to be remembered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.places import number_of, place_of
from app.domain.turns import TURN_SOURCE, Utterance
from app.store.pages import delete_oldest
from app.store.tables import ingests, memories, utterances

MOST_KNOWN = 2_000
"""Turns of a conversation among which it is looked for those that are handed in again."""


@dataclass(frozen=True)
class Ingest:
    """A conversation that was handed in, and what became of it so far. `job`: the number of its job in the queue;
    `first_turn`: which turn of its conversation it begins with, None before that was looked at."""

    ingest_id: UUID
    user_id: str
    session: str
    created_at: datetime
    finished_at: datetime | None
    turns: int
    taken: int
    passed_over: int
    memories: int
    deduplicated: int
    superseded: int
    set_apart: int
    job: int | None
    first_turn: int | None = None


_COLUMNS = (
    ingests.c.ingest_id,
    ingests.c.user_id,
    ingests.c.session,
    ingests.c.created_at,
    ingests.c.finished_at,
    ingests.c.turns,
    ingests.c.taken,
    ingests.c.passed_over,
    ingests.c.memories,
    ingests.c.deduplicated,
    ingests.c.superseded,
    ingests.c.set_apart,
    ingests.c.job,
    ingests.c.first_turn,
)


class IngestStore:
    """What is asked and written about ingests."""

    async def create(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        ingest_id: UUID,
        session: str,
        said: Sequence[Utterance],
        now: datetime,
    ) -> bool:
        """Write an ingest with its turns, numbered from 1; False, and nothing is written, where it is there already."""
        values = {
            "tenant_id": tenant_id,
            "ingest_id": ingest_id,
            "user_id": user_id,
            "session": session,
            "created_at": now,
            "turns": len(said),
        }
        written = await connection.execute(
            upsert(ingests).values(values).on_conflict_do_nothing().returning(ingests.c.ingest_id)
        )
        if written.first() is None:
            return False
        await connection.execute(
            insert(utterances),
            [
                {
                    "tenant_id": tenant_id,
                    "ingest_id": ingest_id,
                    "number": number,
                    "user_id": user_id,
                    "role": each.role,
                    "speaker": each.speaker,
                    "content": each.content,
                    "said_at": each.said_at,
                }
                for number, each in enumerate(said, 1)
            ],
        )
        return True

    async def give_job(self, connection: AsyncConnection, tenant_id: str, ingest_id: UUID, job: int) -> None:
        """Note the number of an ingest's job."""
        query = update(ingests).where(ingests.c.tenant_id == tenant_id, ingests.c.ingest_id == ingest_id)
        await connection.execute(query.values(job=job))

    async def get(self, connection: AsyncConnection, tenant_id: str, ingest_id: UUID) -> Ingest | None:
        """An ingest."""
        query = select(*_COLUMNS).where(ingests.c.tenant_id == tenant_id, ingests.c.ingest_id == ingest_id)
        row = (await connection.execute(query)).one_or_none()
        return None if row is None else Ingest(*row)

    async def jobless(self, connection: AsyncConnection, tenant_id: str, users: Sequence[str]) -> list[Ingest]:
        """Ingests of some users that are not finished and have no job, oldest first."""
        query = select(*_COLUMNS).where(
            ingests.c.tenant_id == tenant_id,
            ingests.c.user_id.in_(users),
            ingests.c.finished_at.is_(None),
            ingests.c.job.is_(None),
        )
        rows = await connection.execute(query.order_by(ingests.c.created_at, ingests.c.ingest_id))
        return [Ingest(*row) for row in rows]

    async def waiting(
        self, connection: AsyncConnection, tenant_id: str, ingest_id: UUID, count: int
    ) -> list[tuple[int, Utterance]]:
        """The first `count` turns that are still to be remembered, each with its number, in order."""
        query = (
            select(
                utterances.c.number, utterances.c.role, utterances.c.content, utterances.c.said_at, utterances.c.speaker
            )
            .where(utterances.c.tenant_id == tenant_id, utterances.c.ingest_id == ingest_id)
            .order_by(utterances.c.number)
            .limit(count)
        )
        return [(row.number, Utterance(*row[1:])) for row in await connection.execute(query)]

    async def known_turns(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, session: str, last: int
    ) -> dict[int, Utterance]:
        """The turns of a conversation that are remembered, the MOST_KNOWN up to its `last`, by number."""
        c, number = memories.c, number_of(session)
        query = select(c.turn, c.source, c.content, c.valid_from, c.speaker).where(
            c.tenant_id == tenant_id,
            c.user_id == user_id,
            c.place.between(place_of(number, max(0, last - MOST_KNOWN)), place_of(number, last)),
            c.source.startswith(TURN_SOURCE),
            c.version_of.is_(None),
        )
        rows = await connection.execute(query)
        return {turn: Utterance(source.removeprefix(TURN_SOURCE), *said) for turn, source, *said in rows}

    async def take(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        ingest_id: UUID,
        numbers: Sequence[int],
        counts: Mapping[str, int],
        first_turn: int | None = None,
    ) -> bool:
        """Take waiting turns off the list, raise the counts and note the first turn; False where they are not all there
        any more: whoever took them off before has remembered them."""
        gone = delete(utterances).where(
            utterances.c.tenant_id == tenant_id,
            utterances.c.ingest_id == ingest_id,
            utterances.c.number.in_(numbers),
        )
        if (await connection.execute(gone)).rowcount != len(numbers):
            return False
        raised = {name: ingests.c[name] + value for name, value in counts.items()}
        query = update(ingests).where(ingests.c.tenant_id == tenant_id, ingests.c.ingest_id == ingest_id)
        await connection.execute(query.values(taken=ingests.c.taken + len(numbers), first_turn=first_turn, **raised))
        return True

    async def finish(self, connection: AsyncConnection, tenant_id: str, ingest_id: UUID) -> Ingest | None:
        """Note that nothing of an ingest is left to do; what it was. None where it is gone."""
        query = update(ingests).where(ingests.c.tenant_id == tenant_id, ingests.c.ingest_id == ingest_id)
        row = (await connection.execute(query.values(finished_at=func.now()).returning(*_COLUMNS))).one_or_none()
        return None if row is None else Ingest(*row)

    async def delete_finished(self, connection: AsyncConnection, tenant_id: str, before: datetime, count: int) -> int:
        """Forget up to `count` ingests that were finished before a moment; how many."""
        c = ingests.c
        return await delete_oldest(connection, tenant_id, c.finished_at, c.ingest_id, before=before, count=count)
