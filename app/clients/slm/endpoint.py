"""An OpenAI-compatible chat server: one pooled client, streamed answers, and what each server understands."""

import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import httpx2
import openai
import orjson
import structlog
from openai import AsyncOpenAI
from prometheus_client import Counter, Histogram

from app import request
from app.domain.errors import ModelUnavailable
from app.domain.sampling import Sampling

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""An answer that goes on after this many bytes of HTTP body is broken off. A token is 300 of them, or 2,000 where a
server tells of every alternative."""

MAX_TEXT = 100_000
"""Characters of text after which a model is rambling."""

CONNECT_S = 2.0

FEWER_ALTERNATIVES = 5
"""Alternatives of a token that a server tells that does not tell twenty."""

_UNSUPPORTED = frozenset({405, 410, 415, 501})

_HEADERS = {"Accept-Encoding": "identity"}
_UNSAID = Sampling()

TOKENS = Counter("embed_service_slm_tokens_total", "Tokens by kind: prompt, cached, completion.", ["slm", "kind"])
_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
FIRST_TOKEN = Histogram(
    "embed_service_slm_first_token_seconds", "Seconds to the first token.", ["slm", "call"], buckets=_SECONDS
)
LATENCY = Histogram("embed_service_slm_call_seconds", "Seconds to the whole answer.", ["slm", "call"], buckets=_SECONDS)

Structured = Literal["json_schema", "json_object", "text"]


@dataclass(frozen=True)
class Dialect:
    """What a server understands of what may be sent; narrowed when it says no."""

    structured: Structured = "json_schema"
    has_logprobs: bool = True
    has_usage: bool = True
    has_extras: bool = True
    has_temperature: bool = True
    has_sampling: bool = True
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    has_label_tokens: bool = True
    most_alternatives: int = 20

    def narrower(self, complaint: str) -> "Dialect | None":
        """The dialect without what a server's complaint names; None where it names nothing of it."""
        said = complaint.lower()
        if self.has_label_tokens and "logprob_token_ids" in said:
            return replace(self, has_label_tokens=False)
        if self.most_alternatives > FEWER_ALTERNATIVES and "top_logprobs" in said:
            return replace(self, most_alternatives=FEWER_ALTERNATIVES)
        if self.has_logprobs and "logprob" in said:
            return replace(self, has_logprobs=False)
        if self.has_usage and "stream_options" in said:
            return replace(self, has_usage=False)
        if self.has_extras and any(word in said for word in ("cache_salt", "chat_template_kwargs", "extra")):
            return replace(self, has_extras=False)
        if self.tokens_field == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, tokens_field="max_completion_tokens")
        if self.has_temperature and "temperature" in said:
            return replace(self, has_temperature=False)
        if self.has_sampling and any(word in said for word in ("top_p", "penalty", "seed")):
            return replace(self, has_sampling=False)
        if self.structured != "text" and any(
            word in said for word in ("response_format", "json_schema", "json_object", "schema", "grammar")
        ):
            return replace(self, structured="json_object" if self.structured == "json_schema" else "text")
        return None


@dataclass(frozen=True)
class Ask:
    """One generation. `schema` None asks for plain text, `model` None the model that the endpoint has. What `sampling`
    says goes before `temperature`, and lowers `max_tokens`. `has_alternatives` asks for the log-probabilities of what
    could stand in a token's place: of `label_tokens` where the server can tell of these, else of the likeliest."""

    call: str
    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float = 0.0
    schema: Mapping[str, Any] | None = None
    has_logprobs: bool = False
    model: str | None = None
    sampling: Sampling = _UNSAID
    has_alternatives: bool = False
    label_tokens: tuple[int, ...] = ()

    def with_messages(self, messages: Sequence[Mapping[str, str]]) -> "Ask":
        """The same with other messages."""
        return replace(self, messages=messages)


@dataclass(frozen=True)
class Token:
    """A token of an answer, as bytes, with the log-probability the model gave it, and those of what could stand in its
    place, as far as they were asked for."""

    text: bytes
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """A whole answer. Token counts are None where the server does not report them."""

    text: str
    model: str
    finish_reason: str | None
    seconds: float
    first_token_s: float
    tokens: Sequence[Token] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


