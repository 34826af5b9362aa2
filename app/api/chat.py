"""Routes: OpenAI's chat, passed on to a model server."""

import asyncio
from typing import Any, cast, get_args

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.api.bounds import open_to_bound_keys
from app.api.deps import Caller, ServicesDep, UserCaller, find_user, get_services
from app.api.errors import request_id_of, responses
from app.api.routing import cancellable, disconnected, make_router, passed_on
from app.domain.chat import Chat, Clarify, Memory, read_chat
from app.domain.chat_headers import to_upstream
from app.domain.errors import InvalidInput, UpstreamUnavailable
from app.ports import Headers
from app.services.chat import Asked, Passed, Question

PATH = "/v1/chat/completions"

USED_HEADER = "X-Memories-Used"
"""How many memories were added; left out where none was."""

RECALL_HEADER = "X-Recall-ID"
"""Under which recall they are written down; left out where none is."""

SET_HEADER = "X-Hypothesis-Set-ID"
"""By which hypothesis set an input was read; left out where none was made."""

router = make_router("chat")

_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "title": "ChatCompletionsIn",
                "description": "OpenAI's request. Whatever is in it is passed on.",
                "required": ["model", "messages"],
                "properties": {
                    "model": {"type": "string", "description": "A model of the upstream's."},
                    "messages": {"type": "array", "items": {"type": "object"}},
                    "stream": {"type": "boolean"},
                    "user": {"type": "string", "description": "Whose memory and persona are added."},
                },
                "additionalProperties": True,
            }
        }
    },
}
_HEADERS = [
    {
        "name": "X-User-ID",
        "in": "header",
        "required": False,
        "description": "Names the user, before the body's `user` does.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    },
    {
        "name": "X-Memory",
        "in": "header",
        "required": False,
        "description": "Whether memory is left out, read, or read and written; else CHAT_MEMORY says so.",
        "schema": {"type": "string", "enum": list(get_args(Memory))},
    },
    {
        "name": "X-Clarify",
        "in": "header",
        "required": False,
        "description": "Whether a vague input may be answered by a question; else CHAT_CLARIFY says so.",
        "schema": {"type": "string", "enum": list(get_args(Clarify))},
    },
]
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The upstream's answer.",
        "content": {
            "application/json": {"schema": {"type": "object", "additionalProperties": True}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
_MODELS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The upstream's models.",
        "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
    }
}


@router.post(
    PATH,
    response_class=Response,
    responses=_ANSWER | responses(409, 502),
    openapi_extra={"requestBody": _BODY, "parameters": _HEADERS},
)
@passed_on
@cancellable
@open_to_bound_keys
async def create_chat_completion(request: Request, services: ServicesDep, caller: UserCaller) -> Response:
    """OpenAI's chat: the same conversation, with what is known of the user added. The upstream's errors are passed
    on as they are."""
    answer = await services.chat.complete(await asked(request, caller))
    return _put(answer) if isinstance(answer, Question) else Relayed(answer)


@router.get("/v1/models", response_class=Response, responses=_MODELS | responses(409, 502))
@passed_on
@cancellable
@open_to_bound_keys
async def list_models(request: Request, services: ServicesDep, caller: UserCaller) -> Response:
    """The upstream's models."""
    return Relayed(await services.chat.models(_headers(request), _query(request)))


async def asked(request: Request, caller: Caller) -> Asked:
    """What a caller asks, and for whom; read once. Raises InvalidInput."""
    known: Asked | None = getattr(request.state, "asked", None)
    if known is None:
        settings = get_services(request).settings
        body = await request.body()
        chat = read_chat(body) if request.headers.get("content-encoding", "identity") == "identity" else None
        memory = _mode(request, "X-Memory", get_args(Memory), settings.chat_memory)
        # Whoever only wants to be read is not asked, either, unless they say so.
        clarify = _mode(request, "X-Clarify", get_args(Clarify), settings.chat_clarify if memory == "on" else "off")
        known = request.state.asked = Asked(
            caller.tenant_id,
            find_user(request, caller, _named(chat)),
            body,
            chat,
            _headers(request),
            _query(request),
            memory=cast(Memory, memory),
            clarify=cast(Clarify, clarify),
        )
    return known


def _put(question: Question) -> Response:
    media_type = "text/event-stream" if question.is_stream else "application/json"
    return Response(question.body, headers={SET_HEADER: str(question.set_id)}, media_type=media_type)


def _named(chat: Chat | None) -> str | None:
    return chat.user if chat is not None else None


def _mode(request: Request, header: str, modes: tuple[str, ...], otherwise: str) -> str:
    given = request.headers.get(header, otherwise).strip().lower()
    if given not in modes:
        raise InvalidInput(f"{header} is one of {', '.join(modes)}", header)
    return given


def _headers(request: Request) -> Headers:
    return to_upstream(request.headers.raw, request_id_of(request))


def _query(request: Request) -> str:
    query: bytes = request.scope["query_string"]
    return f"?{query.decode('latin-1')}" if query else ""


class Relayed(Response):
    """An answer that is sent on piece by piece, as it comes. When the caller hangs up, the upstream's request ends;
    where the upstream breaks off, so does this, and the caller can tell."""

    def __init__(self, passed: Passed) -> None:
        self.passed = passed
        self.status_code = passed.status
        self.background = None
        self.raw_headers = list(passed.headers)
        if passed.memories:
            self.raw_headers.append((USED_HEADER.lower().encode(), str(passed.memories).encode()))
        if passed.recall_id is not None:
            self.raw_headers.append((RECALL_HEADER.lower().encode(), str(passed.recall_id).encode()))
        if passed.set_id is not None:
            self.raw_headers.append((SET_HEADER.lower().encode(), str(passed.set_id).encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self.passed.aclose()

    async def _send(self, send: Send) -> None:
        start: dict[str, Any] = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        try:
            async for piece in self.passed.pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except UpstreamUnavailable:
            return  # without an end: the server beneath breaks the connection off
        await send({"type": "http.response.body", "body": b"", "more_body": False})
