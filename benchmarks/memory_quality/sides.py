"""Who is timed: the service and mem0, each with one user who has everything."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain.memory import Draft
from app.services.jobs.graphs import GRAPH
from app.services.jobs.queue import JobQueue
from app.services.jobs.run import JobHandler
from app.services.jobs.worker import Worker
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.store.embedded import connect_driver
from app.store.jobs import JobState, JobStore
from benchmarks.memory_quality.ours import House, database_size
from benchmarks.memory_quality.peer import Peer

USER = "everybody"
LIMIT = 10


class Side(Protocol):
    """Who is timed; seconds are without embedding."""

    async def add(self, drafts: Sequence[Draft]) -> float:
        """Remember; seconds."""
        ...

    async def search(self, query: str) -> float:
        """Find `LIMIT` memories; seconds."""
        ...

    async def settle(self) -> None:
        """Do what is otherwise done in the background."""
        ...

    async def size(self) -> int:
        """Bytes on disk."""
        ...


@dataclass(frozen=True)
class Ours:
    """The service's use cases, with everything on."""

    house: House

    async def add(self, drafts: Sequence[Draft]) -> float:
        """In one transaction."""
        await self.house.embedder.embed([draft.content for draft in drafts])
        began = time.perf_counter()
        await self.house.services.memories.add(DEFAULT_TENANT, USER, drafts)
        return time.perf_counter() - began

    async def search(self, query: str) -> float:
        """By default settings."""
        await self.house.embedder.embed([query])
        began = time.perf_counter()
        await self.house.services.ranking.search(DEFAULT_TENANT, USER, SearchRequest(query, LIMIT))
        return time.perf_counter() - began

    async def settle(self) -> None:
        """The worker makes the user's graph, which adding asked for."""
        database = self.house.services.database
        queue = JobQueue(database, JobStore())
        undone: Sequence[JobState] = ("waiting", "running")
        worker = Worker(database, JobStore(), [JobHandler(GRAPH, self.house.services.memories.graphs.handle)])
        task = asyncio.create_task(worker.run())
        try:
            while not task.done() and await queue.find(states=undone, kind=GRAPH.name):  # noqa: ASYNC110 - the worker tells nobody
                await asyncio.sleep(0.2)
        finally:
            worker.stop()
            await task
        if await queue.find(kind=GRAPH.name):
            raise SystemExit("the user's graph could not be made")
        await _vacuum(self.house.url)

    async def size(self) -> int:
        """The database's."""
        return await self.house.size()


@dataclass(frozen=True)
class Theirs:
    """mem0, whose process tells the seconds."""

    peer: Peer

    async def add(self, drafts: Sequence[Draft]) -> float:
        """One transaction each."""
        return (await self.peer.add(USER, [draft.content for draft in drafts])).seconds

    async def search(self, query: str) -> float:
        """By default settings."""
        return (await self.peer.search(USER, query, LIMIT)).seconds

    async def settle(self) -> None:
        """It has nothing of its own to do."""
        await _vacuum(self.peer.url)

    async def size(self) -> int:
        """The database's, and that of the file with the history."""
        return await database_size(self.peer.url) + self.peer.history_size()


async def _vacuum(url: str) -> None:
    connection = await connect_driver(url)
    try:
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()
