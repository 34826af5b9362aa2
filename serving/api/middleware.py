"""What happens around every request: an id, a size limit, figures, and a last safety net."""

import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import problem
from serving.metrics import Metrics

MAX_BODY_BYTES = 16 * 1024 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """Wraps the whole application, so that no answer leaves without an id and no error without a problem."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
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
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, _limited(receive, headers, self._max_body_bytes), send_with_id)
        except ClientDisconnect:
            status = 499
        except Exception as error:  # noqa: BLE001 - the last safety net
            places = f"{type(error).__module__}.{type(error).__qualname__}"
            _log.error("request_failed", request_id=request_id, error=places)
            if not has_started:
                failed = problem(request_id, 500, "internal-error", "Internal error", "the server failed")
                await failed(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.latency.labels(method, route).observe(seconds)
        if status == 429:
            self._metrics.refused.inc()


def _limited(receive: Receive, headers: Headers, limit: int) -> Receive:
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
