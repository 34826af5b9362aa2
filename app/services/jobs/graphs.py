"""Graphs: users with very many memories are searched in one of their own, made in the background."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import NotReady
from app.domain.jobs import JobKind, JobPayload
from app.domain.spaces import EXACT_LIMIT, StoredSpace
from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobRun
from app.store.engine import Database
from app.store.graphs import FIRST, GraphStore
from app.store.spaces import SpaceStore

log = structlog.get_logger(__name__)

BATCH = 200
"""Vectors of one transaction: about as many milliseconds, in which a writer may wait for their rows."""

PATIENCE_S = 60.0
"""How long transactions from before are waited for; then the job is tried again later."""

EVERY_HOUR = "47 * * * *"


class GraphPayload(JobPayload):
    """A user who may have become large; None: look for all of them."""

    user_id: str | None = None


GRAPH = JobKind("graph", GraphPayload)

Batch = Callable[[AsyncConnection, UUID], Awaitable[UUID | None]]
"""Does a part of the work after a place; where it ended, None at the end."""


@dataclass(frozen=True)
class GraphService:
    """The use cases about graphs."""

    database: Database
    graphs: GraphStore
    spaces: SpaceStore
    queue: JobQueue
    limit: int = EXACT_LIMIT

    async def want(self, connection: AsyncConnection, tenant_id: str, *users: str) -> None:
        """Add the job for those of the users who are past the limit and have no graph, with the caller's
        transaction."""
        for user_id in await self.graphs.large_among(connection, tenant_id, users, self.limit):
            payload = GraphPayload(tenant_id=tenant_id, user_id=user_id)
            await self.queue.add(connection, new_job(GRAPH, payload, key=user_id))

    async def handle(self, payload: GraphPayload, run: JobRun) -> None:
        """The job of a user, or, recurring, the search of a tenant for those whom nobody has noticed."""
        tenant_id, user_id = payload.tenant_id, payload.user_id
        if user_id is None:
            async with run.begin(tenant_id) as connection:
                found = await self.graphs.large(connection, tenant_id, self.limit)
                jobs = [new_job(GRAPH, GraphPayload(tenant_id=tenant_id, user_id=each), key=each) for each in found]
                await self.queue.add(connection, *jobs)
            return
        number = await self._begin(tenant_id, user_id)
        if number is None:
            return
        started_at = time.monotonic()
        while await self._fill(tenant_id, user_id, number):  # noqa: ASYNC110 - somebody holds what is left
            await asyncio.sleep(0.1)
        async with run.begin(tenant_id) as connection:
            is_done = await self.graphs.finish(connection, tenant_id, user_id, number)
        if is_done:
            log.info("graph_built", number=number, seconds=round(time.monotonic() - started_at, 3))

    async def _begin(self, tenant_id: str, user_id: str) -> int | None:
        """The number of the user's graph, which every writer keeps from now on; None where there is nothing to do."""
        async with self.database.begin(tenant_id) as connection:
            graph = await self.graphs.graph(connection, tenant_id, user_id)
            if graph is None or graph > 0:
                return None
            if graph < 0:  # an earlier try has begun
                number, mark = -graph, await self.graphs.mark(connection)
            else:
                if not await self.graphs.large_among(connection, tenant_id, [user_id], self.limit):
                    return None
                number = await self.graphs.take(connection, tenant_id, user_id)
                if number is None:
                    log.warning("graphs_taken")
                    return None
                mark = await self.graphs.begin(connection, tenant_id, user_id, number)
        await self._wait_for_writers(tenant_id, mark)
        return number

    async def _wait_for_writers(self, tenant_id: str, mark: str) -> None:
        """Return when nobody writes any more who may not know of the graph. Raises NotReady."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            async with self.database.begin(tenant_id) as connection:
                if await self.graphs.is_past(connection, mark):
                    return
            await asyncio.sleep(0.05)
        raise NotReady("a transaction from before holds up the graph")

    async def _fill(self, tenant_id: str, user_id: str, number: int) -> bool:
        """Give the graph what it lacks, batch after batch; whether something still lacks."""
        spaces = await self._spaces(tenant_id)
        for space in spaces:

            async def move(connection: AsyncConnection, after: UUID, space: StoredSpace = space) -> UUID | None:
                return await self.graphs.move_vectors(
                    connection, tenant_id, user_id, space, number=number, after=after, count=BATCH
                )

            await self._through(tenant_id, move)

        async def add(connection: AsyncConnection, after: UUID) -> UUID | None:
            return await self.graphs.add_words(connection, tenant_id, user_id, after=after, count=BATCH)

        await self._through(tenant_id, add)
        async with self.database.begin(tenant_id) as connection:
            return await self.graphs.is_lacking(connection, tenant_id, user_id, spaces, number)

    async def _spaces(self, tenant_id: str) -> Sequence[StoredSpace]:
        async with self.database.begin(tenant_id) as connection:
            spaces = await self.spaces.of_tenant(connection, tenant_id)
        return () if spaces is None else spaces.every

    async def _through(self, tenant_id: str, batch: Batch) -> None:
        after: UUID | None = FIRST
        while after is not None:
            async with self.database.begin(tenant_id) as connection:
                after = await batch(connection, after)
