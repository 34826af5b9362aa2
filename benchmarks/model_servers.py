"""Model servers for benchmarks: vLLM, llama.cpp and a stub, a tap on the wire before them, a client without frills.

    python -m benchmarks.model_servers PORT

serves the stub: an OpenAI-compatible server on a real socket that computes nothing. Whatever it is asked, it streams
one recorded answer, with the user's input put in, at a fixed pace: what a model on a graphics card would look like
from here, without taking the processor from the service that is measured.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from app.clients.slm.builtin import BuiltinServer, find_model
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[1]

STUB_TOKENS_PER_S = 100.0
STUB_FIRST_TOKEN_S = 0.05
STUB_TOKEN_CHARACTERS = 4
STUB_TAILS = (
    ("as short as you like it, with the tools you named last", 62),
    ("step by step, beginning with what you have already", 24),
    ("as a first draft that we improve together afterwards", 14),
)

_INPUT = re.compile(r"<input>(.*?)</input>", re.DOTALL)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"
_REFUSED = (b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 501")
_OPTION = re.compile(r"^([A-Z]): ", re.MULTILINE)


@dataclass(frozen=True)
class ModelServer:
    """A running server; `about` says in words what it is."""

    base_url: str
    model: str | None
    about: str
    api_key: str | None = None


@dataclass(frozen=True)
class Reply:
    """An HTTP answer as it came over the wire, and the seconds from the request's first byte to its last."""

    head: bytes
    body: bytes
    seconds: float

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head.split(None, 2)[1])


@dataclass
class Exchange:
    """One request and its answer as the tap saw them: raw bytes, and when the first and the last of them passed."""

    began: float
    ended: float = 0.0
    request: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)

    @property
    def seconds(self) -> float:
        """From the request's first byte to the answer's last."""
        return self.ended - self.began

    def answered(self, data: bytes) -> None:
        """Bytes of the answer."""
        self.answer += data
        self.ended = time.perf_counter()

    @property
    def is_generation(self) -> bool:
        """Whether a model was asked; the other requests ask for its name or its tokens, or for what the server has."""
        path = self.request.split(b" ", 2)[1] if self.request.startswith(b"POST ") else b""
        return bool(path) and not path.endswith(b"/tokenize") and not self.answer.startswith(_REFUSED)


@dataclass(frozen=True)
class Usage:
    """Tokens that a server counted; 0 where it does not say."""

    prompt: int = 0
    completion: int = 0


def covered_s(exchanges: Sequence[Exchange]) -> float:
    """How long at least one of them was under way."""
    total, until = 0.0, 0.0
    for each in sorted(exchanges, key=lambda each: each.began):
        total += max(0.0, each.ended - max(until, each.began))
        until = max(until, each.ended)
    return total


def body_of(message: bytes) -> bytes:
    """The body of a raw HTTP message, without the frames of chunked encoding."""
    head, _, rest = message.partition(b"\r\n\r\n")
    if not _CHUNKED.search(head):
        return rest
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if length == 0:
            break
        body += rest[:length]
        rest = rest[length + 2 :]
    return bytes(body)


def usage_of(body: bytes) -> Usage:
    """What the last event of a streamed answer that counts tokens says."""
    for line in reversed(body.split(b"\n")):
        if line.startswith(b"data: {") and b'"usage"' in line:
            counted = json.loads(line[6:]).get("usage")
            if counted:
                return Usage(counted.get("prompt_tokens") or 0, counted.get("completion_tokens") or 0)
    return Usage()


