"""A load generator that costs the machine little, because it shares the processor with the server it loads.

Every request is bytes made beforehand; of an answer only the status and the length are read. What it costs is measured
against `serve_nothing`, a server that answers every request with the same bytes.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Slice:
    """What one stretch of load showed."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list[float])
    """Seconds from sending a request to the last byte of its answer, of those answered within the stretch."""

    @property
    def per_second(self) -> float:
        """Answered requests."""
        return len(self.latencies) / self.seconds


def request_of(base_url: str, path: str, document: object) -> bytes:
    """A POST request, whole."""
    body = orjson.dumps(document)
    head = f"POST {path} HTTP/1.1\r\nhost: {urlsplit(base_url).netloc}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def load(base_url: str, requests: Sequence[bytes], *, clients: int, seconds: float, warm_up: float) -> Slice:
    """Keep `clients` connections busy, each with one request in flight, for so many seconds after a warm-up.

    Raises RuntimeError for an answer that is not 200.
    """
    parts = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    began = time.perf_counter() + warm_up
    shared = _Shared(requests, began, began + seconds, Slice(seconds), loop.create_future(), clients)
    for _ in range(clients):
        await loop.create_connection(lambda: _Caller(shared), parts.hostname, parts.port)
    await shared.done
    return shared.result


class _Shared:
    """What the connections of one stretch have in common."""

    def __init__(
        self,
        requests: Sequence[bytes],
        began: float,
        ends: float,
        result: Slice,
        done: asyncio.Future[None],
        open_connections: int,
    ) -> None:
        self.next_request = cycle(requests).__next__
        self.began = began
        self.ends = ends
        self.result = result
        self.done = done
        self._open = open_connections

    def close(self, error: Exception | None = None) -> None:
        """One connection is done."""
        self._open -= 1
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        elif not self._open:
            self.done.set_result(None)


class _Caller(asyncio.Protocol):
    """A connection that sends a request as soon as the one before is answered."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._clock = time.perf_counter  # the loop's own clock stands still between events
        self._parts: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._parts.append(data)
            answer = b"".join(self._parts) if len(self._parts) > 1 else data
            end = answer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._parts.clear()
            length = _LENGTH.search(answer, 0, end + 1)
            if not answer.startswith(b"HTTP/1.1 200") or length is None:
                self._end(RuntimeError(f"a request was answered with {answer[:400]!r}"))
                return
            self._missing = end + 4 + int(length[1]) - len(answer)
        if self._missing <= 0:
            now = self._clock()
            if self._shared.began <= now <= self._shared.ends:
                self._shared.result.latencies.append(now - self._sent)
            if now < self._shared.ends:
                self._send()
            else:
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._transport.is_closing() or exc is not None:
            self._shared.close(exc or ConnectionResetError("the server hung up"))

    def _send(self) -> None:
        self._missing = 0
        self._sent = self._clock()
        self._transport.write(self._shared.next_request())

    def _end(self, error: Exception | None = None) -> None:
        self._transport.close()
        self._shared.close(error)


async def serve_nothing(body: bytes) -> asyncio.Server:
    """A server that answers whatever it is sent in one piece with `body`: what is left is the generator's own cost."""
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self._transport.write(answer)

    return await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
