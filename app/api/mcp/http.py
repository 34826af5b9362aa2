"""Route: the protocol over HTTP, behind the same keys as everything else.

Each request is answered by itself, in one JSON document: no session is kept, so any process may answer the next one.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import orjson
from fastapi import Request, Response
from starlette.types import Message

from app.api.bounds import open_to_bound_keys
from app.api.deps import UserCaller, check_origin, resolve_user, services_of_user
from app.api.mcp.tools import Visit
from app.api.routing import JSON, cancellable, check_media_type, make_router

if TYPE_CHECKING:
    from mcp.server import Server

router = make_router("mcp")

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of one message; the service's own limit holds as well."""


@router.post("/mcp", include_in_schema=False)
@cancellable
@open_to_bound_keys
async def answer_mcp(request: Request, caller: UserCaller) -> Response:
    """One message of the Model Context Protocol. Whose memory it is about is the key's user, else X-User-ID's; no
    argument of a tool is asked."""
    check_origin(request)
    check_media_type(request, (JSON,))

    async def find_visit() -> Visit:
        user_id = resolve_user(request, caller)
        services = await services_of_user(request, caller.tenant_id, user_id)
        return Visit(services, replace(caller, user_id=user_id))

    build_server = await asyncio.to_thread(_load)
    return await _exchange(build_server(find_visit), request)


def _load() -> Any:
    """The SDK costs a second and is loaded when the first message comes."""
    from app.api.mcp.server import build_server  # noqa: PLC0415

    return build_server


async def _exchange(server: "Server[Any]", request: Request) -> Response:
    """The SDK's answer to one request."""
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager  # noqa: PLC0415

    body = await request.body()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answered: list[Message] = []

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        answered.append(message)

    manager = StreamableHTTPSessionManager(
        server, json_response=True, stateless=True, max_request_body_size=MAX_BODY_BYTES
    )
    async with manager.run():
        await manager.handle_request(request.scope, receive, send)
    start, *rest = answered
    status: int = start["status"]
    content = _plain(b"".join(message.get("body", b"") for message in rest), status)
    return Response(content, status, media_type=JSON if content else None)


def _plain(content: bytes, status: int) -> bytes:
    """An answer as it is, unless the SDK tells at length how its validator failed to read the message."""
    try:
        document: Any = orjson.loads(content) if status >= 400 else {}
    except orjson.JSONDecodeError:
        return content
    error: dict[str, Any] = cast(dict[str, Any], document).get("error", {}) if isinstance(document, dict) else {}
    if not str(error.get("message", "")).startswith(("Validation error", "Parse error")):
        return content
    error["message"] = "this is no message of the Model Context Protocol: see its specification"
    return orjson.dumps(document)
