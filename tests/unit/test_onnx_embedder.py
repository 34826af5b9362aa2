"""The queue in front of the model, with a stand-in for ONNX Runtime that waits until it is told to go on."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from app.clients.embeddings import minilm
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import InvalidInput, ModelUnavailable, Overloaded


class GatedSession:
    """Answers each run when the gate is open; a vector repeats the number of pieces of its text."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.error: BaseException | None = None
        self.runs: list[list[int]] = []

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        self.runs.append(inputs["lengths"].tolist())
        self.started.set()
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return [np.repeat(inputs["lengths"][:, None], 384, axis=1).astype(np.float32)]

    async def wait_until_running(self) -> None:
        await asyncio.to_thread(self.started.wait, 10)


@pytest.fixture
def session() -> GatedSession:
    return GatedSession()


@pytest.fixture
async def embedder(session: GatedSession) -> AsyncIterator[OnnxEmbedder]:
    made = OnnxEmbedder(session, minilm.load_tokenizer(), max_queued_texts=4, max_queued_tokens=512)  # type: ignore[arg-type]
    yield made
    session.gate.set()
    await made.aclose()


async def hold(session: GatedSession, embedder: OnnxEmbedder, text: str = "held") -> "asyncio.Task[Any]":
    """A call that is in the model now and stays there."""
    session.gate.clear()
    held = asyncio.create_task(embedder.embed([text]))
    await session.wait_until_running()
    return held


async def test_a_full_queue_refuses_and_says_when_to_come_back(session: GatedSession, embedder: OnnxEmbedder) -> None:
    held = await hold(session, embedder)

    with pytest.raises(Overloaded) as by_texts:
        await embedder.embed(["a", "b", "c", "d"])
    with pytest.raises(Overloaded):
        await embedder.embed(["word " * 300, "word " * 300])
    assert by_texts.value.retry_after_s >= 1

    session.gate.set()
    await held
    assert (await embedder.embed(["a", "b", "c", "d"])).shape == (4, 384)


async def test_more_than_the_queue_ever_holds_is_refused_for_good(embedder: OnnxEmbedder) -> None:
    with pytest.raises(InvalidInput):
        await embedder.embed(["a"] * 5)


async def test_cancelled_texts_leave_the_queue_unread(session: GatedSession, embedder: OnnxEmbedder) -> None:
    held = await hold(session, embedder)
    cancelled = asyncio.create_task(embedder.embed(["one two", "one two"]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])

    session.gate.set()
    await held
    await embedder.embed(["a", "b", "c", "d"])

    assert session.runs == [[3], [3, 3, 3, 3]]


async def test_a_failed_run_fails_its_callers_only(session: GatedSession, embedder: OnnxEmbedder) -> None:
    session.error = RuntimeError("out of memory")
    with pytest.raises(ModelUnavailable, match="failed"):
        await embedder.embed(["a"])

    session.error = None
    assert (await embedder.embed(["a"])).shape == (1, 384)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_unforeseen_error_leaves_nobody_waiting(session: GatedSession, embedder: OnnxEmbedder) -> None:
    held = await hold(session, embedder)
    queued = asyncio.create_task(embedder.embed(["b"]))
    await asyncio.sleep(0)
    session.error = ZeroDivisionError()
    session.gate.set()

    for call in (held, queued, asyncio.create_task(embedder.embed(["c"]))):
        with pytest.raises(ModelUnavailable):
            await call


async def test_closing_ends_the_run_and_refuses_the_rest(session: GatedSession, embedder: OnnxEmbedder) -> None:
    held = await hold(session, embedder)
    queued = asyncio.create_task(embedder.embed(["a much longer text that shares no run"]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(embedder.aclose())
    await asyncio.sleep(0.01)
    session.gate.set()

    assert (await held).shape == (1, 384)
    await closing
    with pytest.raises(ModelUnavailable):
        await queued
    with pytest.raises(ModelUnavailable):
        await embedder.embed(["late"])
    await embedder.aclose()


@pytest.mark.parametrize(
    "text",
    [
        "word " * 5000,
        "averylongwordindeed" * 2000 + " tail" * 300,
        "a" * 9000 + " b c d",
        "東京タワー" * 3000,
        "\u0301\u0301 " * 4000 + "end",
        "[SEP] x" * 2000,
    ],
)
def test_the_head_of_a_long_text_gives_the_pieces_of_the_whole(embedder: OnnxEmbedder, text: str) -> None:
    whole = minilm.load_tokenizer().encode(text).ids

    assert embedder._pieces(text).tolist() == whole
    assert embedder.count_tokens([text]) == len(whole) <= 256
