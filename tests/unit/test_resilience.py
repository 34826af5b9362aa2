"""What stands between a model call and a request: no call is late, none hammers a server that is down."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app import request
from app.clients.slm.endpoint import ServerRefused
from app.clients.slm.resilience import FAILURES, RETRIED, Guard, Limits
from app.domain.errors import ModelUnavailable


class Work:
    """A call that goes as its outcomes say, the last one for ever: a value, an exception, or seconds to wait before
    the next outcome."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = outcomes
        self.started = 0
        self.cancelled = 0
        self.running = 0
        self.most_running = 0

    async def __call__(self) -> object:
        outcome = self.outcomes[min(self.started, len(self.outcomes) - 1)]
        self.started += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if isinstance(outcome, float):
                await asyncio.sleep(outcome)
            if isinstance(outcome, Exception):
                raise outcome
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return outcome


def down(cause: str = "unreachable") -> ModelUnavailable:
    return ModelUnavailable("down", cause)


def guard_of(name: str = "guard", **limits: float) -> Guard:
    return Guard(name, Limits(**limits))  # type: ignore[arg-type]


async def cause_of(call: Awaitable[object]) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        await call
    return caught.value.cause


async def fail(guard: Guard, times: int, cause: str = "wrong_shape") -> None:
    for _ in range(times):
        assert await cause_of(guard.run("test", Work(down(cause)))) == cause


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("cause", sorted(RETRIED))
async def test_what_may_pass_is_tried_twice(cause: str) -> None:
    before = figure("embed_service_slm_retries_total", call="retried")
    work = Work(down(cause), "fine")

    assert await guard_of().run("retried", work) == "fine"

    assert work.started == 2
    assert figure("embed_service_slm_retries_total", call="retried") == before + 1


@pytest.mark.parametrize("cause", ["wrong_shape", "broken_answer", "refused", "unknown_model", "too_large"])
async def test_what_would_come_out_the_same_is_not_tried_again(cause: str) -> None:
    work = Work(down(cause))

    assert await cause_of(guard_of().run("test", work)) == cause

    assert work.started == 1


async def test_there_is_no_third_try() -> None:
    work = Work(down())

    await cause_of(guard_of().run("test", work))

    assert work.started == 2


async def test_a_server_is_asked_again_when_it_says() -> None:
    work = Work(ServerRefused("busy", "busy", 0.15), "fine")
    started = time.monotonic()

    assert await guard_of().run("test", work) == "fine"

    assert time.monotonic() - started >= 0.15


async def test_a_server_that_wants_more_time_than_there_is_is_not_waited_for() -> None:
    work = Work(ServerRefused("busy", "busy", 60.0))
    started = time.monotonic()

    assert await cause_of(guard_of(budget_s=1.0).run("test", work)) == "busy"

    assert time.monotonic() - started < 0.5
    assert work.started == 1


async def test_the_deadline_covers_every_try() -> None:
    class Slow(Work):
        async def __call__(self) -> object:
            await asyncio.sleep(0.15)
            return await super().__call__()

    work = Slow(down())
    started = time.monotonic()

    assert await cause_of(guard_of(budget_s=0.2).run("test", work)) in {"timeout", "unreachable"}

    assert time.monotonic() - started < 0.4


async def test_the_requests_time_goes_before_the_limits() -> None:
    started = time.monotonic()
    with request.budget(0.2):
        assert await cause_of(guard_of(budget_s=60.0).run("test", Work(30.0))) == "timeout"

    assert time.monotonic() - started < 1.0


async def test_a_late_call_is_cancelled() -> None:
    work = Work(30.0)

    await cause_of(guard_of(budget_s=0.05).run("test", work))

    assert (work.started, work.cancelled) == (1, 1)


async def test_failures_are_counted_by_call_and_cause() -> None:
    before = figure("embed_service_slm_unavailable_total", call="counted", cause="too_large")

    await cause_of(guard_of().run("counted", Work(down("too_large"))))

    assert figure("embed_service_slm_unavailable_total", call="counted", cause="too_large") == before + 1


async def test_five_failures_in_a_row_open_the_breaker() -> None:
    guard = guard_of("five")
    await fail(guard, FAILURES - 1)
    await guard.run("test", Work("fine"))  # a success between them starts the count anew
    await fail(guard, FAILURES - 1)
    assert (guard.state, figure("embed_service_slm_breaker_state", slm="five")) == ("closed", 0)

    with capture_logs() as events:
        await fail(guard, 1)

    assert (guard.state, figure("embed_service_slm_breaker_state", slm="five")) == ("open", 2)
    assert [(event["event"], event["state"], event["cause"]) for event in events] == [
        ("slm_breaker_changed", "open", "wrong_shape")
    ]


async def test_an_open_breaker_asks_nobody() -> None:
    guard, work = guard_of(), Work("fine")
    await fail(guard, FAILURES)

    assert await cause_of(guard.run("test", work)) == "breaker_open"

    assert work.started == 0


async def test_a_half_open_breaker_closes_with_a_success() -> None:
    guard = guard_of("healed", reset_s=0.05)
    await fail(guard, FAILURES)
    await asyncio.sleep(0.1)
    assert (guard.state, figure("embed_service_slm_breaker_state", slm="healed")) == ("half_open", 1)

    with capture_logs() as events:
        assert await guard.run("test", Work("fine")) == "fine"

    assert guard.state == "closed"
    assert [(event["event"], event["state"]) for event in events] == [("slm_breaker_changed", "closed")]


