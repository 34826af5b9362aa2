"""The queue before the model: nobody waits for a batch, nobody waits for ever, a full queue says so."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from serving.engine import Engine
from serving.errors import InvalidInput, ModelUnavailable, Overloaded
from tests.serving.fakes import MAX_TOKENS, POISON, FakeBackend

QUEUE_TOKENS = 40


@pytest.fixture
async def engine(backend: FakeBackend) -> AsyncIterator[Engine]:
    made = Engine(backend, concurrency=8, queue_tokens=QUEUE_TOKENS)
    yield made
    backend.gate.set()
    await made.aclose()


async def until_running(engine: Engine, tokens: int) -> None:
    """Wait until so many tokens are accepted."""
    async with asyncio.timeout(10):
        while engine.queued_tokens < tokens:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.001)


async def test_what_waits_while_a_run_goes_on_shares_the_next(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    first = asyncio.create_task(engine.read(["alone"]))
    await until_running(engine, 1)
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(engine.read([f"text {number}"])) for number in range(5)]
    await until_running(engine, 11)
    backend.gate.set()

    await asyncio.gather(first, *others)

    assert backend.runs == [[1], [2] * 5]


async def test_a_full_queue_refuses_and_says_when_to_come_back(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    waiting = asyncio.create_task(engine.read(["word " * 30]))
    await until_running(engine, 30)

    with pytest.raises(Overloaded) as caught:
        await engine.read(["word " * 20])

    assert caught.value.retry_after_s >= 1
    backend.gate.set()
    assert (await waiting).tokens == 30
    assert (await engine.read(["word " * 20])).tokens == 20


async def test_what_never_fits_is_no_matter_of_waiting(engine: Engine) -> None:
    for texts in (["word " * 30] * 2, ["word " * 21, "word " * 20], ["word"] * 41):
        with pytest.raises(InvalidInput, match="split them"):
            await engine.read(texts)


async def test_cancelled_calls_leave_the_queue(engine: Engine, backend: FakeBackend) -> None:
    backend.gate.clear()
    running = asyncio.create_task(engine.read(["first"]))
    await until_running(engine, 1)
    await asyncio.sleep(0.05)
    gone = asyncio.create_task(engine.read(["never read by anybody"]))
    await until_running(engine, 5)
    gone.cancel()
    await asyncio.wait([gone])
    backend.gate.set()

    await running
    await engine.read(["last one"])

    assert backend.runs == [[1], [2]]
    assert engine.queued_tokens == 0


async def test_a_failed_run_fails_its_callers_and_nobody_else(engine: Engine) -> None:
    with pytest.raises(ModelUnavailable, match="failed on these texts"):
        await engine.read([POISON])

    assert (await engine.read(["fine"])).vectors.shape == (1, 16)
    assert engine.queued_tokens == 0


async def test_a_long_text_is_cut_and_counted_or_refused(engine: Engine) -> None:
    engine._max_tokens = 1000
    texts = ["short", "word " * (MAX_TOKENS + 1)]

    reading = await engine.read(texts)

    assert (reading.truncated, reading.tokens) == (1, 1 + MAX_TOKENS)
    with pytest.raises(InvalidInput, match="number 1, is longer than the 64 tokens"):
        await engine.read(texts, truncate=False)


async def test_many_texts_keep_their_places(engine: Engine) -> None:
    engine._max_tokens = 10_000
    texts = [f"text of {'many ' * (number % 7)} words {number}" for number in range(200)]

    together = (await engine.read(texts)).vectors

    alone = np.concatenate([(await engine.read([text])).vectors for text in texts])
    np.testing.assert_array_equal(together, alone)


async def test_after_the_end_everything_is_refused(backend: FakeBackend) -> None:
    engine = Engine(backend, concurrency=8, queue_tokens=1000)
    backend.gate.clear()
    running = asyncio.create_task(engine.read(["first"]))
    await until_running(engine, 1)
    await asyncio.sleep(0.05)
    behind = asyncio.create_task(engine.read(["second one"]))
    await until_running(engine, 3)
    closing = asyncio.create_task(engine.aclose())
    await asyncio.sleep(0.01)
    backend.gate.set()
    await closing

    assert (await running).tokens == 1
    with pytest.raises(ModelUnavailable):
        await behind
    with pytest.raises(ModelUnavailable):
        await engine.read(["third"])
    assert backend.is_closed
