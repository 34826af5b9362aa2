"""The chat proxy: a caller's conversation goes to the upstream, and the upstream's answer to the caller."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from app.domain.chat import Chat, Clarify, Memory
from app.domain.chat_headers import to_caller
from app.domain.errors import NotReady, UpstreamUnavailable
from app.ports import Headers, Upstream, UpstreamAnswer
from app.services.afterwards import Afterwards

log = structlog.get_logger(__name__)

CHATS = Counter("embed_service_chats_total", "Requests passed on to the chat model, by how they ended.", ["outcome"])

STALL_S = 30.0
"""An upstream that is silent for so long is told of in the log. It is waited for all the same: the caller knows how
long to wait."""

NO_UPSTREAM = (
    "there is no model server to pass this on to: set UPSTREAM_BASE_URL (and UPSTREAM_API_KEY where it wants one), "
    "or SLM_IMPL to vllm, openai or builtin"
)


@dataclass(frozen=True)
class Asked:
    """A chat request: what the caller sent, for whom it is, and what may be done about it. `chat` is None where the
    body cannot be read, `user_id` where nobody is named: then it is passed on as it is."""

    tenant_id: str
    user_id: str | None
    body: bytes
    chat: Chat | None
    headers: Headers
    query: str = ""
    memory: Memory = "on"
    clarify: Clarify = "auto"


class Passed:
    """An upstream's answer on its way to the caller, who has to close it."""

    def __init__(self, answer: UpstreamAnswer, silence: "_Silence", then: Callable[[], None]) -> None:
        self._answer = answer
        self._silence = silence
        self._then = then
        self._outcome = "left"

    @property
    def status(self) -> int:
        """The upstream's status."""
        return self._answer.status

    @property
    def headers(self) -> Headers:
        """Those of the upstream's headers that pass."""
        return to_caller(self._answer.headers)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it comes. Raises UpstreamUnavailable where it breaks off."""
        try:
            async for piece in self._answer.pieces():
                self._silence.heard()
                yield piece
                self._silence.heard()  # the caller may have taken its time
        except UpstreamUnavailable as error:
            self._outcome = "broken_off"
            log.warning("upstream_failed", cause=error.cause, has_begun=True)
            raise
        self._outcome = "answered" if self.status < 400 else "refused"

    async def aclose(self) -> None:
        """End the request at the upstream, and begin what comes after it."""
        self._silence.end()
        CHATS.labels(self._outcome).inc()
        if self._outcome == "left":
            log.info("chat_left", has_begun=True)
        try:
            await self._answer.aclose()
        finally:
            self._then()


@dataclass(frozen=True)
class ChatService:
    """Passes chats on."""

    upstream: Upstream | None
    afterwards: Afterwards

    async def complete(self, asked: Asked) -> Passed:
        """The answer to a chat request, as soon as it begins. Raises NotReady without an upstream, UpstreamUnavailable
        where it gives no answer."""
        return await self._ask("POST", f"/chat/completions{asked.query}", asked.headers, asked.body)

    async def models(self, headers: Headers, query: str = "") -> Passed:
        """The upstream's list of models. Raises as `complete`."""
        return await self._ask("GET", f"/models{query}", headers)

    async def _ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> Passed:
        if self.upstream is None:
            raise NotReady(NO_UPSTREAM)
        silence = _Silence()
        try:
            answer = await self.upstream.ask(method, path, headers, body)
        except UpstreamUnavailable as error:
            silence.end()
            CHATS.labels("unanswered").inc()
            log.warning("upstream_failed", cause=error.cause, has_begun=False)
            raise
        except asyncio.CancelledError:
            silence.end()
            CHATS.labels("left").inc()
            log.info("chat_left", has_begun=False)
            raise
        return Passed(answer, silence, lambda: None)


class _Silence:
    """Tells the log, once, when an upstream says nothing for STALL_S."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(STALL_S, self._look)

    def heard(self) -> None:
        """Something was heard just now."""
        self._heard = self._loop.time()

    def _look(self) -> None:
        self._timer = None
        left = self._heard + STALL_S - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            log.warning("upstream_stalled", silent_s=STALL_S)

    def end(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
