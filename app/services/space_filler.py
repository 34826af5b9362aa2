"""Filling an embedding space: what a tenant has is noted, embedded and written, by any number of processes at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from app.domain.errors import ModelUnavailable, Overloaded, StaleSpace, StoreUnavailable
from app.domain.spaces import StoredSpace
from app.services.spaces import Spaces
from app.store.engine import Database
from app.store.space_fills import FIRST, FRONT, FillStore, NoteBusy
from app.store.spaces import SpaceStore

BATCH = 128
"""Items that are claimed, embedded and written at a time."""

IN_FLIGHT = 3
"""Batches at a time: one is embedded, one waits for the model, one is written or claimed."""

OTHERS_S = 0.2
"""How long to wait where all that is left is somebody else's."""

PATIENCE_S = 30.0
"""How long the database may be away before a filling gives up."""

OnFilled = Callable[[int, int], None]
"""Hears how many of how many items have a vector."""

GENTLE = 32
"""Items of a batch where queries mind: each is over soon."""

Pause = Callable[[], Awaitable[float]]
"""Called before each batch; returns when more work does queries no harm, and how many seconds it waited for that."""


class _Line:
    """What is noted, handed out batch by batch to those that embed side by side."""

    def __init__(
        self,
        tenant_id: str,
        space: StoredSpace,
        items: int = 0,
        on_filled: OnFilled | None = None,
        pause: Pause | None = None,
        enough: int = 0,
    ) -> None:
        self.tenant_id = tenant_id
        self.space = space
        self.items = items
        self.enough = enough
        self.left = 0
        self.turn = asyncio.Lock()
        self.after = FRONT
        self.is_over = False
        self.width = IN_FLIGHT
        self.failures = 0
        self.went_on_at = time.monotonic()
        self._on_filled = on_filled
        self._pause = pause

    async def wait(self) -> int:
        """How many items the next batch has."""
        return BATCH if self._pause is None or not await self._pause() else GENTLE

    def tell(self, left: int) -> None:
        self.left = left
        if self._on_filled is not None:
            self._on_filled(max(0, self.items - left), self.items)


class SpaceFiller:
    """What is done for a space that lacks something."""

    def __init__(self, database: Database, spaces: Spaces, store: SpaceStore, fills: FillStore) -> None:
        self._database = database
        self._spaces = spaces
        self._store = store
        self._fills = fills

    async def note(self, tenant_id: str, space: StoredSpace, pause: Pause | None = None) -> int:
        """Note everything that has no vector in the space, part by part; how much was new. Writers wait for none of
        it. What is written since the space was created is noted by the database itself. Where somebody is not to be
        slowed down (`pause`), it rests between two parts at least as long as one took."""
        noted = 0
        for kind in ("input", "memory"):
            after = FIRST
            while after is not None:
                began = time.monotonic()
                try:
                    async with self._database.begin(tenant_id) as connection:
                        part = await self._fills.note(connection, tenant_id, space, kind, after)
                except NoteBusy:
                    await asyncio.sleep(OTHERS_S)
                    continue
                noted, after = noted + part.items, part.after
                if pause is not None:
                    await asyncio.sleep(time.monotonic() - began)
                    await pause()
        return noted

    async def fill(
        self,
        tenant_id: str,
        space: StoredSpace,
        on_filled: OnFilled | None = None,
        pause: Pause | None = None,
        seconds: float | None = None,
        enough: int = 0,
    ) -> bool:
        """Embed what is noted, for at most some `seconds`; whether no more than `enough` is left, which may be what is
        being written at this moment. Any number of processes may do so at once, and each may end at any moment. A model
        that is late is asked for fewer batches at a time.

        Raises ModelUnavailable, StaleSpace where the space was dropped, and StoreUnavailable where the database is
        away for PATIENCE_S.
        """
        async with self._database.begin(tenant_id) as connection:
            items = sum(await self._fills.counts(connection, tenant_id))
            left = await self._store.lacking(connection, tenant_id, space.number)
        line = _Line(tenant_id, space, items, on_filled, pause, enough)
        line.tell(left)
        ends_at = None if seconds is None else time.monotonic() + seconds
        work = [asyncio.create_task(self._work(line, ends_at)) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*work)
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        return line.is_over

    async def fill_some(self, tenant_id: str, space: StoredSpace) -> int:
        """Embed up to BATCH items that a space lacks and nobody else works on; how many were claimed. Raises
        ModelUnavailable and Overloaded: then nothing was written."""
        return (await self._fill_batch(_Line(tenant_id, space)))[0]

    async def _work(self, line: _Line, ends_at: float | None) -> None:
        while not line.is_over and (ends_at is None or time.monotonic() < ends_at):
            try:
                claimed, wanted = await self._fill_batch(line)
                line.tell(max(0, line.left - claimed))
                if claimed < wanted:
                    await self._look_again(line)
                    if not claimed and not line.is_over:  # all that is left is somebody else's
                        await asyncio.sleep(OTHERS_S)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s)
            except ModelUnavailable as error:
                line.failures += 1
                if error.cause == "other_space" or line.failures > IN_FLIGHT:
                    raise
                if line.width > 1:  # it may be late because of what the others ask
                    line.width -= 1
                    return
                await asyncio.sleep(OTHERS_S)
            except StaleSpace:
                raise
            except StoreUnavailable:
                if time.monotonic() - line.went_on_at > PATIENCE_S:
                    raise
                await asyncio.sleep(OTHERS_S)
            else:
                line.went_on_at = time.monotonic()
                line.failures = 0

    async def _look_again(self, line: _Line) -> None:
        """It came to the end of what is noted: how much is, with what others work on and what came since."""
        async with self._database.begin(line.tenant_id) as connection:
            left = await self._store.lacking(connection, line.tenant_id, line.space.number)
        line.tell(left)
        line.is_over = left <= line.enough

    async def _fill_batch(self, line: _Line) -> tuple[int, int]:
        """A transaction from claim to write: while it lasts, nobody else embeds the same. How many items were claimed,
        and how many were wanted."""
        tenant_id, space = line.tenant_id, line.space
        async with AsyncExitStack() as stack:
            async with line.turn:
                wanted = await line.wait()
                connection = await stack.enter_async_context(self._database.begin(tenant_id))
                claimed = await self._fills.claim(connection, tenant_id, space.number, wanted, line.after)
                if not claimed and line.after != FRONT:  # what was not to be had before, or came since
                    claimed = await self._fills.claim(connection, tenant_id, space.number, wanted)
                line.after = claimed[-1] if claimed else FRONT
            if not claimed:
                return 0, wanted
            contents = await self._fills.contents(connection, tenant_id, claimed)
            there = [each for each in claimed if each.item_id in contents]
            gone = [each for each in claimed if each.item_id not in contents]
            await self._fills.forget(connection, tenant_id, space.number, gone)
            if there:
                texts = [contents[each.item_id] for each in there]
                embedded = await self._spaces.embed_in(space, texts, connection)
                await self._fills.write(connection, tenant_id, space, there, texts, embedded.vectors)
        return len(claimed), wanted
