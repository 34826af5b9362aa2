"""Chat over HTTP from the unified runtime, in OpenAI's shape: one answer at a time, the others wait their turn."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import orjson
from fastapi import Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.api.embeddings import check_name
from serving.api.errors import request_id_of
from serving.api.routing import ModelDep, answer, make_router
from serving.errors import ModelUnavailable, Overloaded
from serving.llm2vec.schemas import ConversationIn
from serving.runtime import Answer, UnifiedLLMRuntime

_SMOOTHING = 0.2
_FIRST_GUESS_S = 10.0

router = make_router()

T = TypeVar("T")


class Chats:
    """The line of chats before the runtime, and the one thread that writes. Works for one event loop."""

    def __init__(self, runtime: UnifiedLLMRuntime) -> None:
        self._runtime = runtime
        self._places = 1 + runtime.settings.queue
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chat")
        self._mean_s = _FIRST_GUESS_S
        self.in_flight = 0
        """Chats accepted and not yet answered."""

    async def begin(self, body: ConversationIn, request_id: str) -> "Reply":
        """The answer, its first token written. Cancelling the call takes it back.

        Raises Overloaded when too many wait, InvalidInput for a conversation that the model cannot read,
        LLMRuntimeError when it fails.
        """
        if self.in_flight >= self._places:
            wait_s = max(1.0, self._mean_s * self.in_flight / 2)
            raise Overloaded("too many chats wait for the model", retry_after_s=wait_s)
        self.in_flight += 1
        try:
            await self._turn.acquire()
        except BaseException:
            self.in_flight -= 1
            raise
        reply = Reply(self)
        try:
            await reply.begin(self._started(body, request_id))
        except BaseException:
            reply.close()
            raise
        return reply

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns, done by the thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def end(self, reply_answer: Answer | None, took_s: float) -> None:
        """The next one's turn. The answer is closed by the thread that writes it, after the step it is at."""
        if reply_answer is not None:
            self._thread.submit(reply_answer.close)
        self._mean_s += _SMOOTHING * (took_s - self._mean_s)
        self.in_flight -= 1
        self._turn.release()

    def _started(self, body: ConversationIn, request_id: str) -> Callable[[], Answer]:
        return partial(
            self._runtime.stream,
            body.conversation,
            max_new_tokens=body.limit,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            stop=body.stops,
            schema=body.schema_of_answer,
            has_logprobs=bool(body.logprobs),
            request_id=request_id,
        )


class Reply:
    """One answer on its way. Close it, read or not: nobody else gets one until then."""

    def __init__(self, chats: Chats) -> None:
        self._chats = chats
        self._began = time.monotonic()
        self._answer: Answer | None = None
        self._first: list[str] = []
        self._told = 0
        self._is_closed = False

    @property
    def answer(self) -> Answer:
        """What is known of it so far."""
        assert self._answer is not None
        return self._answer

    async def begin(self, start: Callable[[], Answer]) -> None:
        """Read the conversation and write the first token. Raises as the runtime."""

        def keep() -> Answer:
            self._answer = start()  # kept even where nobody waits for it any more
            return self._answer

        found = await self._chats.do(keep)
        while not found.completion_tokens and (piece := await self._next()) is not None:
            self._first.append(piece)

    async def pieces(self) -> AsyncGenerator[str]:
        """The text as it is written. Raises LLMRuntimeError."""
        for piece in self._first:
            if piece:
                yield piece
        while (piece := await self._next()) is not None:
            if piece:
                yield piece

    def logprobs(self) -> dict[str, Any] | None:
        """OpenAI's record of the tokens written since the last one; None where there are none."""
        fresh = self.answer.tokens[self._told :]
        self._told += len(fresh)
        content = [
            {"token": each.text, "logprob": each.logprob, "bytes": list(each.text.encode()), "top_logprobs": []}
            for each in fresh
        ]
        return {"content": content} if content else None

    def close(self) -> None:
        """Write no further."""
        if not self._is_closed:
            self._is_closed = True
            self._chats.end(self._answer, time.monotonic() - self._began)

    async def _next(self) -> str | None:
        return await self._chats.do(partial(next, self.answer, None))


class _Streamed(StreamingResponse):
    """An answer as server-sent events, which ends for the model too when the caller hangs up."""

    def __init__(self, reply: Reply, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()


async def _chats(request: Request) -> Chats:
    return request.app.state.chats


ChatsDep = Annotated[Chats, Depends(_chats)]


@router.post("/v1/chat/completions")
@router.post("/api/v1/chat/completions", operation_id="chat_api")
async def chat_completions(body: ConversationIn, request: Request, model: ModelDep, chats: ChatsDep) -> Response:
    """OpenAI's chat, with `usage`; streamed when asked for."""
    info = (await model.engine()).info
    check_name(body.model, info)
    reply = await chats.begin(body, request_id_of(request))
    frame = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": info.name}
    if body.stream:
        has_usage = body.stream_options is not None and body.stream_options.include_usage
        return _Streamed(reply, _events(reply, frame, has_usage=has_usage))
    try:
        text = "".join([piece async for piece in reply.pieces()])
    finally:
        reply.close()
    message = {"role": "assistant", "content": text}
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": reply.logprobs()}
    choice["finish_reason"] = reply.answer.finish_reason
    return answer({**frame, "object": "chat.completion", "choices": [choice], "usage": _usage(reply.answer)})


async def _events(reply: Reply, frame: dict[str, Any], *, has_usage: bool) -> AsyncGenerator[bytes]:
    """The chunks of a stream; when the model fails midway an error event closes it."""
    frame = {**frame, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": reply.logprobs(), "finish_reason": finish_reason}
        return _event({**frame, "choices": [choice]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async for piece in reply.pieces():
            yield chunk({"content": piece})
    except ModelUnavailable as error:
        yield _event({"error": {"message": str(error), "type": "server_error", "code": 503}})
        return
    yield chunk({}, reply.answer.finish_reason)
    if has_usage:
        yield _event({**frame, "choices": [], "usage": _usage(reply.answer)})
    yield b"data: [DONE]\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def _usage(found: Answer) -> dict[str, int]:
    prompt, completion = found.prompt_tokens, found.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
