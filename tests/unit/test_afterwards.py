"""Work that may outlast the answer it belongs to: it is waited for a little, and done in any case."""

import asyncio
import gc
import logging
import math
import time
from collections.abc import Coroutine

import pytest
from structlog.testing import capture_logs

from app import request
from app.domain.errors import StoreUnavailable
from app.services import afterwards as module
from app.services.afterwards import Afterwards


class Job:
    """Work of some seconds that may end in an error; whether it was done, and what it knew of the request."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.is_done = False
        self.time_s = 0.0
        self.tenant: str | None = None

    def run(self) -> Coroutine[None, None, None]:
        async def work() -> None:
            self.time_s, self.tenant = request.remaining_s(math.inf), request.tenant()
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            self.is_done = True

        return work()


async def test_quick_work_is_done_before_the_answer() -> None:
    job = Job(0.01)

    await Afterwards().give(job.run(), 5.0)

    assert job.is_done


async def test_slow_work_is_not_waited_for_and_goes_on() -> None:
    afterwards, job = Afterwards(), Job(0.2)
    started = time.monotonic()

    await afterwards.give(job.run(), 0.02)

    assert time.monotonic() - started < 0.15
    assert not job.is_done
    await afterwards.aclose()
    assert job.is_done


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_without_any_time_it_still_begins(seconds: float) -> None:
    afterwards, job = Afterwards(), Job()

    await afterwards.give(job.run(), seconds)
    await afterwards.aclose()

    assert job.is_done


async def test_a_caller_that_is_gone_does_not_take_the_work_along() -> None:
    afterwards, job = Afterwards(), Job(0.1)
    giving = asyncio.create_task(afterwards.give(job.run(), 5.0))
    await asyncio.sleep(0.02)

    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    await afterwards.aclose()

    assert job.is_done


async def test_the_requests_deadline_does_not_bind_it_and_its_tenant_does() -> None:
    """Else work that outlasts the request would find that its model has no time at all."""

    async def serve() -> None:
        request.set_tenant("a")
        with request.budget(0.01):
            await afterwards.give(job.run(), 0.0)
            assert request.remaining_s(math.inf) < 1.0  # lifted for the work alone

    afterwards, job = Afterwards(), Job()

    await asyncio.create_task(serve())
    await afterwards.aclose()

    assert (job.time_s, job.tenant) == (math.inf, "a")


@pytest.mark.parametrize("seconds", [0.0, 5.0])
async def test_an_expected_failure_is_logged_and_not_raised(seconds: float) -> None:
    afterwards = Afterwards()

    with capture_logs() as events:
        await afterwards.give(Job(0.01, StoreUnavailable("gone")).run(), seconds)
        await afterwards.aclose()

    assert [(event["event"], event["error"], event["log_level"]) for event in events] == [
        ("learning_failed", "StoreUnavailable", "warning")
    ]


async def test_an_unexpected_failure_reaches_a_caller_who_waits() -> None:
    with capture_logs() as events, pytest.raises(KeyError):
        await Afterwards().give(Job(0.0, KeyError("x")).run(), 5.0)

    assert [(event["event"], event["log_level"]) for event in events] == [("learning_failed", "error")]


async def test_an_unexpected_failure_later_is_logged_once_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """What an error says may quote a user; asyncio would print that when nobody asks the task how it went."""
    afterwards = Afterwards()

    with capture_logs() as events, caplog.at_level(logging.DEBUG):
        await afterwards.give(Job(0.02, KeyError("zanzibar")).run(), 0.0)
        await afterwards.aclose()
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)

    assert [event["event"] for event in events] == ["learning_failed"]
    assert "zanzibar" not in str(events) + caplog.text


async def test_closing_waits_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_S", 0.05)
    afterwards, job = Afterwards(), Job(30.0)
    await afterwards.give(job.run(), 0.0)
    started = time.monotonic()

    await afterwards.aclose()
    await afterwards.aclose()

    assert time.monotonic() - started < 2.0
    assert not job.is_done


async def test_work_that_cannot_be_ended_at_once_is_given_up() -> None:
    """The time is kept though its own end takes long; and an end in time gives its result or its error."""
    is_ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.shield(asyncio.sleep(0.3))
            is_ended.set()

    async def quick() -> int:
        return 7

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await request.at_most(0.05, stubborn())
    assert time.monotonic() - started < 0.25
    await asyncio.wait_for(is_ended.wait(), 5)
    assert await request.at_most(1.0, quick()) == 7
    with pytest.raises(StoreUnavailable):
        await request.at_most(1.0, Job(error=StoreUnavailable("gone")).run())
