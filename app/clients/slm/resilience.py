"""What stands between a model call and a request: deadline, concurrency limit, retry, hedging, circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from circuitbreaker import CircuitBreaker
from prometheus_client import Counter, Gauge
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random,
)

from app import request
from app.domain.errors import ModelUnavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

FAILURES = 5
"""Consecutive failures that open the breaker."""

ATTEMPTS = 2
"""Tries per call. A generation has no side effect, so trying again is safe; it is worth it only where the
failure came at once."""

RETRIED = frozenset({"unreachable", "reset", "failed", "busy"})

UNCOUNTED = frozenset({"breaker_open", "overloaded", "refused", "unknown_adapter"})
"""Failures that say nothing about the server's health: a request may be refused for what is in it, such as more text
than the model takes; a server that was restarted answers well and has no adapter yet."""

FAIR_SHARE = 0.5
"""A call that had less than this share of the service's own budget says more about its caller than about the server
when it is late: the breaker does not count it, or one caller in a hurry could close the model to all."""

STATES = {"closed": 0, "half_open": 1, "open": 2}

BREAKER = Gauge("embed_service_slm_breaker_state", "0 closed, 1 half open, 2 open.", ["slm"])
UNAVAILABLE = Counter("embed_service_slm_unavailable_total", "Calls that a model did not answer.", ["call", "cause"])
RETRIES = Counter("embed_service_slm_retries_total", "Second tries.", ["call"])
HEDGES = Counter("embed_service_slm_hedges_total", "Second calls sent because the first was slow.", ["call"])


@dataclass(frozen=True)
class Limits:
    """`budget_s` holds where no request set a deadline; `hedge_s` 0 never sends a second call."""

    budget_s: float = 10.0
    concurrency: int = 32
    hedge_s: float = 0.0
    reset_s: float = 10.0


class Guard:
    """Runs model calls so that none is late, none hammers a server that is down, and each failure has a cause."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._breaker = CircuitBreaker(FAILURES, limits.reset_s, ModelUnavailable, name)
        self._is_probed = False
        # Read when scraped: a breaker becomes half open by time alone.
        BREAKER.labels(name).set_function(lambda: STATES[self.state])

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        return self._breaker.state

    async def run(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives. Raises ModelUnavailable with a cause; cancelling this cancels the work.

        The deadline covers waiting for a slot, every try and every pause between tries. A cancelled call says
        nothing about the server, so the breaker does not count it.
        """
        seconds = request.remaining_s(self._limits.budget_s)
        try:
            with self._admitted():
                result = await self._in_time(call, work, seconds)
        except ModelUnavailable as error:
            UNAVAILABLE.labels(call, error.cause).inc()
            is_hurried = error.cause == "timeout" and seconds < FAIR_SHARE * self._limits.budget_s
            if error.cause not in UNCOUNTED and not is_hurried:
                self._count_failure(error)
            raise
        if not self._breaker.closed:
            log.info("slm_breaker_changed", slm=self._name, state="closed")
        self._breaker.reset()
        return result

    @contextmanager
    def _admitted(self) -> Generator[None]:
        """Let calls through while the breaker is closed, none while it is open, one at a time while it is half
        open. Raises ModelUnavailable."""
        is_probe = self.state == "half_open"
        if self.state == "open" or (is_probe and self._is_probed):
            raise ModelUnavailable("the breaker is open after repeated failures", "breaker_open")
        self._is_probed = self._is_probed or is_probe
        try:
            yield
        finally:
            if is_probe:
                self._is_probed = False

    def _count_failure(self, error: ModelUnavailable) -> None:
        was_open = self._breaker.opened
        self._breaker.__exit__(ModelUnavailable, error, None)
        if self._breaker.opened and not was_open:
            log.warning("slm_breaker_changed", slm=self._name, state="open", cause=error.cause)

    async def _in_time(self, call: str, work: Callable[[], Awaitable[T]], seconds: float) -> T:
        ends_at = time.monotonic() + seconds
        has_slot = False
        try:
            async with asyncio.timeout(seconds):
                async with self._slots:
                    has_slot = True
                    return await self._tried(call, work, ends_at - time.monotonic())
        except TimeoutError:
            if not has_slot and seconds > 0:
                raise ModelUnavailable(f"no free slot within {seconds:.1f} s", "overloaded") from None
            raise ModelUnavailable(f"no answer within {seconds:.1f} s", "timeout") from None

    async def _tried(self, call: str, work: Callable[[], Awaitable[T]], seconds: float) -> T:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(seconds),
            wait=_pause,
            retry=retry_if_exception(lambda error: isinstance(error, ModelUnavailable) and error.cause in RETRIED),
            before_sleep=lambda _: RETRIES.labels(call).inc(),
            reraise=True,
        )
        return await retrying(self._hedged, call, work)

    async def _hedged(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        if not self._limits.hedge_s:
            return await work()
        first = asyncio.ensure_future(work())
        running = {first}
        try:
            done, running = await asyncio.wait(running, timeout=self._limits.hedge_s)
            if not done:
                HEDGES.labels(call).inc()
                running = running | {asyncio.ensure_future(work())}
            while not any(task.exception() is None for task in done) and running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            best = next((task for task in done if task.exception() is None), None) or done.pop()
            return best.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def reject(call: str, message: str, cause: str) -> ModelUnavailable:
    """The failure of an answer that came in time and in shape and is of no use, counted as the others are. It says
    more about the model than about its server: the breaker does not see it."""
    UNAVAILABLE.labels(call, cause).inc()
    return ModelUnavailable(message, cause)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asks for, else a short while, not the same for all."""
    error: Any = state.outcome.exception() if state.outcome else None
    asked: float | None = getattr(error, "retry_after_s", None)
    return asked if asked is not None else wait_random(0.05, 0.1)(state)
