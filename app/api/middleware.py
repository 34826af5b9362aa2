"""What happens around every request: an id, a size limit, a log line, figures, and a last safety net."""

import re
import time
import traceback
from collections.abc import Callable, Mapping
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import request
from app.api.errors import problem
from app.api.paths import UnreadablePath, readable_path
from app.services.telemetry import IN_FLIGHT, LATENCY, REQUESTS

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/v1/healthz", "/readyz", "/metrics"})

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FRAMES = 6


class RequestMiddleware:
    """Wraps the whole application, so that no answer leaves without an id and no error without a problem."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: Callable[[], int],
        max_body_bytes_by_path: Mapping[str, int],
        budget_s: Callable[[], float],
    ) -> None:
        self._app = app
        self._budget_s = budget_s
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
        asked = scope["method"]
        # A HEAD is a GET whose body stays here; the server keeps its own scope, which says HEAD.
        scope = {**scope, "method": "GET" if asked == "HEAD" else asked}
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 500
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                has_started = True
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            elif asked == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        async def answer(status: int, kind: str, title: str, detail: str) -> None:
            if not has_started:
                await problem(request_id, status, kind, title, detail)(scope, receive, send_with_id)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        IN_FLIGHT.inc()
        try:
            scope["path"] = readable_path(scope)
            limit = self._by_path.get(scope["path"]) or self._max_body_bytes()
            with request.budget(budget_of(headers, self._budget_s())):
                await self._app(scope, limited(receive, headers, limit), send_with_id)
        except UnreadablePath:
            await answer(400, "bad-request", "Bad request", "the path is not UTF-8")
        except ClientDisconnect:
            status = 499
        except Exception as error:  # noqa: BLE001 - the last safety net
            log.error("request_failed", **described(error))
            await answer(500, "internal-error", "Internal error", "the service failed; the log has the details")
        finally:
            IN_FLIGHT.dec()
            self._record(scope, asked, status, time.perf_counter() - started)

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = method if method in _METHODS else "OTHER"
        REQUESTS.labels(method, route, str(status)).inc()
        LATENCY.labels(method, route).observe(seconds)
        if route not in _QUIET:
            log.info("request_answered", method=method, route=route, status=status, duration_s=round(seconds, 6))


def budget_of(headers: Headers, otherwise: float) -> float:
    """Seconds the caller gives the request by `X-Request-Timeout`, never more than `otherwise`."""
    try:
        given = float(headers.get("x-request-timeout", ""))
    except ValueError:
        return otherwise
    return min(given, otherwise) if given > 0 else otherwise


def limited(receive: Receive, headers: Headers, limit: int) -> Receive:
    """`receive`, raising HTTPException (413) as soon as it is certain that the body exceeds `limit` bytes."""
    declared = headers.get("content-length", "")
    seen = 0

    async def count() -> Message:
        nonlocal seen
        if declared.isdigit() and int(declared) > limit:
            raise HTTPException(413, f"the body may have at most {limit:,} bytes")
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"the body may have at most {limit:,} bytes")
        return message

    return count


def described(error: BaseException) -> dict[str, object]:
    """An error nobody foresaw, for the log: the kinds of errors and the places they passed, outermost first.
    What they say stays out of it, for it may quote a user."""
    kinds: list[str] = []
    places: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(kinds) < _FRAMES:
        kinds.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        frames = traceback.extract_tb(cause.__traceback__)[-_FRAMES:]
        places += [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        cause = cause.__cause__ or cause.__context__
    return {"error": kinds[0], "causes": kinds[1:], "places": places}
