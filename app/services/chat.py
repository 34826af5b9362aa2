"""The chat proxy: a caller's conversation goes to the upstream, and the upstream's answer to the caller."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from app.domain.chat import Chat, Clarify, Memory, with_additions
from app.domain.chat_answers import question_answer
from app.domain.chat_context import NOTHING, Context, Meant
from app.domain.chat_headers import to_caller
from app.domain.errors import NotReady, StoreUnavailable, UpstreamUnavailable
from app.domain.garbled import Garble, check_of
from app.domain.hypotheses import Turn
from app.domain.remembering import new_turns
from app.ports import Clock, Headers, Upstream, UpstreamAnswer
from app.request import at_most, budget
from app.services.afterwards import Afterwards
from app.services.chat_context import ChatContextService
from app.services.clarifying import ClarifyingService, Settled, assumed, is_worth_asking
from app.services.hypotheses import HypothesisSet
from app.services.remembering import Remembering

log = structlog.get_logger(__name__)

CHATS = Counter("embed_service_chats_total", "Requests passed on to the chat model, by how they ended.", ["outcome"])

ADDED_S = Histogram(
    "embed_service_chat_added_seconds",
    "Seconds that memory and clarifying took before a chat was passed on.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)

PREPARE_S = 5.0
"""Most seconds for which memory and clarifying hold a chat up; it goes on without them then."""

REST_S = 5.0
"""Where they failed, they are left alone for so long: chats are not to wait for a database that is down."""

_UNFIT = frozenset({400, 413, 422})
"""Statuses by which an upstream refuses a request that it cannot take: too long, or of a shape its model has not."""

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

    def __init__(self, answer: UpstreamAnswer, silence: "_Silence", after: Callable[[], None]) -> None:
        self._answer = answer
        self._silence = silence
        self._after = after
        self._check = check_of(answer.status, answer.headers)
        self._is_garbled = False
        self._outcome = "left"
        self.memories = 0
        """How many memories were added to the request."""
        self.recall_id: UUID | None = None
        """Under which id these are written down."""
        self.set_id: UUID | None = None
        """The hypothesis set by which the request was read."""

    @property
    def status(self) -> int:
        """The upstream's status."""
        return self._answer.status

    @property
    def headers(self) -> Headers:
        """Those of the upstream's headers that pass."""
        return to_caller(self._answer.headers)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it comes, looked at when it is gone. Raises UpstreamUnavailable where it breaks off."""
        try:
            async for piece in self._answer.pieces():
                self._silence.heard()
                yield piece
                self._silence.heard()  # the caller may have taken its time
                if self._check is not None:
                    self._note(self._check.take(piece))
        except UpstreamUnavailable as error:
            self._outcome = "broken_off"
            log.warning("upstream_failed", cause=error.cause, has_begun=True)
            raise
        self._outcome = "answered" if self.status < 400 else "refused"

    async def aclose(self) -> None:
        """End the request at the upstream, and begin what comes after it: nothing where the upstream refused, for the
        caller will send the same again."""
        self._silence.end()
        if self._outcome == "left":
            log.info("chat_left", has_begun=True)
        elif self._outcome != "broken_off" and self._check is not None:
            self._note(self._check.end())
        is_garbled = self._is_garbled and self._outcome == "answered"
        CHATS.labels("garbled" if is_garbled else self._outcome).inc()
        try:
            await self._answer.aclose()
        finally:
            if self.status < 400:
                self._after()

    async def drop(self) -> None:
        """End the request as if it had not been."""
        self._silence.end()
        await self._answer.aclose()

    def _note(self, wrong: Garble | None) -> None:
        """Tell the log, once, that the answer is not what it says it is."""
        if wrong is not None:
            self._check = None
            self._is_garbled = True
            log.warning("upstream_garbled", cause=wrong, status=self.status)


def _nothing() -> None:
    """What comes after a request that leaves nothing behind."""


@dataclass(frozen=True)
class Question:
    """A clarifying question in place of an answer: a whole body in OpenAI's shape."""

    body: bytes
    is_stream: bool
    set_id: UUID


@dataclass(frozen=True)
class _Prepared:
    """A chat as it goes on: the body to send, what was added to it, and what is known by now."""

    body: bytes
    context: Context = NOTHING
    settled: Settled | None = None
    known_since: datetime | None = None
    question: Question | None = None
    recall_id: UUID | None = None


