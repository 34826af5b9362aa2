"""A read replica: a second pool on a copy of the database that may be a little behind."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from app.store.engine import Database, Statements, check_confined

T = TypeVar("T")

MemoryVersion = tuple[datetime, int] | None
"""When a user was made known, and how often what a search of theirs can find has changed since; None: no such user."""

_VERSION = "SELECT created_at, writes FROM users WHERE tenant_id = $1::text AND user_id = $2::text"


async def memory_version(statements: Statements, tenant_id: str, user_id: str) -> MemoryVersion:
    """The version of a user's memories, as this transaction sees it."""
    rows = await statements.fetch(_VERSION, tenant_id, user_id)
    return (rows[0]["created_at"], rows[0]["writes"]) if rows else None


class Replica:
    """The database's copy at another URL, with the same role. Connects on first use."""

    def __init__(self, url: str, primary: Database, *, pool_size: int) -> None:
        """`url` as DATABASE_REPLICA_URL has it."""
        self._prepared = replace(primary.prepared, url=url)
        self._database = Database(self._prepared, pool_size=pool_size)
        self._checking = asyncio.Lock()
        self._is_checked = False

    @asynccontextmanager
    async def transact(self, tenant_id: str) -> AsyncGenerator[Statements]:
        """As Database.transact. Raises DatabaseUnsuitable where its login is not bound by row-level security."""
        async with self._checking:
            if not self._is_checked:
                await check_confined(self._prepared)
                self._is_checked = True
        async with self._database.transact(tenant_id) as statements:
            yield statements

    async def read(
        self, tenant_id: str, user_id: str, work: Callable[[Statements], Awaitable[T]]
    ) -> tuple[MemoryVersion, T]:
        """What `work` finds here, and a version that what it found is not older than: it is read before."""
        async with self.transact(tenant_id) as statements:
            return await memory_version(statements, tenant_id, user_id), await work(statements)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._database.aclose()
