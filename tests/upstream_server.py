"""A chat model's server on a loopback port that records what it gets to the byte and answers what a test wrote down.

It computes nothing and understands nothing but where a request ends, so what a test sees on the other side of the
proxy is the proxy's doing.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

HANG: Literal["hang"] = "hang"
RESET: Literal["reset"] = "reset"

Step = bytes | float | Literal["hang", "reset"]
"""Bytes to send, seconds to wait, to say nothing more until the client is gone, or to break the connection."""


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    line: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> bytes | None:
        """The value of a header, by its name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name.encode()), None)


Script = Callable[[Received], Sequence[Step]]


def answer(
    body: bytes,
    *,
    status: int = 200,
    kind: str = "application/json",
    headers: Sequence[str] = (),
) -> list[Step]:
    """A whole answer with a length."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers, "", ""]
    return ["\r\n".join(lines).encode() + body]


def chunk(body: bytes) -> bytes:
    """A piece of a body in chunked encoding."""
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def stream(*pieces: bytes, pause_s: float = 0.0) -> list[Step]:
    """An answer in chunks."""
    steps: list[Step] = [STREAM_HEAD]
    for piece in pieces:
        steps += [chunk(piece), *([pause_s] if pause_s else [])]
    return [*steps, STREAM_END]


@dataclass
class UpstreamServer:
    """The server. Set `script` to what is to be answered."""

    port: int = 0
    script: Script = field(default=lambda _: answer(b"{}"))
    received: list[Received] = field(default_factory=list[Received])
    gone_at: list[float] = field(default_factory=list[float])
    """Moments (monotonic) at which clients hung up on an answer that was not over."""
    _server: asyncio.Server | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        """Where it answers, as OpenAI's clients want it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def forget(self) -> None:
        """Nothing was received, and nobody hung up."""
        self.received.clear()
        self.gone_at.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            async for request in _requests(reader):
                self.received.append(request)
                if not await self._play(self.script(request), reader, writer):
                    break
        writer.close()

    async def _play(self, steps: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used for another request: the answer had an end of its own."""
        gone = asyncio.create_task(_gone(reader))
        try:
            for step in steps:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                elif step == RESET:
                    held: socket.socket = writer.get_extra_info("socket")
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return False
                else:
                    await asyncio.wait({gone}, timeout=None if step == HANG else float(step))
                if gone.done():
                    self.gone_at.append(time.monotonic())
                    return False
            return len(steps) > 0 and (steps[-1] == STREAM_END or len(steps) == 1)
        finally:
            gone.cancel()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**27)
        self.port = self._server.sockets[0].getsockname()[1]


async def _gone(reader: asyncio.StreamReader) -> None:
    """Return when the client has hung up."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - a read would take a next request
        await asyncio.sleep(0.005)


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Received]:
    """The requests of one connection, until it ends."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        line, *rest = head[:-4].split(b"\r\n")
        pairs = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in rest)]
        length = next((int(value) for name, value in pairs if name.lower() == b"content-length"), 0)
        yield Received(line, pairs, await reader.readexactly(length))


@contextlib.contextmanager
def upstream_server() -> Iterator[UpstreamServer]:
    """A running server."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = UpstreamServer()
    asyncio.run_coroutine_threadsafe(server._start(), loop).result(timeout=10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
