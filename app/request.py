"""The request being served, for those who call out on its behalf: how long they may take, and for which tenant."""

import asyncio
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

RESERVE_S = 0.05
"""Kept back from a call's time, for the answer that is given without it."""

T = TypeVar("T")

_given_up: set[asyncio.Task[Any]] = set()

_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)
_tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


@contextmanager
def budget(seconds: float) -> Generator[None]:
    """Give all that runs inside `seconds` from now; an earlier deadline outside stays in force."""
    ends_at = time.monotonic() + seconds
    outer = _ends_at.get()
    token = _ends_at.set(ends_at if outer is None else min(outer, ends_at))
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining_s(otherwise: float) -> float:
    """Seconds a call may take now, never negative: what is left of the budget but for RESERVE_S, or
    `otherwise` where no budget was set."""
    ends_at = _ends_at.get()
    return otherwise if ends_at is None else max(0.0, ends_at - time.monotonic() - RESERVE_S)


async def at_most(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises TimeoutError after so many seconds, and then does not wait for its end as
    `asyncio.timeout` would: a connection to a server that hangs cannot be closed at once."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        raise TimeoutError(f"no end within {seconds:g} s")
    finally:
        if not task.done():
            _given_up.add(task)
            task.add_done_callback(_forget)
            task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it any more


def lift_deadline() -> None:
    """Say that the rest of this task outlasts the request: its calls have the service's own time again."""
    _ends_at.set(None)


def set_tenant(tenant_id: str) -> None:
    """Say for which tenant the rest of this request works."""
    _tenant.set(tenant_id)


def tenant() -> str | None:
    """The tenant of this request; None outside of one."""
    return _tenant.get()