class ServerRefused(ModelUnavailable):
    """A failure that says when to come back."""

    def __init__(self, message: str, cause: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, cause)
        self.retry_after_s = retry_after_s


class Unsupported(ModelUnavailable):
    """A server that does not have what was asked for, or not for its model."""


class ChatEndpoint:
    """Streams chat completions from one server through one connection pool."""

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str | None,
        *,
        api_key: str | None = None,
        has_extras: bool = True,
        sampling: Callable[[str], Sampling] | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        """`model` None: the first that the server lists. `has_extras`: the server takes vLLM's own fields. `sampling`
        tells the parameters of a call by its name, each time. `http_client` replaces the pool, for tests."""
        self.name = name
        self.base_url = base_url
        self.model = model
        self._dialect = Dialect(has_extras=has_extras)
        self._sampling = sampling
        timeout = httpx2.Timeout(None, connect=CONNECT_S)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        transport = _LimitedTransport(limits=limits)
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=http_client or httpx2.AsyncClient(transport=transport, timeout=timeout, headers=_HEADERS),
        )

    @property
    def dialect(self) -> Dialect:
        """What the server is known to understand."""
        return self._dialect

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(self, ask: Ask) -> Completion:
        """The whole answer. Raises ModelUnavailable; leaves deadlines and retries to the caller."""
        if self._sampling is not None:
            ask = replace(ask, sampling=self._sampling(ask.call))
        dialect = self._dialect
        while True:
            try:
                completion = await self._complete(ask, dialect)
            except openai.OpenAIError as error:
                # Of a body without `message`, such as a problem document, the error's own text says nothing.
                complaint = f"{error} {getattr(error, 'body', '')}"
                narrower = dialect.narrower(complaint) if _is_about_the_request(error) else None
                if narrower is None:
                    raise _translated(error, ask.model) from error
                dialect = narrower
                continue
            except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
                raise ModelUnavailable("the server sent what is no answer", "broken_answer") from error
            except _Unacceptable as error:
                raise ModelUnavailable(str(error), error.cause) from error
            except httpx2.HTTPError as error:
                raise ModelUnavailable("the connection was lost", "reset") from error
            if dialect != self._dialect:
                # Only now: a complaint may quote the user, who may say "schema"; an answer proves it was meant.
                log.info("slm_dialect_narrowed", slm=self.name, structured=dialect.structured)
                self._dialect = dialect
            self._record(ask, completion)
            return completion

    async def post(self, url: str, document: Mapping[str, Any], call: str) -> Any:
        """What the server answers to a JSON document, at a path behind its address or a whole URL. Raises Unsupported
        where it does not have the path, or not for its model, else as `complete`."""
        started = time.perf_counter()
        try:
            answer: object = await self._client.post(url, body=dict(document), cast_to=object)
        except (openai.BadRequestError, openai.NotFoundError, openai.UnprocessableEntityError) as error:
            raise Unsupported("the server does not have this, or not for its model", "unsupported") from error
        except openai.APIStatusError as error:
            if error.status_code in _UNSUPPORTED:
                raise Unsupported("the server does not have this, or not for its model", "unsupported") from error
            raise _translated(error, None) from error
        except openai.OpenAIError as error:
            raise _translated(error, None) from error
        except (ValueError, RecursionError) as error:
            raise ModelUnavailable("the server sent what is no answer", "broken_answer") from error
        except httpx2.HTTPError as error:
            raise ModelUnavailable("the connection was lost", "reset") from error
        LATENCY.labels(self.name, call).observe(time.perf_counter() - started)
        return answer

    async def served_model(self) -> str:
        """The model that answers where none is asked for. Raises as `complete`."""
        try:
            return self.model or await self._first_model()
        except openai.OpenAIError as error:
            raise _translated(error, None) from error

    async def _complete(self, ask: Ask, dialect: Dialect) -> Completion:
        started = time.perf_counter()
        model = ask.model or self.model or await self._first_model()
        seen = _Answer()
        # The client's own chunks are typed objects; making them takes most of the time that a token costs here.
        create: Any = self._client.chat.completions.with_streaming_response.create
        async with create(**request_body(ask, dialect, model)) as response:
            async for event in _events(response.iter_bytes()):
                seen.add(event, time.perf_counter() - started)
            kind = response.headers.get("content-type", "")
        if seen.finish_reason is None:
            if not kind.startswith("text/event-stream"):
                raise ModelUnavailable("the server sent no stream of events", "broken_answer")
            raise ModelUnavailable("the answer broke off", "reset")
        return Completion(
            text=_joined(seen.parts),
            model=seen.model or model,
            finish_reason=seen.finish_reason,
            seconds=time.perf_counter() - started,
            first_token_s=seen.first_token_s,
            tokens=seen.tokens,
            prompt_tokens=seen.prompt_tokens,
            cached_tokens=seen.cached_tokens,
            completion_tokens=seen.completion_tokens,
        )

    async def _first_model(self) -> str:
        listed = await self._client.models.list()
        if not listed.data:
            raise ModelUnavailable("the server lists no model", "unknown_model")
        self.model = listed.data[0].id
        return self.model

    def _record(self, ask: Ask, completion: Completion) -> None:
        FIRST_TOKEN.labels(self.name, ask.call).observe(completion.first_token_s)
        LATENCY.labels(self.name, ask.call).observe(completion.seconds)
        kinds = ("prompt", completion.prompt_tokens), ("cached", completion.cached_tokens)
        for kind, count in (*kinds, ("completion", completion.completion_tokens)):
            TOKENS.labels(self.name, kind).inc(count or 0)
        log.info(
            "llm_generate",
            call=ask.call,
            slm=self.name,
            model=completion.model,
            seconds=round(completion.seconds, 4),
            first_token_s=round(completion.first_token_s, 4),
            prompt_tokens=completion.prompt_tokens,
            cached_tokens=completion.cached_tokens,
            completion_tokens=completion.completion_tokens,
            finish_reason=completion.finish_reason,
        )