async def test_a_half_open_breaker_opens_with_a_failure() -> None:
    guard = guard_of(reset_s=0.05)
    await fail(guard, FAILURES)
    await asyncio.sleep(0.1)

    await fail(guard, 1)

    assert guard.state == "open"


async def test_a_half_open_breaker_lets_one_call_through_at_a_time() -> None:
    """A server that hangs then costs one request its time, not all of them; a probe that is given up makes room."""
    guard = guard_of(reset_s=0.05)
    await fail(guard, FAILURES)
    await asyncio.sleep(0.1)
    probe = asyncio.create_task(guard.run("test", Work(30.0)))
    await asyncio.sleep(0.01)

    assert await cause_of(guard.run("test", Work("fine"))) == "breaker_open"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    assert guard.state == "half_open"
    assert await guard.run("test", Work("fine")) == "fine"


async def test_a_cancelled_call_says_nothing_about_the_server() -> None:
    guard = guard_of()
    await fail(guard, FAILURES - 1)
    for _ in range(2 * FAILURES):
        work = Work(30.0)
        call = asyncio.create_task(guard.run("test", work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert work.started == work.cancelled

    assert guard.state == "closed"


@pytest.mark.parametrize("seconds", [0.0, 0.06, 0.1])
async def test_a_caller_in_a_hurry_does_not_open_the_breaker(seconds: float) -> None:
    guard = guard_of(budget_s=0.3)

    for _ in range(2 * FAILURES):
        with request.budget(seconds):
            assert await cause_of(guard.run("test", Work(30.0))) == "timeout"

    assert guard.state == "closed"


async def test_a_late_server_opens_the_breaker() -> None:
    guard = guard_of(budget_s=0.02)

    await asyncio.gather(*(cause_of(guard.run("test", Work(30.0))) for _ in range(FAILURES)))

    assert guard.state == "open"


@pytest.mark.parametrize("cause", ["refused", "unknown_adapter"])
async def test_a_refused_request_does_not_open_the_breaker(cause: str) -> None:
    guard = guard_of()

    await fail(guard, 2 * FAILURES, cause)

    assert guard.state == "closed"


async def test_no_more_calls_at_once_than_allowed() -> None:
    guard, work = guard_of(concurrency=3), Work(0.01)

    await asyncio.gather(*(guard.run("test", work) for _ in range(20)))

    assert (work.started, work.most_running) == (20, 3)


async def test_waiting_for_a_slot_takes_of_the_same_time() -> None:
    """Who gets none is `overloaded`, which is our doing and not the server's."""
    guard = guard_of(concurrency=1, budget_s=60.0)
    holder = asyncio.create_task(guard.run("test", Work(30.0)))
    await asyncio.sleep(0.01)
    work = Work("fine")

    with request.budget(0.1):
        causes = await asyncio.gather(*(cause_of(guard.run("test", work)) for _ in range(2 * FAILURES)))

    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert set(causes) == {"overloaded"}
    assert (work.started, guard.state) == (0, "closed")
    assert await guard.run("test", work) == "fine"


def hedged(delays: Sequence[float], results: Sequence[object]) -> tuple[Callable[[], Awaitable[object]], list[int]]:
    """A call whose n-th run takes the n-th delay and gives (or raises) the n-th result; and which were cancelled."""
    runs: list[int] = []
    cancelled: list[int] = []

    async def call() -> object:
        number = len(runs)
        runs.append(number)
        try:
            await asyncio.sleep(delays[number])
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        result = results[number]
        if isinstance(result, Exception):
            raise result
        return result

    return call, cancelled


@pytest.mark.parametrize(
    ("delays", "results", "answer", "cancelled"),
    [
        ([0.0], ["first"], "first", []),
        ([30.0, 0.0], ["first", "second"], "second", [0]),
        ([0.1, 30.0], ["first", "second"], "first", [1]),
        ([0.1, 0.2], [down("too_large"), "second"], "second", []),
        ([0.2, 0.0], ["first", down("too_large")], "first", []),
        ([0.1, 0.2], [down("too_large"), down("too_large")], None, []),
        ([0.0], [down("too_large")], None, []),
    ],
    ids=["quick", "second wins", "first wins", "first fails", "second fails", "both fail", "fails at once"],
)
async def test_a_slow_call_is_sent_again_and_the_first_answer_counts(
    delays: Sequence[float], results: Sequence[object], answer: object, cancelled: list[int]
) -> None:
    before = figure("embed_service_slm_hedges_total", call="hedged")
    call, given_up = hedged(delays, results)
    guard = guard_of(hedge_s=0.05, budget_s=10.0)

    if answer is None:
        assert await cause_of(guard.run("hedged", call)) == "too_large"
    else:
        assert await guard.run("hedged", call) == answer

    assert given_up == cancelled
    assert figure("embed_service_slm_hedges_total", call="hedged") - before == len(delays) - 1


async def test_a_cancelled_hedge_leaves_nothing_running() -> None:
    call, given_up = hedged([30.0, 30.0], ["first", "second"])
    running = asyncio.create_task(guard_of(hedge_s=0.02).run("test", call))
    await asyncio.sleep(0.1)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sorted(given_up) == [0, 1]


async def test_without_hedging_there_is_one_call() -> None:
    work = Work(0.1)

    await guard_of(hedge_s=0.0).run("test", work)

    assert work.started == 1


async def test_a_fault_of_our_own_is_no_failure_of_the_server() -> None:
    """What is no ModelUnavailable goes through, uncounted."""
    guard = guard_of()

    for _ in range(2 * FAILURES):
        with pytest.raises(KeyError):
            await guard.run("test", Work(KeyError("ours")))

    assert guard.state == "closed"
