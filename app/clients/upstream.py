"""The model server behind the chat proxy: requests and answers as bytes, which are not looked into."""

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import cast

import httpx2

from app.domain.errors import UpstreamUnavailable
from app.ports import Headers

CONNECT_S = 5.0

KEPT_S = 3.0
"""How long an idle connection is kept: less than the 5 s after which common servers close it, so that no request is
written to one that is just being closed."""


_TIMEOUT = {"connect": CONNECT_S, "read": None, "write": None, "pool": None}


class HttpUpstream:
    """An OpenAI-compatible server over one pool of connections.

    There is no limit on how long it may be silent: it is the caller who knows how long to wait, and whose leaving ends
    the request.
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        """Connects to nothing yet. `base_url` is what OpenAI's clients call so, mostly with `/v1`."""
        self._base = base_url.rstrip("/")
        self._key = [(b"authorization", f"Bearer {api_key}".encode())] if api_key else []
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEPT_S)
        # Not a client: that has cookies, follows redirects and adds headers of its own.
        self._transport = httpx2.AsyncHTTPTransport(limits=limits)

    async def ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> "HttpAnswer":
        """The answer to a request, as soon as it begins. Raises UpstreamUnavailable where none begins."""
        sent = httpx2.Request(
            method,
            self._base + path,
            headers=[*headers, *self._key],
            content=body or None,
            extensions={"timeout": _TIMEOUT},
        )
        with _translated("the model server does not answer"):
            return HttpAnswer(await self._transport.handle_async_request(sent))

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._transport.aclose()


class HttpAnswer:
    """An answer that has begun."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Headers:
        """Every header."""
        return [(name.lower(), value) for name, value in self._response.headers.raw]

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it comes: neither decompressed nor put together. Raises UpstreamUnavailable."""
        with _translated("the model server broke its answer off"):
            async for piece in cast(httpx2.AsyncByteStream, self._response.stream):
                yield piece

    async def aclose(self) -> None:
        """End the request; its connection is closed unless the answer was read to its end."""
        await self._response.aclose()


@contextmanager
def _translated(what: str) -> Generator[None]:
    """Raise UpstreamUnavailable for what the network did."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise UpstreamUnavailable(f"{what}: no connection within {CONNECT_S:g} s", "timeout") from error
    except httpx2.ConnectError as error:
        raise UpstreamUnavailable(f"{what}: it cannot be reached", "unreachable") from error
    except (httpx2.RemoteProtocolError, httpx2.LocalProtocolError) as error:
        raise UpstreamUnavailable(f"{what}: what it sent is not HTTP, or not whole", "broken_answer") from error
    except httpx2.TransportError as error:
        raise UpstreamUnavailable(f"{what}: the connection was lost", "reset") from error
