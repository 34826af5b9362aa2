"""What the chat proxy tells of an upstream that is silent, or that is not what it says it is."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app.domain.errors import UpstreamUnavailable
from app.services import chat
from app.services.chat import ChatService

STREAM = ((b"content-type", b"text/event-stream"),)
JSON = ((b"content-type", b"application/json"),)
STALL_S = 0.2


@dataclass
class FakeAnswer:
    """An answer of bytes, and of seconds of silence; None breaks it off."""

    steps: Sequence[bytes | float | None]
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = STREAM
    is_closed: bool = False

    async def pieces(self) -> AsyncGenerator[bytes]:
        for step in self.steps:
            if isinstance(step, bytes):
                yield step
            elif step is None:
                raise UpstreamUnavailable("it broke off", "reset")
            else:
                await asyncio.sleep(step)

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class FakeUpstream:
    """A model's server that answers so, after a while."""

    answer: FakeAnswer = field(default_factory=lambda: FakeAnswer([]))
    after_s: float = 0.0

    async def ask(self, *_: Any) -> FakeAnswer:
        await asyncio.sleep(self.after_s)
        return self.answer

    async def aclose(self) -> None:
        """Nothing is open."""


def service(answer: FakeAnswer, after_s: float = 0.0) -> ChatService:
    """The proxy in front of it, without anything of ours."""
    none = cast(Any, None)
    return ChatService(FakeUpstream(answer, after_s), none, none, none, none, none)


async def read(answer: FakeAnswer, after_s: float = 0.0, pause_s: float = 0.0) -> list[bytes]:
    """What a caller gets who takes their time between pieces."""
    passed = await service(answer, after_s).models([])
    got: list[bytes] = []
    try:
        async for piece in passed.pieces():
            got.append(piece)
            await asyncio.sleep(pause_s)
    except UpstreamUnavailable:
        got.append(b"!")
    finally:
        await passed.aclose()
    return got


def outcomes(outcome: str) -> float:
    """How many chats ended so."""
    return REGISTRY.get_sample_value("embed_service_chats_total", {"outcome": outcome}) or 0.0


# --- silence


@pytest.fixture
def quick_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute is a fifth of a second."""
    monkeypatch.setattr(chat, "STALL_S", STALL_S)


@pytest.mark.usefixtures("quick_stalls")
@pytest.mark.parametrize(
    ("answer", "after_s"),
    [(FakeAnswer([b"data: 1\n\n"]), 4 * STALL_S), (FakeAnswer([b"data: 1\n\n", 4 * STALL_S, b"data: 2\n\n"]), 0.0)],
    ids=["before its answer", "in the middle of it"],
)
async def test_a_silent_upstream_is_told_of_once_and_waited_for(answer: FakeAnswer, after_s: float) -> None:
    """All of its answer arrives."""
    with capture_logs() as events:
        got = await read(answer, after_s)

    assert got == [step for step in answer.steps if isinstance(step, bytes)]
    assert events == [{"event": "upstream_stalled", "silent_s": STALL_S, "log_level": "warning"}]


@pytest.mark.usefixtures("quick_stalls")
@pytest.mark.parametrize("steps", [[], [b"data: 1\n\n", 8 * STALL_S]], ids=["before its answer", "in the middle of it"])
async def test_a_caller_who_leaves_is_not_told_of_as_silence(steps: list[bytes | float]) -> None:
    """Nothing is waited for any more."""
    answering = asyncio.create_task(read(FakeAnswer(steps), after_s=0.0 if steps else 8 * STALL_S))
    await asyncio.sleep(STALL_S / 2)
    with capture_logs() as events:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.sleep(2 * STALL_S)

    assert [event["event"] for event in events] == ["chat_left"]


@pytest.mark.usefixtures("quick_stalls")
async def test_an_upstream_that_goes_on_is_not_silent() -> None:
    """However long it takes altogether, and however long the caller takes."""
    steady: list[bytes | float] = [b": on and on\n\n", STALL_S / 10] * 20
    with capture_logs() as events:
        await read(FakeAnswer(steady))
        await asyncio.sleep(2 * STALL_S)

    assert events == []


# --- garbage


async def test_garbage_is_passed_on_and_told_of_once() -> None:
    """To the byte; the log says what is wrong and nothing that was said."""
    pieces = [b"data: {broken secret\n\n", b"\xff\xfe\x00", b"data: [DONE]\n\n"]
    before = outcomes("garbled")
    with capture_logs() as events:
        assert await read(FakeAnswer(pieces)) == pieces

    assert events == [{"event": "upstream_garbled", "cause": "no_json_event", "status": 200, "log_level": "warning"}]
    assert outcomes("garbled") == before + 1


async def test_a_body_is_looked_at_when_the_caller_has_it() -> None:
    """Nothing of it is held back until then."""
    answer = FakeAnswer([b"<html>", b"</html>"], headers=JSON)
    passed = await service(answer).models([])
    with capture_logs() as events:
        assert [piece async for piece in passed.pieces()] == [b"<html>", b"</html>"]
        assert events == []
        await passed.aclose()

    assert [(event["event"], event["cause"]) for event in events] == [("upstream_garbled", "no_json")]


async def test_a_piece_is_looked_at_when_the_caller_has_it() -> None:
    """The event comes when the next piece is asked for."""
    passed = await service(FakeAnswer([b"garbage\n", b"data: 1\n\n"])).models([])
    pieces = passed.pieces()
    with capture_logs() as events:
        assert await anext(pieces) == b"garbage\n"
        assert events == []
        assert await anext(pieces) == b"data: 1\n\n"
        assert len(events) == 1
    await pieces.aclose()
    await passed.aclose()


async def test_an_error_that_is_no_json_is_a_refusal() -> None:
    """It is told of, and counted as what it is."""
    garbled, refused = outcomes("garbled"), outcomes("refused")
    with capture_logs() as events:
        await read(FakeAnswer([b"Bad gateway"], status=502, headers=JSON))

    assert [(event["event"], event["status"]) for event in events] == [("upstream_garbled", 502)]
    assert (outcomes("garbled"), outcomes("refused")) == (garbled, refused + 1)


@pytest.mark.parametrize("headers", [STREAM, JSON], ids=["a stream", "a body"])
async def test_what_broke_off_is_not_garbage_too(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """It is told of as that."""
    with capture_logs() as events:
        assert await read(FakeAnswer([b'data: {"a"', None], headers=headers)) == [b'data: {"a"', b"!"]

    assert [event["event"] for event in events] == ["upstream_failed"]


async def test_a_caller_who_leaves_makes_no_garbage() -> None:
    """What they did not wait for is nobody's to judge."""
    passed = await service(FakeAnswer([b'{"a":', b" 1}"], headers=JSON)).models([])
    with capture_logs() as events:
        pieces = passed.pieces()
        await anext(pieces)
        await pieces.aclose()
        await passed.aclose()

    assert [event["event"] for event in events] == ["chat_left"]