class Wire:
    """One kept-alive HTTP/1.1 connection that sends bytes and reads an answer, and understands nothing of it."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = str(parts.hostname), parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, document: Mapping[str, Any]) -> Reply:
        """Send a document as JSON."""
        body = json.dumps(document).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        return await self.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def get(self, path: str) -> Reply:
        """Ask for a path."""
        return await self.send(f"GET {path} HTTP/1.1\r\nhost: {self._host}\r\n\r\n".encode())

    async def send(self, message: bytes) -> Reply:
        """Send a whole raw request. A connection that the server closed meanwhile is opened anew, once."""
        try:
            return await self._send(message)
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.aclose()
            return await self._send(message)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _send(self, message: bytes) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**20)
        reader, writer = self._streams
        started = time.perf_counter()
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        if sized := _LENGTH.search(head):
            body = await reader.readexactly(int(sized[1]))
        else:
            body = bytearray()
            while not body.endswith(_LAST_CHUNK):
                part = await reader.read(2**16)
                if not part:
                    raise ConnectionResetError("the answer broke off")
                body += part
        seconds = time.perf_counter() - started
        return Reply(head, body_of(head + body), seconds)


class Tap:
    """A TCP relay that notes when the bytes of each exchange passed."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._host, self._port = str(parts.hostname), parts.port or 80
        self._path = parts.path
        self._server: asyncio.Server | None = None
        self.exchanges: list[Exchange] = []

    @property
    def base_url(self) -> str:
        """Where the relay listens, with the path of what is behind it."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator["Tap"]:
        """Relay until the end of the block."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Relay(self), "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()

    def taken(self) -> list[Exchange]:
        """The generations since the last call, in order."""
        exchanges, self.exchanges = self.exchanges, []
        return [each for each in exchanges if each.is_generation]

    def saw_request(self, present: Exchange | None, data: bytes) -> Exchange:
        """Bytes from a client: of its connection's present exchange, or of a new one when that was answered already."""
        if present is None or present.answer:
            present = Exchange(time.perf_counter())
            self.exchanges.append(present)
        present.request += data
        return present

    async def connect(self, relay: "_Relay") -> asyncio.WriteTransport:
        """A connection to the server, for one of the client's."""
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: _Back(relay), self._host, self._port)
        return transport