class ChatService:
    """Passes chats on, with what is known of their users; whatever of our own fails, the chat goes on without it."""

    def __init__(
        self,
        upstream: Upstream | None,
        context: ChatContextService,
        clarifying: ClarifyingService,
        remembering: Remembering,
        afterwards: Afterwards,
        clock: Clock,
    ) -> None:
        self.upstream = upstream
        self._context = context
        self._clarifying = clarifying
        self._remembering = remembering
        self._afterwards = afterwards
        self._clock = clock
        self._rests_until = 0.0

    async def complete(self, asked: Asked) -> "Passed | Question":
        """The answer to a chat request, as soon as it begins. Raises NotReady without an upstream, UpstreamUnavailable
        where it gives no answer."""
        if self.upstream is None:
            raise NotReady(NO_UPSTREAM)
        prepared = await self._prepare(asked)
        if prepared.question is not None:
            return prepared.question
        path = f"/chat/completions{asked.query}"
        after = partial(self._begin_after, asked, prepared)
        passed = await self._ask("POST", path, asked.headers, prepared.body, after)
        if passed.status in _UNFIT and prepared.body is not asked.body:
            # It may be what was added that does not fit; then the caller gets what they would have got without it.
            log.info("chat_memory_refused", status=passed.status)
            await passed.drop()
            prepared = replace(prepared, body=asked.body, context=NOTHING, recall_id=None)
            passed = await self._ask("POST", path, asked.headers, asked.body, after)
        passed.memories = len(prepared.context.memory_ids)
        passed.recall_id = prepared.recall_id
        passed.set_id = prepared.settled.set_id if prepared.settled is not None else None
        return passed

    async def models(self, headers: Headers, query: str = "") -> "Passed":
        """The upstream's list of models. Raises as `complete`."""
        return await self._ask("GET", f"/models{query}", headers)

    async def _ask(
        self, method: str, path: str, headers: Headers, body: bytes = b"", after: Callable[[], None] = _nothing
    ) -> "Passed":
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
            after()  # what they said, they said
            raise
        return Passed(answer, silence, after)

    async def _prepare(self, asked: Asked) -> _Prepared:
        """What goes to the upstream; what the caller sent, where nothing is to be added or nothing can be."""
        plain = _Prepared(asked.body)
        if asked.chat is None or asked.user_id is None or asked.memory == "off":
            return plain
        if time.monotonic() < self._rests_until:
            return plain
        started = time.perf_counter()
        try:
            with budget(PREPARE_S):
                return await at_most(PREPARE_S, self._prepared(asked, asked.chat, asked.user_id))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours, and no reason to break a chat
            if isinstance(error, StoreUnavailable | TimeoutError):
                self._rests_until = time.monotonic() + REST_S
            log.warning("chat_degraded", cause=type(error).__name__)
        finally:
            ADDED_S.observe(time.perf_counter() - started)
        return plain

    async def _prepared(self, asked: Asked, chat: Chat, user_id: str) -> _Prepared:
        settled = None
        is_on = asked.memory == "on"
        if asked.clarify == "auto":
            settled = await self._clarifying.settle(asked.tenant_id, user_id, chat)
            made = None
            if settled is None:
                made = await self._clarifying.consider(asked.tenant_id, user_id, chat, is_learned=is_on)
            if made is not None and is_worth_asking(made):
                return _Prepared(asked.body, question=self._question(chat, made))
            if made is not None:
                settled = assumed(made, chat.messages[-1].text, is_kept=is_on)
        meant = settled.meant if settled is not None else Meant()
        memory = await self._context.find(asked.tenant_id, user_id, chat, meant, is_recorded=is_on)
        context = memory.context
        body = with_additions(chat, context.additions) if context.additions else asked.body
        return _Prepared(body, context, settled, memory.known_since, recall_id=memory.recall_id)

    def _question(self, chat: Chat, made: HypothesisSet) -> Question:
        CHATS.labels("asked").inc()
        log.info("chat_asked", hypothesis_set_id=str(made.set_id), options=len(made.hypotheses))
        now, version = self._clock.now(), made.calibration_version
        body = question_answer(chat, made.set_id, made.clarification_need, made.hypotheses, now, version)
        return Question(body, chat.is_streamed, made.set_id)

    def _begin_after(self, asked: Asked, prepared: _Prepared) -> None:
        """What comes after the answer, in nobody's way."""
        if asked.chat is None or asked.user_id is None or asked.memory != "on":
            return
        settled = prepared.settled
        turns = new_turns(asked.chat)
        if settled is not None or turns:
            self._afterwards.begin(self._after(asked.tenant_id, asked.user_id, settled, turns, prepared.known_since))

    async def _after(
        self,
        tenant_id: str,
        user_id: str,
        settled: Settled | None,
        turns: Sequence[Turn],
        known_since: datetime | None,
    ) -> None:
        if settled is not None:
            await self._clarifying.record(tenant_id, user_id, settled)
        if turns:
            await self._remembering.remember(tenant_id, user_id, turns, known_since=known_since)


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
