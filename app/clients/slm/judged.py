"""A model as the judge asks it: `JudgedModel`, on a vLLM, for its base model or one of its adapters.

How likely a model finds a given text is asked for token by token: for each, what the model would say next after all
before it, with that token as the only one allowed. The server then reports the log-probability from before the
restriction. `prompt_logprobs` would tell them all in one answer, but on a vLLM with `--enable-lora` it ends the whole
server as soon as another request is computed beside it (https://github.com/vllm-project/vllm/issues/16668).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import Any

import httpx2
import orjson

from app.clients.slm import answers
from app.clients.slm.endpoint import Ask, ChatEndpoint, address_of
from app.domain.errors import ModelUnavailable
from app.ports import JudgedAnswer

BEGINNING = '{"hypotheses":[{"request":"'
"""How every answer begins; the first reading's request follows."""

UNAIDED_TOKENS = 400
UNAIDED_TOKENS_PER_READING = 120
"""How long an answer without a grammar may be: the larger of the two, since a model that is lost goes on for ever."""

CONNECTIONS = 64
CONNECT_S = 5.0

Messages = Sequence[Mapping[str, str]]


class JudgedModel:
    """The Judged port on a vLLM. Connects to nothing yet."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        budget_s: float = 300.0,
        client: httpx2.AsyncClient | None = None,
    ) -> None:
        """`base_url` ends in `/v1`; `model` is the name of the base model or of an adapter that the server has;
        `budget_s` is the most that one question may take; `client` stays open after `aclose`."""
        self.model = model
        self._url = base_url.rstrip("/")
        self._budget_s = budget_s
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx2.Limits(max_connections=CONNECTIONS)
        self._client = client or httpx2.AsyncClient(limits=limits, timeout=httpx2.Timeout(None, connect=CONNECT_S))
        self._owns_client = client is None
        self._endpoint = ChatEndpoint("judge", base_url, model, api_key=api_key, http_client=client)

    async def likelihoods(self, messages: Messages, requests: Sequence[str]) -> list[float]:
        """For each request, as the first reading's, the mean log-probability of its tokens (nats, at most 0)."""
        async with self._within_budget():
            head, *wholes = await asyncio.gather(
                *(self._tokens(messages, BEGINNING + _escaped(text)) for text in ("", *requests))
            )
            starts = [_common(head, whole) for whole in wholes]
            asked = {
                tuple(whole[: place + 1])
                for start, whole in zip(starts, wholes, strict=True)
                for place in range(start, len(whole))
            }
            ordered = sorted(asked, key=len)
            found = dict(zip(ordered, await asyncio.gather(*map(self._logprob, ordered)), strict=True))
        return [
            _mean([found[tuple(whole[: place + 1])] for place in range(start, len(whole))])
            for start, whole in zip(starts, wholes, strict=True)
        ]

    async def answer(self, messages: Messages, count: int) -> JudgedAnswer:
        """The answer with `count` readings that the service would get, at temperature 0."""
        schema = answers.hypotheses_schema(count)
        ask = Ask("hypotheses", messages, answers.most_tokens(schema), 0.0, schema, has_logprobs=True)
        async with self._within_budget():
            completion = await self._endpoint.complete(ask)
        readings = answers.parse(completion.text, answers.Proposals).hypotheses
        return JudgedAnswer(tuple(one.request for one in readings), completion.text, completion.seconds)

    async def is_valid_unaided(self, messages: Messages, count: int) -> bool:
        """Whether an answer has its shape, with `count` readings, where no grammar makes sure of it."""
        most = max(UNAIDED_TOKENS, UNAIDED_TOKENS_PER_READING * count)
        async with self._within_budget():
            completion = await self._endpoint.complete(Ask("unaided", messages, most))
        try:
            return len(answers.parse(completion.text, answers.Proposals).hypotheses) == count
        except ModelUnavailable:
            return False

    async def aclose(self) -> None:
        """Close the connections, unless the client was handed in."""
        if self._owns_client:
            await self._client.aclose()
            await self._endpoint.aclose()

    async def _tokens(self, messages: Messages, begun: str) -> list[int]:
        """The prompt and the beginning of an answer in the model's tokens."""
        question = {
            "model": self.model,
            "messages": [*messages, {"role": "assistant", "content": begun}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        answer = await self._post(f"{self._url.removesuffix('/v1')}/tokenize", question)
        return [int(token) for token in answer["tokens"]]

    async def _logprob(self, tokens: Sequence[int]) -> float:
        """The log-probability of the last token after all before it."""
        *before, last = tokens
        question = {
            "model": self.model,
            "prompt": before,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "allowed_token_ids": [last],
            "ignore_eos": True,
        }
        answer = await self._post(f"{self._url}/completions", question)
        return min(0.0, float(answer["choices"][0]["logprobs"]["token_logprobs"][0]))

    async def _post(self, url: str, question: Mapping[str, Any]) -> Any:
        headers = {**self._headers, "content-type": "application/json"}
        try:
            response = await self._client.post(url, content=orjson.dumps(question), headers=headers)
        except httpx2.HTTPError as error:
            raise self._unavailable(f"cannot be reached ({type(error).__name__})", "unreachable") from error
        if response.status_code != 200:
            raise self._unavailable(f"answered with status {response.status_code}", "refused")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise self._unavailable("sent what is no JSON", "broken_answer") from error

    @asynccontextmanager
    async def _within_budget(self) -> AsyncGenerator[None]:
        """One question: what takes too long, and an answer of another form, is a model that did not answer."""
        try:
            async with asyncio.timeout(self._budget_s):
                yield
        except TimeoutError as error:
            raise self._unavailable(f"did not answer within {self._budget_s:g} s", "timeout") from error
        except (LookupError, TypeError, ValueError) as error:
            raise self._unavailable("sent an answer of another form", "broken_answer") from error

    def _unavailable(self, what: str, cause: str) -> ModelUnavailable:
        return ModelUnavailable(f"the model server at {address_of(self._url)} {what}", cause)


def _escaped(text: str) -> str:
    """A text as it stands inside a JSON string."""
    return orjson.dumps(text).decode()[1:-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common, and at least one left of the other."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return max(0, min(same, len(other) - 1))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
