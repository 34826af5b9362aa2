"""What happens around every request: an id, a size limit, a log line, figures, and a last safety net."""

import re
import time
from collections.abc import Callable, Mapping
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem
from app.services.telemetry import IN_FLIGHT, LATENCY, REQUESTS

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/v1/healthz", "/readyz", "/metrics"})

SLASH = "\x1f"
"""Stands for a slash inside a path segment while routes are matched; see `keep_slashes`."""


class BodyTooLarge(Exception):
    """A request's body exceeds the limit of its path."""


class RequestMiddleware:
    """Wraps the whole application, so that no answer leaves without an id and no error without a problem."""

    def __init__(
        self, app: ASGIApp, max_body_bytes: Callable[[], int], max_body_bytes_by_path: Mapping[str, int]
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._by_path = max_body_bytes_by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        limit = self._by_path.get(scope["path"]) or self._max_body_bytes()
        started = time.perf_counter()
        status = 500
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                has_started = True
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        async def answer(status: int, kind: str, title: str, detail: str) -> None:
            if not has_started:
                await problem(request_id, status, kind, title, detail)(scope, receive, send_with_id)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        IN_FLIGHT.inc()
        try:
            keep_slashes(scope)
            await self._app(scope, limited(receive, headers, limit), send_with_id)
        except BodyTooLarge:
            await answer(413, "too-large", "Too large", f"the body may have at most {limit:,} bytes")
        except Exception as error:
            log.exception("request_failed", error=type(error).__name__)
            await answer(500, "internal-error", "Internal error", "the service failed; the log has the details")
        finally:
            IN_FLIGHT.dec()
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        REQUESTS.labels(scope["method"], route, str(status)).inc()
        LATENCY.labels(scope["method"], route).observe(seconds)
        if route not in _QUIET:
            log.info(
                "request_answered",
                method=scope["method"],
                route=route,
                status=status,
                duration_s=round(seconds, 6),
            )


def limited(receive: Receive, headers: Headers, limit: int) -> Receive:
    """`receive`, raising BodyTooLarge as soon as it is certain that the body exceeds `limit` bytes."""
    declared = headers.get("content-length", "")
    seen = 0

    async def count() -> Message:
        nonlocal seen
        if declared.isdigit() and int(declared) > limit:
            raise BodyTooLarge
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise BodyTooLarge
        return message

    return count


def keep_slashes(scope: Scope) -> None:
    """Keep an escaped slash inside its path segment: a user may be called `a/b`.

    Servers hand over the path decoded, where `/v1/persona/a%2Fb` looks like two segments. Such a slash is
    put as SLASH, a control character no user id may hold, and put back by `user_id_of`.
    """
    raw: bytes = scope.get("raw_path") or b""
    lowered = raw.lower()
    if b"%2f" not in lowered or b"%1f" in lowered:
        return
    path = raw.split(b"?", 1)[0]
    scope["path"] = _decoded(re.sub(rb"%2[fF]", b"%1F", path))


def _decoded(path: bytes) -> str:
    text = re.sub(rb"%([0-9a-fA-F]{2})", lambda match: bytes([int(match.group(1), 16)]), path)
    return text.decode("utf-8", "replace")
