"""How a request comes in: who calls is settled before a body is read, and nothing ambiguous gets further."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.routing import APIRoute, APIRouter, iter_route_contexts
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.api.bounds import bind, concern_of, names_user_in_body
from app.api.deps import authenticate, get_caller
from app.api.outage import KnownCallers
from app.request import set_tenant

_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]*)""", re.IGNORECASE)
JSON = "application/json"
NDJSON = "application/x-ndjson"
_LINES = (NDJSON, "application/ndjson", "application/jsonl", "application/octet-stream", "text/plain", JSON)
"""What a stream of JSON lines goes by. Tools that send files seldom know better, and each line is checked."""


_KNOWN = KnownCallers()


class JsonRequest(Request):
    """A request whose body is JSON in UTF-8 as RFC 8259 has it: no NaN, no halves of characters, no bombs."""

    async def json(self) -> Any:
        """The parsed body. Raises HTTPException (400)."""
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                where = f"line {error.lineno}, column {error.colno}"
                raise HTTPException(400, f"the body is not valid JSON in UTF-8: see {where}") from None
        return self._json


class CheckedRoute(APIRoute):
    """A route that refuses, in this order, before its body is read: a caller without a valid key, a query that
    is not understood, a body of another media type. A key that is bound to one user opens that user alone.

    A route that reads lines of JSON itself says so in `openapi_extra`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the checks."""
        handle = super().get_route_handler()
        names = frozenset(_query_names(self.dependant))
        needs_caller = _depends_on(self.dependant, get_caller)
        media_types = _media_types(self)
        concern, has_query, has_body = concern_of(self), "user_id" in names, names_user_in_body(self)
        is_cancellable: bool = getattr(self.endpoint, "is_cancellable", False)
        is_passed_on: bool = getattr(self.endpoint, "is_passed_on", False)

        identify = _KNOWN.authenticate if is_passed_on else authenticate

        async def checked(request: Request) -> Response:
            caller = await identify(request) if needs_caller else None
            if caller is not None:
                request.state.caller = caller
                set_tenant(caller.tenant_id)
            if not is_passed_on:
                check_query(request, names)
            if media_types:
                check_media_type(request, media_types)
            readable = JsonRequest(request.scope, request.receive)
            if caller is not None:
                await bind(readable, caller, concern, has_query=has_query, has_body=has_body)
            return await (while_connected(handle, readable) if is_cancellable else handle(readable))

        return checked


E = TypeVar("E", bound=Callable[..., Any])


def cancellable(endpoint: E) -> E:
    """Mark an endpoint whose work is in vain when its caller is gone."""
    endpoint.is_cancellable = True  # pyright: ignore[reportFunctionMemberAccess]
    return endpoint


def passed_on(endpoint: E) -> E:
    """Mark an endpoint whose request is another server's to judge, its query too, and which works without our
    database: callers who are known may use it while that is down."""
    endpoint.is_passed_on = True  # pyright: ignore[reportFunctionMemberAccess]
    return endpoint


async def while_connected(handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    """The answer of `handle`, cancelled as soon as the caller hangs up. Raises ClientDisconnect then."""
    await request.body()
    work = asyncio.create_task(handle(request))
    gone = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return when the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def make_router(tag: str, prefix: str = "") -> APIRouter:
    """A router for one file of routes, all of them checked."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=CheckedRoute, redirect_slashes=False)


def check_query(request: Request, names: frozenset[str]) -> None:
    """Raise RequestValidationError for parameters that are unknown or given twice, HTTPException (400) for
    a query that is not UTF-8."""
    raw: bytes = request.scope["query_string"]
    if not raw:
        return
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise HTTPException(400, "the query is not UTF-8") from None
    given = [name for name, _ in request.query_params.multi_items()]
    problems = [("unknown parameter", name) for name in given if name not in names]
    problems += [("given more than once", name) for name in sorted({name for name in given if given.count(name) > 1})]
    if problems:
        raise RequestValidationError([{"type": "query", "loc": ("query", name), "msg": msg} for msg, name in problems])


def check_media_type(request: Request, accepted: Sequence[str]) -> None:
    """Raise HTTPException (415) unless the body, if there is one, says it is one of `accepted`, in UTF-8. Only
    lines may come without saying so."""
    headers = request.headers
    if "transfer-encoding" not in headers and headers.get("content-length", "0") == "0":
        return
    given = headers.get("content-type", NDJSON)
    charsets = {charset.lower() for charset in _CHARSET.findall(given)}
    if given.split(";")[0].strip().lower() not in accepted or charsets - {"utf-8", "utf8"}:
        raise HTTPException(415, f"send the body with the header `Content-Type: {accepted[0]}`")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "send the body without a Content-Encoding")


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """The methods that some route has for a path."""
    methods: set[str] = set()
    for context in iter_route_contexts(app.routes):
        pattern: re.Pattern[str] | None = getattr(context, "path_regex", None)
        if pattern is not None and pattern.match(path):
            methods |= context.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted({*methods, "OPTIONS"}) if methods else []


def _media_types(route: APIRoute) -> tuple[str, ...]:
    if route.body_field is not None:
        return (JSON,)
    extra: dict[str, Any] = route.openapi_extra or {}
    return _LINES if NDJSON in extra.get("requestBody", {}).get("content", ()) else ()


def _depends_on(dependant: Dependant, call: Callable[..., Any]) -> bool:
    return any(below.call is call or _depends_on(below, call) for below in dependant.dependencies)


def _query_names(dependant: Dependant) -> list[str]:
    names = [field.alias for field in dependant.query_params]
    for below in dependant.dependencies:
        names += _query_names(below)
    return names
