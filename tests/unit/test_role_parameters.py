"""A role's parameters are in the requests that a model's server gets: asked of a real one, on a loopback port."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.clients.slm.endpoint import Ask, Dialect, request_body
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VARIED, VLLMClient
from app.domain.sampling import Sampling
from tests.slm_server import MODEL, ModelServer, model_server

CONTEXT = {"memories": [{"type": "PREFERENCE", "content": "I like tea"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[tuple[VLLMClient, dict[str, Sampling]]]:
    """A client, and the parameters of its calls by name; what is not there has none."""
    by_call: dict[str, Sampling] = {}
    made = VLLMClient(
        server.base_url,
        MODEL,
        name="openai",
        limits=Limits(),
        sampling=lambda call: by_call.get(call, by_call.get("", Sampling())),
    )
    server.asked.clear()
    yield made, by_call
    await made.aclose()


async def test_every_judgement_carries_them(
    server: ModelServer, client: tuple[VLLMClient, dict[str, Sampling]]
) -> None:
    slm, by_call = client
    by_call[""] = Sampling(0.7, 0.9, 60, 0.25, -0.5, 7)

    await slm.generate_hypotheses("build api", CONTEXT, 3)
    await slm.compute_facet_updates({"feedback": "too long"})
    await slm.summarize(["one note", "another note"], 50)
    await slm.enrich_context("build api", CONTEXT)
    await slm.generate_followup_questions("build api", count=2, context=CONTEXT)
    await slm.relevances("login", ["I like tea"])

    assert [each.call for each in server.chats()] == [
        "hypotheses",
        "facets",
        "text",
        "enrichment",
        "followups",
        "relevance",
    ]
    for each in server.chats():
        body = each.body
        assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 7)
        assert (body["presence_penalty"], body["frequency_penalty"]) == (0.25, -0.5)
        assert body["max_tokens"] == {"text": 50, "relevance": body["max_tokens"]}.get(each.call, 60)
        assert body["max_tokens"] <= 60


async def test_they_are_asked_for_anew_with_each_call(
    server: ModelServer, client: tuple[VLLMClient, dict[str, Sampling]]
) -> None:
    slm, by_call = client
    for temperature in (0.1, 0.2):
        by_call["hypotheses"] = Sampling(temperature=temperature)
        await slm.generate_hypotheses("build api", CONTEXT, 1)

    assert [each.body["temperature"] for each in server.chats()] == [0.1, 0.2]


async def test_without_them_a_call_keeps_its_own(
    server: ModelServer, client: tuple[VLLMClient, dict[str, Sampling]]
) -> None:
    slm, _ = client
    await slm.generate_hypotheses("build api", CONTEXT, 1)
    await slm.relevances("login", ["I like tea"])

    assert [each.body["temperature"] for each in server.chats()] == [VARIED, 0.0]
    for each in server.chats():
        assert not {"top_p", "presence_penalty", "frequency_penalty", "seed"} & set(each.body)


def test_a_server_that_knows_them_not_gets_them_no_more() -> None:
    ask = Ask("text", [], 10, sampling=Sampling(top_p=0.5, seed=1))
    narrower = Dialect().narrower("unsupported parameter: 'top_p'")

    assert narrower is not None
    assert request_body(ask, Dialect(), "m")["top_p"] == 0.5
    assert not {"top_p", "seed"} & set(request_body(ask, narrower, "m"))
