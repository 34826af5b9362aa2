"""Searches on a read replica, for whoever it is not behind.

The replica searches while the database itself is asked for the version of the user's memories, a look-up by key. Where
the replica had another version, the database answers: whoever just wrote finds what they wrote, whichever process took
it, and nobody finds what was erased.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import asyncpg
import structlog
from prometheus_client import Counter

from app.domain.errors import StaleSpace, StoreUnavailable
from app.ports import Clock
from app.store.engine import Database, Statements
from app.store.replica import MemoryVersion, Replica, memory_version

log = structlog.get_logger(__name__)

READS = Counter(
    "embed_service_replica_reads_total", "Searches where there is a read replica, by who answered.", ["outcome"]
)

REPLICA_S = 1.0
"""How long a replica may take; then the database itself answers."""

REST = timedelta(seconds=5)
"""How long a replica that failed is left alone."""

T = TypeVar("T")


class Reads:
    """Where a search reads: on the replica, where there is one that knows of all the user's writes, else on the
    database itself."""

    def __init__(self, database: Database, replica: Replica | None, clock: Clock) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock
        self._rests_until: datetime | None = None

    async def read(self, tenant_id: str, user_id: str, work: Callable[[Statements], Awaitable[T]]) -> T:
        """What `work` finds in one transaction of the tenant; it may run twice and must not write. Raises as
        Database.transact and `work`."""
        replica = self._replica
        if replica is not None and not self._is_resting():
            wanted, found = await asyncio.gather(
                self._version(tenant_id, user_id), self._on_replica(replica, tenant_id, user_id, work)
            )
            if found is not None and found[0] == wanted:
                READS.labels("replica").inc()
                return found[1]
            READS.labels("failed" if found is None else "behind").inc()
        elif replica is not None:
            READS.labels("resting").inc()
        async with self._database.transact(tenant_id) as statements:
            return await work(statements)

    async def aclose(self) -> None:
        """Close the replica's connections."""
        if self._replica is not None:
            await self._replica.aclose()

    async def _version(self, tenant_id: str, user_id: str) -> MemoryVersion:
        async with self._database.transact(tenant_id) as statements:
            return await memory_version(statements, tenant_id, user_id)

    async def _on_replica(
        self, replica: Replica, tenant_id: str, user_id: str, work: Callable[[Statements], Awaitable[T]]
    ) -> tuple[MemoryVersion, T] | None:
        try:
            async with asyncio.timeout(REPLICA_S):
                return await replica.read(tenant_id, user_id, work)
        except StaleSpace:  # it has not heard of a switch yet, or the caller has not: the database knows
            return None
        except (TimeoutError, StoreUnavailable, asyncpg.PostgresError) as error:
            # Also: a standby cancels a query that stands in the way of what it has to replay.
            self._rests_until = self._clock.now() + REST
            log.warning("replica_unavailable", cause=type(error).__name__, reason=str(error))
            return None

    def _is_resting(self) -> bool:
        return self._rests_until is not None and self._clock.now() < self._rests_until
