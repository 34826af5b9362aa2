"""What the providers share of HTTP: one client, answers of a bounded size, failures as one line."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson

from app.domain.errors import ProvisionFailed

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of a JSON answer: a repository of many files lists them in some megabytes."""

CONNECT_S = 5.0
SILENCE_S = 60.0
"""How long a server may be silent before the connection counts as lost."""

_SAID = 300


class Unreachable(ProvisionFailed):
    """A server does not answer, or not to the end."""


class Lost(Exception):
    """A connection ended, or a server stumbled: worth another try."""


def make_client() -> httpx2.AsyncClient:
    """A client for one provider. It follows redirects where it is told to."""
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    return httpx2.AsyncClient(timeout=timeout, headers={"Accept-Encoding": "identity"})


@asynccontextmanager
async def answer(
    client: httpx2.AsyncClient, method: str, url: str, who: str, **arguments: Any
) -> AsyncGenerator[httpx2.Response]:
    """A streamed response. Raises Lost where nobody answers or the connection breaks."""
    try:
        async with client.stream(method, url, **arguments) as response:
            yield response
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        raise Lost(f"{who} at {_origin(url)} cannot be reached: is it running?") from None
    except httpx2.TimeoutException:
        raise Lost(f"{who} said nothing for {SILENCE_S:.0f} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise Lost(f"the connection to {who} was lost ({type(error).__name__})") from None


async def ask(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    who: str,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    follow_redirects: bool = False,
) -> tuple[int, Any]:
    """Status and JSON of an answer, None where it is no JSON. Raises Unreachable where there is none, ProvisionFailed
    for one without end."""
    try:
        async with answer(
            client, method, url, who, json=body, headers=headers, follow_redirects=follow_redirects
        ) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise ProvisionFailed(f"{who} answers without end")
    except Lost as error:
        raise Unreachable(str(error)) from None
    try:
        return response.status_code, orjson.loads(content)
    except orjson.JSONDecodeError:
        return response.status_code, None


def _origin(url: str) -> str:
    """Where a server is, without a user's name or password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def said(text: object) -> str:
    """What a server says, on one line and not without end."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(text)).strip()[:_SAID]


def counted(count: int, thing: str) -> str:
    """So many things, in words."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def listed_models(document: Any) -> list[str] | None:
    """The ids of an OpenAI-like list of models; None where it is none."""
    match document:
        case {"data": [*entries]}:
            return [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        case _:
            return None
