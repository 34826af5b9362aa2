"""Model servers behind a transport: recorded answers, made-up ones, and what was asked."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

FOLDER = Path(__file__).parent / "data" / "model_answers"
SERVERS = sorted({path.name.split(".")[0] for path in FOLDER.glob("*.txt")})
"""The servers whose answers `scripts/record_model_answers.py` recorded."""

Reply = bytes | httpx2.Response | Exception | Callable[[httpx2.Request], Awaitable[httpx2.Response]]


def recorded(server: str, case: str) -> bytes:
    """The body that a real server streamed."""
    return (FOLDER / f"{server}.{case}.txt").read_bytes()


def said(body: bytes) -> str:
    """The text that a recorded body streams, by the plainest reading of it."""
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


def streamed(
    text: str, *, logprob: float | None = None, finish_reason: str = "stop", usage: Mapping[str, Any] | None = None
) -> bytes:
    """A made-up answer, a token for every four characters."""
    events: list[dict[str, Any]] = []
    for start in range(0, len(text), 4):
        piece = text[start : start + 4]
        token = {"token": piece, "bytes": list(piece.encode(errors="replace")), "logprob": logprob}
        logprobs = None if logprob is None else {"content": [token]}
        events.append({"index": 0, "delta": {"content": piece}, "logprobs": logprobs, "finish_reason": None})
    events.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish_reason})
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "made-up"}
    chunks: list[dict[str, Any]] = [{**frame, "choices": [choice]} for choice in events]
    if usage is not None:
        chunks.append({**frame, "choices": [], "usage": dict(usage)})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def answering(**fields: object) -> bytes:
    """A made-up answer that is a JSON object."""
    return streamed(json.dumps(fields))


def reading(question: str, *memories: int, confidence: float = 50) -> dict[str, Any]:
    """A hypothesis as a model writes it."""
    return {"request": f"{question} request", "question": question, "memories": memories, "confidence": confidence}


def refusal(status: int, message: str = "no", **headers: str) -> httpx2.Response:
    """An error in OpenAI's shape."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json={"error": {"message": message, "code": status}}, headers=named)


class Pieces(httpx2.AsyncByteStream):
    """A body in pieces, as a socket may hand it over; an exception among them is raised in its place."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        """Nothing to close."""


def stream_of(pieces: Iterable[bytes | Exception], kind: str = "text/event-stream") -> httpx2.Response:
    """An answer whose body comes in pieces."""
    return httpx2.Response(200, headers={"content-type": kind}, stream=Pieces(pieces))


@dataclass
class ScriptedServer:
    """Gives its replies in order, the last one for ever; notes what it was asked."""

    replies: Sequence[Reply]
    requests: list[httpx2.Request] = field(default_factory=list[httpx2.Request])

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the chat requests said."""
        return [json.loads(request.content) for request in self.requests if request.method == "POST"]

    @property
    def client(self) -> httpx2.AsyncClient:
        """A client that reaches this server and no other."""
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if request.method == "GET":
            return httpx2.Response(200, json={"object": "list", "data": [{"id": "listed-model", "object": "model"}]})
        reply = self.replies[min(len(self.bodies), len(self.replies)) - 1]
        match reply:
            case bytes():
                return stream_of([reply])
            case httpx2.Response():
                return reply
            case Exception():
                raise reply
            case _:
                return await reply(request)