class _Relay(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._waiting = bytearray()
        self._server: asyncio.WriteTransport | None = None
        self.client: asyncio.WriteTransport | None = None
        self.exchange: Exchange | None = None

    def connection_made(self, transport: Any) -> None:
        self.client = transport
        self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self._server = await self._tap.connect(self)
        self._server.write(bytes(self._waiting))

    def data_received(self, data: bytes) -> None:
        self.exchange = self._tap.saw_request(self.exchange, data)
        if self._server is None:
            self._waiting += data
        else:
            self._server.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._server is not None:
            self._server.close()


class _Back(asyncio.Protocol):
    """The connection to the server behind it."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        if self._relay.exchange is not None:
            self._relay.exchange.answered(data)
        if self._relay.client is not None:
            self._relay.client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._relay.client is not None:
            self._relay.client.close()


@asynccontextmanager
async def serving(kind: str, folder: Path) -> AsyncGenerator[ModelServer]:
    """A model server: `stub`, `builtin`, `vllm`, or the address of one that runs already."""
    if kind == "stub":
        port = free_port()
        async with _process((sys.executable, "-m", "benchmarks.model_servers", str(port)), folder / "stub.log"):
            await _until_healthy(port, 30)
            pace = f"{STUB_TOKENS_PER_S:g} tokens/s a stream, the first after {1000 * STUB_FIRST_TOKEN_S:g} ms"
            about = f"no model: a stub that streams a recorded answer, {pace}, as a graphics card would"
            yield ModelServer(f"http://127.0.0.1:{port}/v1", "stub", about)
    elif kind == "builtin":
        server = BuiltinServer(await asyncio.to_thread(find_model, None, folder), folder / "builtin.log")
        await server.start()
        try:
            about = f"{server.model} in llama.cpp, one thread, two slots, on the processor that the service uses too"
            yield ModelServer(server.base_url, server.model, about, server.api_key)
        finally:
            await server.aclose()
    elif kind == "vllm":
        name, port = "local-models/smollm2-135m-instruct", free_port()
        environment = {"VLLM_MODEL_NAME": name, "VLLM_PORT": str(port), "LOG_DIR": str(folder / "vllm")}
        async with _process(("bash", str(ROOT / "start_vllm.sh")), folder / "vllm.log", environment):
            await _until_healthy(port, 600)
            about = f"{Path(name).name} in vLLM, started by start_vllm.sh on the machine that the service uses too"
            yield ModelServer(f"http://127.0.0.1:{port}/v1", name, about)
    else:
        yield ModelServer(kind, os.environ.get("VLLM_MODEL_NAME"), f"the server at {urlsplit(kind).netloc}")


@asynccontextmanager
async def running_service(
    folder: Path, base_url: str, server: ModelServer, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[str]:
    """The service as a process of its own with a database in `folder`, and `settings` of one's own; gives its
    address."""
    port = free_port()
    wanted = {
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "SLM_IMPL": "vllm",
        "VLLM_BASE_URL": base_url,
        "VLLM_MODEL_NAME": server.model or "",
        "SLM_API_KEY": server.api_key or "",
        "REQUEST_BUDGET_S": "600",
    } | dict(settings or {})
    command = (sys.executable, "-m", "app.cli", "run")
    async with _process(command, folder / "service.log", wanted, folder):
        await _until_healthy(port, 300, "/readyz")
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def _process(
    command: Sequence[str], output: Path, wanted: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> AsyncGenerator[None]:
    """A child process without our own settings in its environment; asked to end at the end, then waited for."""
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | dict(wanted or {})
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    waiting = asyncio.ensure_future(process.wait())
    try:
        yield
    except TimeoutError:
        said = (await asyncio.to_thread(output.read_text, errors="replace"))[-2000:]
        raise SystemExit(f"{' '.join(command)} does not answer; the last it said:\n{said}") from None
    finally:
        if process.returncode is None:
            process.terminate()
        await waiting


async def _until_healthy(port: int, timeout_s: float, path: str = "/health") -> None:
    """Wait for a 200. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            wire = Wire(f"http://127.0.0.1:{port}")
            with suppress(OSError, asyncio.IncompleteReadError):
                if (await wire.get(path)).status == 200:
                    return
            await wire.aclose()
            await asyncio.sleep(0.1)


# ---- the stub


def stub_answer(asked: str, count: int = 3) -> str:
    """The recorded answer with `asked` put in."""
    proposals = [
        {
            "request": f"Please {asked}, {tail}.",
            "question": f"Would you like me to {asked}, {tail}?",
            "memories": [1, 2],
            "confidence": confidence,
        }
        for tail, confidence in STUB_TAILS[:count]
    ]
    return json.dumps({"hypotheses": proposals}, separators=(",", ":"))


def stub_events(request: Mapping[str, Any]) -> Iterator[bytes]:
    """The events of a streamed answer to a request, a token each, as vLLM writes them."""
    prompt = request["messages"][-1]["content"]
    options = _OPTION.findall(prompt) if request.get("max_tokens") == 1 else []
    found = _INPUT.search(prompt)
    schema: Any = (request.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    count = schema.get("properties", {}).get("hypotheses", {}).get("maxItems", 3)
    text = stub_answer(found[1] if found else "help", count)
    told = [{"token": each, "logprob": -0.7 - place, "bytes": None} for place, each in enumerate(options)]
    if told:
        text = options[0]
    pieces = [text[at : at + STUB_TOKEN_CHARACTERS] for at in range(0, len(text), STUB_TOKEN_CHARACTERS)]
    common = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": int(time.time()), "model": "stub"}

    def event(choices: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**common, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"

    for piece in pieces:
        token = {"token": piece, "logprob": -0.4, "bytes": list(piece.encode()), "top_logprobs": told}
        likelihood = {"content": [token]} if request.get("logprobs") else None
        yield event([{"index": 0, "delta": {"content": piece}, "logprobs": likelihood, "finish_reason": None}])
    yield event([{"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop"}])
    words = sum(len(message["content"]) for message in request["messages"]) // STUB_TOKEN_CHARACTERS
    usage = {"prompt_tokens": words, "completion_tokens": len(pieces), "total_tokens": words + len(pieces)}
    yield event([], usage=usage) + b"data: [DONE]\n\n"


async def serve_stub(port: int) -> None:
    """Serve the stub until cancelled."""
    server = await asyncio.start_server(_answer, "127.0.0.1", port, limit=2**20)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if head.startswith(b"POST ") and b"/chat/completions" not in head.split(b"\r\n", 1)[0]:
                refused = b'{"error": {"message": "Not Found", "code": 404}}'
                sized = b"content-length: %d" % len(refused)
                writer.write(_head(b"application/json", sized).replace(b"200 OK", b"404 Not Found", 1) + refused)
            elif head.startswith(b"POST "):
                await _stream(writer, json.loads(body))
            else:
                listed = json.dumps({"object": "list", "data": [{"id": "stub", "object": "model"}]}).encode()
                writer.write(_head(b"application/json", b"content-length: %d" % len(listed)) + listed)
    writer.close()


async def _stream(writer: asyncio.StreamWriter, request: Mapping[str, Any]) -> None:
    """One recorded answer: the events are made before the clock starts, and due at fixed moments."""
    frames = [b"%x\r\n%s\r\n" % (len(event), event) for event in stub_events(request)]
    loop = asyncio.get_running_loop()
    due = loop.time() + STUB_FIRST_TOKEN_S
    for number, frame in enumerate(frames):
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1 / STUB_TOKENS_PER_S
        writer.write(_head(b"text/event-stream", b"transfer-encoding: chunked") + frame if number == 0 else frame)
    writer.write(_LAST_CHUNK)


def _head(media_type: bytes, length: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s\r\n\r\n" % (media_type, length)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(serve_stub(int(sys.argv[1])))