def request_body(ask: Ask, dialect: Dialect, model: str) -> dict[str, Any]:
    """The arguments of the client's call for `ask` in a server's dialect."""
    body: dict[str, Any] = {"model": model, "messages": list(ask.messages), "stream": True}
    sampling = ask.sampling
    body[dialect.tokens_field] = min(ask.max_tokens, sampling.max_tokens or ask.max_tokens)
    if dialect.has_temperature:
        body["temperature"] = ask.temperature if sampling.temperature is None else sampling.temperature
    if dialect.has_sampling:
        names = ("top_p", "presence_penalty", "frequency_penalty", "seed")
        said = {name: getattr(sampling, name) for name in names}
        body |= {name: value for name, value in said.items() if value is not None}
    if dialect.has_usage:
        body["stream_options"] = {"include_usage": True}
    if (ask.has_logprobs or ask.has_alternatives) and dialect.has_logprobs:
        body["logprobs"] = True
    by_token = ask.label_tokens if dialect.has_logprobs and dialect.has_label_tokens and dialect.has_extras else ()
    if ask.has_alternatives and dialect.has_logprobs and not by_token:
        body["top_logprobs"] = dialect.most_alternatives
    if ask.schema is not None and dialect.structured == "json_schema":
        named = {"name": ask.call, "schema": dict(ask.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif ask.schema is not None and dialect.structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    if dialect.has_extras:
        extras: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
        if tenant := request.tenant():
            # One tenant's prefix cache answers no other: how quick an answer comes tells nothing of theirs.
            extras["cache_salt"] = tenant
        if by_token:
            extras["logprob_token_ids"] = list(by_token)
        body["extra_body"] = extras
    return body


@dataclass
class _Answer:
    """A streamed answer as it comes in."""

    parts: list[str] = field(default_factory=list[str])
    length: int = 0
    tokens: list[Token] = field(default_factory=list[Token])
    model: str = ""
    finish_reason: str | None = None
    first_token_s: float = 0.0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None

    def add(self, event: Mapping[str, Any], seconds: float) -> None:
        """Take in one chunk that came `seconds` after the start. Raises what a chunk of another shape raises."""
        if event.get("error"):
            raise ModelUnavailable("the server broke the answer off with an error", "failed")
        self.model = event.get("model") or self.model
        if usage := event.get("usage"):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.completion_tokens = _count(usage.get("completion_tokens"))
            self.cached_tokens = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        choices: Sequence[Any] = event.get("choices") or ()
        for choice in choices:
            text: str = choice.get("delta", {}).get("content") or ""
            if text:
                self.first_token_s = self.first_token_s or seconds
                self.parts.append(text)
                self.length += len(text)
            if self.length > MAX_TEXT:
                raise ModelUnavailable(f"the answer has more than {MAX_TEXT:,} characters", "too_large")
            logprobs: Any = choice.get("logprobs") or {}
            for item in cast(Sequence[Any], logprobs.get("content") or ()):
                raw: bytes = bytes(item["bytes"]) if item.get("bytes") is not None else item["token"].encode()
                others = ((each["token"], _number(each["logprob"])) for each in item.get("top_logprobs") or ())
                self.tokens.append(Token(raw, _number(item["logprob"]), tuple(others)))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON documents of a stream of server-sent events, up to `[DONE]`; the rest is read and left, as is an
    event that breaks off. Raises ValueError or RecursionError for what is no JSON in UTF-8."""
    data: list[bytes] = []
    is_done = False
    async for line in _lines(parts):
        if line.startswith(b"data:"):
            data.append(line[5:])
        elif not line and data:
            text, data = b"\n".join(data).strip(), []
            is_done = is_done or text.startswith(b"[DONE]")
            if not is_done:
                yield _parsed(text)


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, without their ends."""
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # The standard library's parser takes what servers write beside the standard: NaN, halves of characters.
        return json.loads(text)


def _joined(parts: Sequence[str]) -> str:
    """One text of what came in pieces. JSON may split a character in two halves; one without its other is no text."""
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else math.nan


class _Unacceptable(httpx2.HTTPError):
    """A body that is not read on."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class _LimitedTransport(httpx2.AsyncHTTPTransport):
    """Breaks off answers that go on for ever."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body cut off with an error after MAX_ANSWER_BYTES. A compressed one is refused: a few
        of its bytes may become gigabytes."""
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise _Unacceptable("the server compresses its answer, unasked", "broken_answer")
        response.stream = _LimitedStream(cast(httpx2.AsyncByteStream, response.stream))
        return response


class _LimitedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self._stream:
            seen += len(part)
            if seen > MAX_ANSWER_BYTES:
                raise _Unacceptable(f"the answer has more than {MAX_ANSWER_BYTES:,} bytes", "too_large")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _is_about_the_request(error: openai.OpenAIError) -> bool:
    return isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)


def _translated(error: openai.OpenAIError, adapter: str | None) -> ModelUnavailable:
    """A client's error in the words of the domain. What the server says may quote the prompt: it stays out."""
    match error:
        case openai.APITimeoutError():
            return ModelUnavailable("the server did not accept the connection in time", "unreachable")
        case openai.APIConnectionError():
            return _lost(error)
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return ModelUnavailable("the server wants another API key", "unauthorised")
        case openai.NotFoundError() if adapter is not None:
            return ModelUnavailable(f"the server does not have the adapter {adapter}", "unknown_adapter")
        case openai.NotFoundError():
            return ModelUnavailable("the server has no such model, or no such path", "unknown_model")
        case openai.RateLimitError():
            return ServerRefused("the server is busy", "busy", _retry_after_s(error))
        case openai.APIStatusError(status_code=status) if status >= 500:
            return ServerRefused(f"the server answered {status}", "failed", _retry_after_s(error))
        case openai.APIStatusError(status_code=status):
            if "context" in str(error).lower():
                said = "prompt and answer are longer than the model's context: serve it with a longer one"
                return ModelUnavailable(said, "too_long")
            return ModelUnavailable(f"the server refused the request with {status}", "refused")
        case openai.APIError():
            return ModelUnavailable("the server broke the answer off with an error", "failed")
        case _:
            return ModelUnavailable("the server's answer could not be read", "broken_answer")


def _lost(error: openai.APIConnectionError) -> ModelUnavailable:
    cause = error.__cause__
    if isinstance(cause, _Unacceptable):
        return ModelUnavailable(str(cause), cause.cause)
    if isinstance(cause, httpx2.ConnectError):
        return ModelUnavailable("the server cannot be reached", "unreachable")
    return ModelUnavailable("the connection was lost", "reset")


def _retry_after_s(error: openai.APIStatusError) -> float | None:
    given = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        return None


def address_of(base_url: str) -> str:
    """Where a server is, without a user's name or password, for logs and messages."""
    parts = urlsplit(base_url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
