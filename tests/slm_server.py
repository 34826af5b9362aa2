"""A real, tiny chat server on a loopback port that speaks OpenAI's protocol well, and badly on request.

It stands in for vLLM: every fault that a test sets is what a client sees on its socket, byte by byte.
"""

import asyncio
import contextlib
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from tests.lora_routes import Loras

MODEL = "tiny-chat"

RUSSIAN = "Хотите ли вы создать новый интерфейс для вашей службы доставки и описать все его разделы"


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def call(self) -> str:
        """What is asked for: the name of the wanted shape, `labels` for one of several letters, `text` without one."""
        if self.body.get("max_tokens") == 1 and self.body.get("logprobs"):
            return "labels"
        return self.body.get("response_format", {}).get("json_schema", {}).get("name", "text")

    @property
    def input(self) -> str:
        """The user's words in the prompt."""
        found = re.findall(r"<input>(.*?)</input>", self.body["messages"][1]["content"], re.DOTALL)
        return unescape(found[-1]) if found else ""


@dataclass
class Exchange:
    """One request and the connection to answer it on."""

    asked: Asked
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        """Status and headers of an answer that is sent in chunks."""
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self._write("\r\n".join([*lines, "", ""]).encode())

    async def send(self, content: bytes) -> None:
        """A part of the body."""
        await self._write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    async def end(self) -> None:
        """The proper end of the body."""
        await self._write(b"0\r\n\r\n")

    async def whole(self, status: int, document: object, **headers: str) -> None:
        """A whole answer in JSON."""
        await self.head(status, "application/json", **headers)
        await self.send(json.dumps(document).encode())
        await self.end()

    async def event(self, document: object) -> None:
        """One event of a stream."""
        await self.send(
            b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"
        )

    async def stream(self, text: str, *, logprob: float = -0.2, finish_reason: str | None = "stop") -> None:
        """A well-formed streamed answer that says `text`."""
        model = self.asked.body["model"]
        await self.head()
        for piece in re.findall(f".{{1,{max(8, len(text) // 100)}}}", text, re.DOTALL):
            logprobs = {"content": [{"token": piece, "bytes": list(piece.encode()), "logprob": logprob}]}
            wanted = logprobs if self.asked.body.get("logprobs") else None
            await self.event(chunk({"content": piece}, wanted, model=model))
        await self.event(chunk({}, finish_reason=finish_reason, model=model))
        if self.asked.body.get("stream_options"):
            details = {"cached_tokens": 10}
            usage = {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80, "prompt_tokens_details": details}
            await self.event({**chunk({}), "choices": [], "usage": usage})
        await self.event(b"[DONE]")
        await self.end()

    async def label(self) -> None:
        """One letter, with the log-probabilities of all: a model that prefers A, and later readings to earlier ones."""
        shown = re.findall(r"^([A-Z]): (.*)$", self.asked.body["messages"][1]["content"], re.MULTILINE)
        likely = {letter: len(text) / 20 + (letter == "A") for letter, text in shown}
        total = math.log(sum(math.exp(value) for value in likely.values()))
        told = [{"token": letter, "bytes": [ord(letter)], "logprob": value - total} for letter, value in likely.items()]
        told.sort(key=lambda each: -each["logprob"])
        model = self.asked.body["model"]
        await self.head()
        await self.event(
            chunk({"content": told[0]["token"]}, {"content": [{**told[0], "top_logprobs": told}]}, model=model)
        )
        await self.event(chunk({}, finish_reason="length", model=model))
        if self.asked.body.get("stream_options"):
            usage = {"prompt_tokens": 60, "completion_tokens": 1, "total_tokens": 61}
            await self.event({**chunk({}), "choices": [], "usage": usage})
        await self.event(b"[DONE]")
        await self.end()

    async def until_gone(self) -> None:
        """Return when the client has hung up."""
        with contextlib.suppress(OSError):
            while await self.reader.read(4096):
                pass

    def reset(self) -> None:
        """End the connection as a crash does: the client sees a reset, not an end."""
        held: socket.socket = self.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _write(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()


def chunk(
    delta: Mapping[str, Any], logprobs: object = None, finish_reason: str | None = None, model: str = MODEL
) -> dict[str, Any]:
    """One piece of a streamed answer."""
    choice = {"index": 0, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def good_answer(asked: Asked) -> str:
    """What a sensible model would say, in the wanted shape."""
    schema = asked.body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    shape: Mapping[str, Any] = schema.get("properties", {})
    match asked.call:
        case "hypotheses":
            ways = [f"in way number {number}" for number in range(1, shape["hypotheses"]["maxItems"] + 1)]
            document: dict[str, Any] = {"hypotheses": [reading(f"{asked.input} {way}") for way in ways]}
        case "facets":
            document = {"facets": dict.fromkeys(shape["facets"]["properties"], "more")}
        case "enrichment":
            document = {
                "implicit_goals": ["to have it running before long"],
                "inferred_expertise_level": "expert",
                "next_steps": ["Which cloud do you use for the service?"],
            }
        case "followups":
            document = {"questions": ["Which part of the service comes first?"]}
        case "relevance":
            count = shape["relevance"]["maxItems"]
            document = {"relevance": [min(10, number) for number in range(count)]}
        case _:
            return "The model's own gist of these notes."
    return json.dumps(document)


def reading(task: str) -> dict[str, Any]:
    """A hypothesis as a model writes it."""
    return {"request": f"Please {task}.", "question": f"Do you want me to {task}?", "memories": [1], "confidence": 70}


async def _hang(exchange: Exchange) -> None:
    await exchange.until_gone()


async def _hang_after_head(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.until_gone()


async def _break_off(exchange: Exchange) -> None:
    """Some of an answer, then an end where none should be."""
    await exchange.head()
    await exchange.event(chunk({"content": '{"hypotheses": ['}))


async def _reset(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(chunk({"content": '{"hypotheses": ['}))
    await asyncio.sleep(0.02)
    exchange.reset()


async def _half_json(exchange: Exchange) -> None:
    answer = good_answer(exchange.asked)
    await exchange.stream(answer[: len(answer) // 2])


async def _ten_megabytes(exchange: Exchange) -> None:
    await exchange.head()
    for _ in range(1000):
        await exchange.event(chunk({"content": "All work and no play. " * 480}))
    await exchange.event(chunk({}, finish_reason="stop"))
    await exchange.end()


async def _other_language(exchange: Exchange) -> None:
    readings = [{"request": RUSSIAN, "question": f"{RUSSIAN} {number}?"} for number in range(3)]
    await exchange.stream(json.dumps({"hypotheses": readings}, ensure_ascii=False))


async def _endless_line(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b'data: {"choices":[{"delta":{"content":"')
    while True:
        await exchange.send(b"a" * 65536)


async def _not_utf8(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe\xfa"}}]}\n\n')
    await exchange.end()


async def _no_choices(exchange: Exchange) -> None:
    await exchange.head()
    for _ in range(3):
        await exchange.event({**chunk({}), "choices": []})
    await exchange.event(b"[DONE]")
    await exchange.end()


async def _tool_calls(exchange: Exchange) -> None:
    await exchange.head()
    for number in range(1000):
        call = {"index": 0, "id": f"t{number}", "type": "function", "function": {"name": "run", "arguments": "{"}}
        await exchange.event(chunk({"tool_calls": [call]}))
    await exchange.event(chunk({}, finish_reason="tool_calls"))
    await exchange.end()


async def _trickle(exchange: Exchange) -> None:
    await exchange.head()
    for byte in b'data: {"choices":[]}\n\n' * 100:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(1)


async def _gzip_bomb(exchange: Exchange) -> None:
    import zlib

    packer = zlib.compressobj(wbits=31)
    await exchange.head(200, "text/event-stream", content_encoding="gzip")
    await exchange.send(packer.compress(b'data: {"choices":[{"delta":{"content":"'))
    for _ in range(3000):
        await exchange.send(packer.compress(b"a" * 1_000_000) or packer.flush(zlib.Z_SYNC_FLUSH))
    await exchange.until_gone()


def _status(status: int, **headers: str) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        # Servers quote what they were sent: nothing of it may get into a log.
        said = f"something about {exchange.asked.body.get('messages')}"
        await exchange.whole(status, {"error": {"message": said, "type": "x", "code": status}}, **headers)

    return answer


def _saying(text: str) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.stream(text)

    return answer


def _body(kind: str, body: bytes) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        await exchange.head(200, kind)
        await exchange.send(body)
        await exchange.end()

    return answer


async def _error_event(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event({"error": {"message": "out of memory", "type": "server_error", "code": 500}})
    await exchange.end()


async def _nan_logprobs(exchange: Exchange) -> None:
    await exchange.stream(good_answer(exchange.asked), logprob=float("nan"))


async def _odd_logprobs(exchange: Exchange) -> None:
    await exchange.stream(good_answer(exchange.asked), logprob="likely")  # type: ignore[arg-type]


async def _odd_usage(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.event(chunk({"content": good_answer(exchange.asked)}))
    usage = {"prompt_tokens": -1, "completion_tokens": "20", "prompt_tokens_details": {"cached_tokens": None}}
    await exchange.event({**chunk({}, finish_reason="stop"), "usage": usage})
    await exchange.end()


async def _half_characters(exchange: Exchange) -> None:
    """A character beyond 16 bits in two pieces, and half of one."""
    await exchange.head()
    for piece in (good_answer(exchange.asked)[:-1], "\ud83d", "\ude80", " \ud800", "}"):
        await exchange.event(chunk({"content": piece}))
    await exchange.event(chunk({}, finish_reason="stop"))
    await exchange.end()


async def _infinite_logprobs(exchange: Exchange) -> None:
    await exchange.stream(good_answer(exchange.asked), logprob=-float("inf"))


async def _nul_characters(exchange: Exchange) -> None:
    said = exchange.asked.input
    readings = [reading(f"{said} \0 in way number {number}") for number in range(3)]
    answers = {"hypotheses": {"hypotheses": readings}, "text": None}
    document = answers.get(exchange.asked.call, {})
    await exchange.stream(json.dumps(document) if document is not None else "A gist \0 with a hole. And more.")


async def _unclosed_fence(exchange: Exchange) -> None:
    await exchange.stream("```" + " " * 90_000)


_JSON_ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}],
}

FAULTS: Mapping[str, Callable[[Exchange], Awaitable[None]]] = {
    "hung": _hang,
    "hung_after_head": _hang_after_head,
    "broken_off": _break_off,
    "reset": _reset,
    "429": _status(429),
    "429_soon": _status(429, retry_after="0.3"),
    "429_late": _status(429, retry_after="60"),
    "500": _status(500),
    "400": _status(400),
    "401": _status(401),
    "redirect": _status(302, location="http://127.0.0.1:9/"),
    "half_json": _half_json,
    "wrong_shape": _saying('{"answers": [{"text": "yes"}]}'),
    "ten_megabytes": _ten_megabytes,
    "other_language": _other_language,
    "endless_line": _endless_line,
    "html": _body("text/html", b"<html><body>Welcome to the proxy</body></html>"),
    "json_instead": _body("application/json", json.dumps(_JSON_ANSWER).encode()),
    "not_utf8": _not_utf8,
    "error_event": _error_event,
    "no_choices": _no_choices,
    "tool_calls": _tool_calls,
    "trickle": _trickle,
    "gzip_bomb": _gzip_bomb,
    "nan_logprobs": _nan_logprobs,
    "infinite_logprobs": _infinite_logprobs,
    "nul_characters": _nul_characters,
    "unclosed_fence": _unclosed_fence,
    "silence": _saying(""),
    "odd_logprobs": _odd_logprobs,
    "odd_usage": _odd_usage,
    "half_characters": _half_characters,
    "deep_chunk": _body("text/event-stream", b"data: " + b"[" * 200_000 + b"\n\n"),
    "nested": _saying("[" * 90_000),
    "odd_chunk": _body("text/event-stream", b'data: {"choices": 7}\n\ndata: [1]\n\n'),
}


@dataclass
class ModelServer:
    """The server. Set `fault` while it runs: one of FAULTS, or `dies` to break off an answer and be down from then."""

    port: int
    fault: str | None = None
    model: str = MODEL
    asked: list[Asked] = field(default_factory=list[Asked])
    hung_up_at: list[float] = field(default_factory=list[float])
    """Moments (monotonic) at which clients hung up on an answer that was under way."""
    faults_left: int | None = None
    """How many requests the fault is for; None for all."""
    loras: Loras = field(default_factory=Loras)
    tells_labels: bool = True
    """Whether it tells the log-probabilities of what could stand in a token's place."""
    _loop: asyncio.AbstractEventLoop | None = None
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def base_url(self) -> str:
        """Where OpenAI's protocol is spoken."""
        return f"http://127.0.0.1:{self.port}/v1"

    def chats(self) -> Sequence[Asked]:
        """What was asked of the model so far, but for the weighing of readings."""
        asked = (each for each in self.asked if each.path.endswith("/chat/completions"))
        return [each for each in asked if each.call != "labels"]

    def go_down(self) -> None:
        """Refuse connections, and drop those there are."""
        self._do(self._close())

    def come_up(self) -> None:
        """Listen (again) at the same port."""
        self._do(self._listen())

    def heal(self) -> None:
        """Answer well from now on."""
        self.fault = None
        self.faults_left = None
        self.model = MODEL
        self.come_up()

    def _do(self, work: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=256)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async for asked in _requests(reader):
                self.asked.append(asked)
                await self._answer(Exchange(asked, reader, writer))
                if self.fault is not None:
                    break
        except OSError:
            self.hung_up_at.append(time.monotonic())
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.asked.method == "GET":
            models = [{"id": self.model, "object": "model", "root": self.model, "parent": None}]
            await exchange.whole(200, {"object": "list", "data": [*models, *self.loras.listed(self.model)]})
            return
        lora = self.loras.answer(exchange.asked.path, dict(exchange.asked.body), self.model)
        if lora is not None:
            await exchange.whole(*lora)
            return
        if not exchange.asked.path.endswith("/chat/completions"):
            await exchange.whole(404, {"error": {"message": "Not Found", "code": 404}})
            return
        if self.fault == "dies":
            await FAULTS["broken_off"](exchange)
            await self._close()
        elif self.fault is not None and self.faults_left != 0:
            self.faults_left = None if self.faults_left is None else self.faults_left - 1
            await FAULTS[self.fault](exchange)
            if self.fault in {"hung", "hung_after_head"}:
                self.hung_up_at.append(time.monotonic())
        elif exchange.asked.body["model"] in self.loras.broken:
            await FAULTS["400"](exchange)
        elif exchange.asked.body["model"] in self.loras.hung:
            await FAULTS["hung"](exchange)
        elif exchange.asked.body["model"] not in {self.model, *self.loras.folders}:
            error = {"message": f"The model `{exchange.asked.body['model']}` does not exist.", "code": 404}
            await exchange.whole(404, {"error": error})
        elif exchange.asked.call == "labels" and self.tells_labels:
            await exchange.label()
        else:
            await exchange.stream(good_answer(exchange.asked))


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Asked]:
    """The requests of one connection, until it ends."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        method, path, _ = head[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        yield Asked(method, path, headers, json.loads(body) if body else {})


@contextlib.contextmanager
def model_server(*, is_down: bool = False) -> Iterator[ModelServer]:
    """A running server; with `is_down`, a port at which nobody answers until it comes up."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = ModelServer(0, _loop=loop)
    server.come_up()
    if is_down:
        server.go_down()
    try:
        yield server
    finally:
        server.go_down()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
