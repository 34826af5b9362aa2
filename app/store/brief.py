"""Work that others wait for, in transactions that wait for nobody long.

Who waits for a lock has everybody who comes later wait behind: a change of a table that all write to, or of what a
tenant's spaces are for, gives up after WAIT, lets them pass, and tries again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import NotReady
from app.store.engine import Database

WAIT = text("SET LOCAL lock_timeout = '100ms'")
"""Shorter than the second after which two that wait for each other are told so: neither is a victim."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0

PATIENCE_S = 120.0
"""How long a moment is looked for in which nobody holds the lock: vacuum may, for a while."""

_BUSY = {"55P03", "40P01"}
"""SQLSTATEs of a lock that was waited for too long, and of two that wait for each other."""

T = TypeVar("T")


async def briefly(database: Database, tenant_id: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Do `work` in a transaction of the tenant that waits for no lock longer than WAIT, again and again for PATIENCE_S;
    what was tried is undone. Raises NotReady."""
    pauses = _Pauses()
    while True:
        try:
            async with database.begin(tenant_id) as connection:
                await connection.execute(WAIT)
                return await work(connection)
        except DBAPIError as error:
            pause_s = pauses.next(error)
        await asyncio.sleep(pause_s)


def briefly_on(connection: Connection, work: Callable[[], T]) -> T:
    """As `briefly`, on a connection of a migration, whose transaction goes on."""
    pauses = _Pauses()
    while True:
        try:
            with connection.begin_nested():
                connection.execute(WAIT)
                return work()
        except DBAPIError as error:
            pause_s = pauses.next(error)
        time.sleep(pause_s)


class _Pauses:
    """Each twice as long as the one before, until patience ends."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._ends_at = time.monotonic() + PATIENCE_S

    def next(self, error: DBAPIError) -> float:
        """How long to wait after an error. Raises it where it is of another kind, NotReady at the end."""
        if getattr(error.orig, "sqlstate", None) not in _BUSY:
            raise error
        if time.monotonic() > self._ends_at:
            raise NotReady(
                f"The tables of memories were held for {PATIENCE_S:.0f} s without a pause, by vacuum perhaps: "
                "the same command goes on."
            ) from error
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s
