"""The judge's client against a stand-in for vLLM: what it asks, and what it makes of bad answers."""

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from app.clients.slm.judged import BEGINNING, JudgedModel
from app.domain.errors import ModelUnavailable

MESSAGES = [{"role": "system", "content": "Guess."}, {"role": "user", "content": "build api"}]


def tokens(text: str) -> list[int]:
    """A token for each character, but the head's last one joins a following bracket."""
    return [ord(character) for character in text.replace('"(', "\x01")]


def logprob(before: list[int], last: int) -> float:
    """What the stand-in finds: always the same, and different for every place and token."""
    return -((len(before) * 31 + last) % 17) / 10


class StandIn:
    """Answers /tokenize and /v1/completions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.asked.append((request.url.path, body))
        assert body["model"] == "adapter"
        if request.url.path == "/tokenize":
            assert body["continue_final_message"] is True
            said = "".join(message["content"] for message in body["messages"])
            return httpx2.Response(200, json={"tokens": tokens(said)})
        value = logprob(body["prompt"], body["allowed_token_ids"][0])
        return httpx2.Response(200, json={"choices": [{"logprobs": {"token_logprobs": [value]}}]})


@asynccontextmanager
async def model(
    answer: Callable[[httpx2.Request], httpx2.Response], budget_s: float = 5.0
) -> AsyncIterator[JudgedModel]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        yield JudgedModel("http://model/v1", "adapter", budget_s=budget_s, client=client)


def expected(text: str) -> float:
    """The mean over the tokens of a request after the beginning of the answer."""
    head = tokens("Guess.build api" + BEGINNING)
    whole = tokens("Guess.build api" + BEGINNING + text)
    start = len(head) if whole[: len(head)] == head else len(head) - 1
    values = [logprob(whole[:place], whole[place]) for place in range(start, len(whole))]
    return math.fsum(values) / len(values)


async def test_the_mean_is_over_the_requests_own_tokens() -> None:
    async with model(StandIn()) as judged:
        assert await judged.likelihoods(MESSAGES, ["Plan it", "Write it"]) == pytest.approx(
            [expected("Plan it"), expected("Write it")]
        )


async def test_a_request_stands_as_in_json() -> None:
    async with model(StandIn()) as judged:
        assert await judged.likelihoods(MESSAGES, ['Say "a\\b"']) == pytest.approx([expected('Say \\"a\\\\b\\"')])


async def test_a_token_that_joins_the_beginning_is_counted() -> None:
    async with model(StandIn()) as judged:
        assert await judged.likelihoods(MESSAGES, ["(now)"]) == pytest.approx([expected("(now)")])


async def test_what_readings_have_in_common_is_asked_once() -> None:
    stand_in = StandIn()
    async with model(stand_in) as judged:
        await judged.likelihoods(MESSAGES, ["Plan it", "Plan me"])

    paths = [path for path, _ in stand_in.asked]
    assert paths.count("/tokenize") == 3
    assert paths.count("/v1/completions") == len("Plan it") + len("me")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (httpx2.Response(500), "refused"),
        (httpx2.Response(200, content=b"{"), "broken_answer"),
        (httpx2.Response(200, json={"tokens": ["many"]}), "broken_answer"),
        (httpx2.Response(200, json=[]), "broken_answer"),
    ],
)
async def test_another_answer_is_none(answer: httpx2.Response, cause: str) -> None:
    async with model(lambda _: answer) as judged:
        with pytest.raises(ModelUnavailable) as caught:
            await judged.likelihoods(MESSAGES, ["Plan it"])

    assert caught.value.cause == cause


async def test_a_server_that_is_gone_is_told() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    async with model(refuse) as judged:
        with pytest.raises(ModelUnavailable) as caught:
            await judged.likelihoods(MESSAGES, ["Plan it"])

    assert caught.value.cause == "unreachable"
    assert "http://model/v1" in str(caught.value) or "http://model" in str(caught.value)


def stream(text: str) -> httpx2.Response:
    chunk = {"model": "adapter", "choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    content = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    return httpx2.Response(200, content=content, headers={"content-type": "text/event-stream"})


def said(*requests: str) -> str:
    readings = [{"request": text, "question": f"{text}?", "memories": [], "confidence": 5} for text in requests]
    return json.dumps({"hypotheses": readings})


async def test_an_answer_is_asked_for_as_the_service_does() -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return stream(said("Plan it", "Write it"))

    async with model(answer) as judged:
        found = await judged.answer(MESSAGES, 2)

    assert found.requests == ("Plan it", "Write it")
    assert found.seconds > 0
    assert asked[0]["temperature"] == 0
    assert asked[0]["response_format"]["json_schema"]["schema"]["properties"]["hypotheses"]["maxItems"] == 2


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [(said("Plan it", "Write it"), True), (said("Plan it"), False), ("I think so", False), ('{"hypotheses":[', False)],
)
async def test_validity_is_of_an_answer_without_a_grammar(text: str, is_valid: bool) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return stream(text)

    async with model(answer) as judged:
        assert await judged.is_valid_unaided(MESSAGES, 2) is is_valid

    assert "response_format" not in asked[0]
    assert asked[0]["max_tokens"] == 400
