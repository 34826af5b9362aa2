"""Work that may outlast the answer it belongs to."""

import asyncio
from collections.abc import Coroutine

import structlog

from app import request
from app.domain.errors import DomainError

log = structlog.get_logger(__name__)

DRAIN_S = 30.0


class Afterwards:
    """Gives work a share of the caller's time and lets it go on by itself when that is over."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def give(self, work: Coroutine[None, None, None], seconds: float) -> None:
        """Run `work`; return when it is done, at the latest after `seconds`. Cancelling this leaves it running; an
        expected failure of it is logged and not raised."""
        task = self.begin(work)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        for each in done:
            each.result()

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work` by itself; a failure of it is logged."""
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is logged; asyncio would log it again, with what it says about a user

    async def aclose(self) -> None:
        """Wait for what still runs, DRAIN_S at most."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()


async def _logged(work: Coroutine[None, None, None]) -> None:
    request.lift_deadline()
    try:
        await work
    except DomainError as error:
        log.warning("learning_failed", error=type(error).__name__)
    except Exception as error:
        log.error("learning_failed", error=type(error).__name__)
        raise
