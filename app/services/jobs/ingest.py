"""The job of an ingest: its turns become memories, some at a time, each exactly once."""

from dataclasses import dataclass

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import UserErased
from app.domain.turns import batches, same_again
from app.services.ingest import IngestPayload
from app.services.jobs.run import JobLost, JobRun
from app.services.turns import Taken, TurnService
from app.store.engine import Database, Statements
from app.store.ingests import IngestStore

log = structlog.get_logger(__name__)

INGESTS = Counter("embed_service_ingests_total", "Ingests that were finished, by what they left.", ["outcome"])

AT_ONCE = 32
"""Turns of one transaction, at most."""


@dataclass(frozen=True)
class IngestJobs:
    """What a worker does about ingests. A batch of turns is taken off the list with the transaction that remembers it:
    whoever begins anew goes on behind the last batch."""

    database: Database
    turns: TurnService
    ingests: IngestStore

    async def handle(self, payload: IngestPayload, run: JobRun) -> None:
        """The job. Of a user who was erased meanwhile nothing is kept."""
        try:
            while await self.take_some(payload):
                pass
        except UserErased:
            log.info("learning_dropped", reason="the user was erased meanwhile")
            return
        async with run.begin(payload.tenant_id) as connection:
            ingest = await self.ingests.finish(connection, payload.tenant_id, payload.ingest_id)
        if ingest is None:  # erased, or forgotten
            return
        outcome = "remembered" if ingest.memories else "nothing"
        INGESTS.labels(outcome).inc()
        counts = {"turns": ingest.turns, "passed_over": ingest.passed_over, "memories": ingest.memories}
        log.info("ingest_finished", ingest_id=str(payload.ingest_id), outcome=outcome, **counts)

    async def take_some(self, payload: IngestPayload) -> bool:
        """Remember the next batch of turns; whether there was one."""
        tenant_id, user_id, ingest_id = payload.tenant_id, payload.user_id, payload.ingest_id
        async with self.database.begin(tenant_id) as connection:
            statements = await Statements.of(connection)
            ingest = await self.ingests.get(connection, tenant_id, ingest_id)
            _, known_since = await self.turns.memories.users.facets(statements, tenant_id, user_id)
            if ingest is None or known_since is None:
                return False
            waiting = await self.ingests.waiting(connection, tenant_id, ingest_id, AT_ONCE)
            last = await self.turns.memories.memories.last_turn(statements, tenant_id, user_id, ingest.session)
            known = {}
            if ingest.taken == 0 and last > 0:
                known = await self.ingests.known_turns(connection, tenant_id, user_id, ingest.session, last)
        if not waiting:
            return False
        first_turn = ingest.first_turn
        if first_turn is None:
            again = same_again(known, [said for _, said in waiting])
            first_turn = last + 1 - ingest.taken if again is None else again
        batch = batches([said for _, said in waiting])[0]
        numbers = [number for number, _ in waiting[: len(batch)]]

        async def take_off(connection: AsyncConnection, taken: Taken) -> None:
            counts = {
                "passed_over": taken.passed_over,
                "memories": taken.memories,
                "deduplicated": taken.deduplicated,
                "superseded": taken.superseded,
                "set_apart": taken.set_apart,
            }
            if not await self.ingests.take(connection, tenant_id, ingest_id, numbers, counts, first_turn):
                raise JobLost(f"another worker remembered these turns of ingest {ingest_id}")

        await self.turns.take(
            tenant_id,
            user_id,
            batch,
            ingest.session,
            first_turn + ingest.taken,
            known_since=known_since,
            within=take_off,
        )
        return True
