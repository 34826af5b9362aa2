"""The judgements of a model: asked for over a transport that replays what real servers answered."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from app import request
from app.clients.slm.resilience import FAILURES, Limits
from app.clients.slm.vllm import ModelHypothesis, VLLMClient, limits_of
from app.domain.errors import ModelUnavailable
from app.domain.instructions import PROMPT_VERSION, RERANK_BATCH
from app.domain.persona import DEFAULT_FACETS
from app.settings import Settings
from tests.model_answers import (
    SERVERS,
    Reply,
    ScriptedServer,
    answering,
    reading,
    recorded,
    refusal,
    said,
    stream_of,
    streamed,
)
from tests.slm_server import RUSSIAN

CONTEXT = {"memories": [{"type": "PREFERENCE", "content": f"memory {number}"} for number in range(3)]}
QUESTION = "Do you want me to build a REST API for the service?"


def client_on(*replies: Reply, model: str | None = "m", **limits: float) -> tuple[VLLMClient, ScriptedServer]:
    server = ScriptedServer(replies)
    made = Limits(**limits)  # type: ignore[arg-type]
    return VLLMClient("http://host:1/v1", model, name="test", limits=made, http_client=server.client), server


async def hypotheses_of(*replies: Reply, count: int = 3, text: str = "build api") -> list[ModelHypothesis]:
    client, _ = client_on(*replies)
    return await client.generate_hypotheses(text, CONTEXT, count)


async def cause_of(call: Awaitable[object]) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        await call
    return caught.value.cause


CALLS: Mapping[str, Callable[[VLLMClient], Awaitable[object]]] = {
    "hypotheses": lambda client: client.generate_hypotheses("build api", CONTEXT, 3),
    "facets": lambda client: client.compute_facet_updates({"feedback": "too long"}),
    "summary": lambda client: client.summarize(["one note", "another note"], 50),
    "enrichment": lambda client: client.enrich_context("build api", CONTEXT),
    "followups": lambda client: client.generate_followup_questions("build api", count=2, context=CONTEXT),
    "relevance": lambda client: client.relevances("login", ["I like tea", "We use JWT tokens for login"]),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("case", ["hypotheses", "hypotheses_french"])
async def test_recorded_hypotheses_are_read(server: str, case: str) -> None:
    body = recorded(server, case)
    written = json.loads(said(body))["hypotheses"]

    made = await hypotheses_of(body, text="crée un tableau de bord" if "french" in case else "build api")

    assert [one.question for one in made] == list(dict.fromkeys(each["question"] for each in written))[:3]
    for one, each in zip(made, written, strict=False):
        assert one.memories == tuple(number - 1 for number in dict.fromkeys(each["memories"]) if 0 < number <= 3)
        assert one.mean_logprob is not None
        assert one.mean_logprob < 0.0
        assert 0 < one.confidence < 1
    assert sum(one.confidence for one in made) < 1


@pytest.mark.parametrize("server", SERVERS)
async def test_recorded_judgements_of_every_kind_are_read(server: str) -> None:
    async def judged(case: str, call: str | None = None) -> Any:
        client, _ = client_on(recorded(server, case))
        return await CALLS[call or case](client)

    deltas = await judged("facets")
    assert set(deltas) <= set(DEFAULT_FACETS)
    assert all(0 < abs(delta) <= 0.2 for delta in deltas.values())
    enrichment = (await judged("enrichment"))["enrichment"]
    assert enrichment.keys() == {"implicit_goals", "inferred_expertise_level", "next_steps"}
    assert 1 <= len(await judged("followups")) <= 2
    assert len(await judged("relevance")) == 2
    assert len(await judged("summary")) > 20
    assert (await judged("summary_cut", "summary")).endswith(".")


@calls
async def test_a_call_names_its_task_and_wants_its_shape(call: Callable[[VLLMClient], Awaitable[object]]) -> None:
    """The system part is the same whatever is asked, and shapes are asked for by schema."""
    client, server = client_on(refusal(500))
    for _ in range(2):
        await cause_of(call(client))

    body = server.bodies[0]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert len({each["messages"][0]["content"] for each in server.bodies}) == 1
    assert body["model"] == "m"
    assert body["stream"] is True
    assert 0 < body["max_tokens"] < 2000
    schema = body.get("response_format", {}).get("json_schema", {})
    assert schema.get("name", "summary") in CALLS


async def test_a_confidence_that_the_model_wrote_counts_nothing() -> None:
    sure, unsure = reading("Do you want a REST API?", 1, confidence=95), reading("Do you want an app?", confidence=5)

    first, second = await hypotheses_of(answering(hypotheses=[sure, unsure]))

    assert first.mean_logprob is None
    assert first.confidence == second.confidence
    assert first.confidence + second.confidence < 1


@pytest.mark.parametrize(("logprob", "mean"), [(-0.4, -0.4), (-0.1, -0.1), (-50.0, -50.0), (3.0, 0.0)])
async def test_how_likely_its_words_are_is_told(logprob: float, mean: float) -> None:
    text = json.dumps({"hypotheses": [reading(QUESTION)]})

    (made,) = await hypotheses_of(streamed(text, logprob=logprob))

    assert made.mean_logprob == pytest.approx(mean)


@pytest.mark.parametrize("logprob", [math.nan, math.inf, -math.inf])
async def test_logprobs_that_are_no_numbers_say_nothing(logprob: float) -> None:
    text = json.dumps({"hypotheses": [reading(QUESTION)]})

    (made,) = await hypotheses_of(streamed(text, logprob=logprob))

    assert made.mean_logprob is None
    assert 0 < made.confidence < 1


async def test_memories_out_of_range_and_twice_are_left_out() -> None:
    (made,) = await hypotheses_of(answering(hypotheses=[reading(QUESTION, 3, 0, -1, 4, 99, 1, 3, 10**18)]))

    assert made.memories == (2, 0)


async def test_a_question_asked_twice_counts_once() -> None:
    twice = [reading("Do you want an API?", 1), reading("do you want an api?", 2), reading("Do you want an app?")]

    made = await hypotheses_of(answering(hypotheses=twice))

    assert [(one.question, one.memories) for one in made] == [
        ("Do you want an API?", (0,)),
        ("Do you want an app?", ()),
    ]


async def test_no_more_are_given_than_asked_for() -> None:
    many = [reading(f"Do you want number {number}?") for number in range(9)]

    assert len(await hypotheses_of(answering(hypotheses=many), count=2)) == 2


async def test_json_among_other_words_counts() -> None:
    text = f"Sure!\n```json\n{json.dumps({'hypotheses': [reading(QUESTION)]})}\n```\nEnjoy."

    (made,) = await hypotheses_of(streamed(text))

    assert made.question == QUESTION


@pytest.mark.parametrize("first", ["I would rather talk.", '{"answers": []}', '{"hypotheses": [', ""])
async def test_a_wrong_answer_may_be_repaired_once(first: str) -> None:
    """The model sees what it said and the schema it should have kept to."""
    client, server = client_on(streamed(first), answering(hypotheses=[reading(QUESTION)]))

    (made,) = await client.generate_hypotheses("build api", CONTEXT, 3)

    assert made.question == QUESTION
    assert len(server.bodies) == 2
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.bodies[1]["messages"][:2] == server.bodies[0]["messages"]
    assert server.bodies[1]["messages"][2]["content"] == first
    assert '"hypotheses"' in server.bodies[1]["messages"][3]["content"]


@pytest.mark.parametrize(
    ("text", "cause"), [("no", "broken_answer"), ('{"answers": []}', "wrong_shape"), ("[]", "wrong_shape")]
)
async def test_a_second_wrong_answer_is_the_last(text: str, cause: str) -> None:
    client, server = client_on(streamed(text))

    assert await cause_of(client.generate_hypotheses("build api", CONTEXT, 3)) == cause

    assert len(server.bodies) == 2


async def test_an_answer_that_ran_out_of_tokens_is_not_asked_for_again() -> None:
    """It would run out again."""
    client, server = client_on(streamed('{"hypotheses": [{"question": "Do', finish_reason="length"))

    assert await cause_of(client.generate_hypotheses("build api", CONTEXT, 3)) == "broken_answer"

    assert len(server.bodies) == 1


@pytest.mark.parametrize("call", ["hypotheses", "enrichment", "followups", "summary"])
async def test_an_answer_in_another_language_is_none(call: str) -> None:
    texts = {
        "hypotheses": {"hypotheses": [reading(RUSSIAN)]},
        "enrichment": {"implicit_goals": [RUSSIAN], "inferred_expertise_level": "expert", "next_steps": [RUSSIAN]},
        "followups": {"questions": [RUSSIAN]},
    }
    client, _ = client_on(answering(**texts[call]) if call in texts else streamed(RUSSIAN))

    assert await cause_of(CALLS[call](client)) == "wrong_language"


@pytest.mark.parametrize(
    ("wishes", "deltas"),
    [
        ({"concise": "much more", "formal": "same"}, {"concise": 0.16}),
        ({"concise": "less", "code_first": "much less"}, {"concise": -0.08, "code_first": -0.16}),
        ({"concise": "same", "unheard_of": "more"}, {}),
        ({}, {}),
    ],
)
async def test_facets_move_by_bounded_steps(wishes: dict[str, str], deltas: dict[str, float]) -> None:
    client, _ = client_on(answering(facets=wishes))

    assert await client.compute_facet_updates({"feedback": "too long"}) == deltas


async def test_only_the_facets_there_are_are_asked_about() -> None:
    client, server = client_on(answering(facets={"playful": "more"}))

    assert await client.compute_facet_updates({"feedback": "ha"}, {"playful": 0.5}) == {"playful": 0.08}

    schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]["facets"]["properties"]) == ["playful"]


@pytest.mark.parametrize(
    ("text", "finish_reason", "summary"),
    [
        (" One note. Two notes. ", "stop", "One note. Two notes."),
        ("One note. Two notes and", "length", "One note."),
        ("One note! Python 3.11 is", "length", "One note!"),
        ("It moved to version 3.11 on", "length", "It moved to version 3.11 on"),
        ("会議は月曜日です。場所は", "length", "会議は月曜日です。"),
        ("One\x00note.", "stop", "One note."),
    ],
)
async def test_a_summary_ends_with_a_sentence(text: str, finish_reason: str, summary: str) -> None:
    client, server = client_on(streamed(text, finish_reason=finish_reason))

    assert await client.summarize(["会議は月曜日です。" if "会" in text else "one note, two notes"], 40) == summary

    assert server.bodies[0]["max_tokens"] == 40
    assert "response_format" not in server.bodies[0]


@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
async def test_an_empty_summary_is_none(text: str) -> None:
    client, _ = client_on(streamed(text))

    assert await cause_of(client.summarize("note", 40)) == "wrong_shape"


async def test_followups_are_different_and_no_more_than_asked() -> None:
    questions = ["Which cloud is it?", "Which cloud is it?", "Which region is it?", "Who pays for it?"]
    client, _ = client_on(answering(questions=questions))

    assert await client.generate_followup_questions("deploy", count=2) == questions[1:3]


@dataclass(frozen=True)
class Noted:
    content: str


@dataclass(frozen=True)
class Placed:
    memory: Noted


@pytest.mark.parametrize("wrap", [str, lambda text: {"content": text}, Noted, lambda text: Placed(Noted(text))])
async def test_memories_of_any_form_are_ordered_by_relevance(wrap: Callable[[str], object]) -> None:
    """The most relevant first; equals keep their order."""
    memories = [wrap(text) for text in ("a", "b", "c", "d")]
    client, _ = client_on(answering(relevance=[2, 9, 2, 10]))

    ordered = await client.rerank_by_relevance("q", memories)

    assert ordered == [memories[place] for place in (3, 1, 0, 2)]


async def scores_in_order(asked: httpx2.Request) -> httpx2.Response:
    """Scores every document `n` with n mod 10; the later batches answer first."""
    prompt = json.loads(asked.content)["messages"][1]["content"]
    numbers = [int(line.split(">")[1].split("<")[0]) for line in prompt.splitlines() if line.startswith("<document")]
    await asyncio.sleep(0.05 / (1 + numbers[0]))
    return stream_of([answering(relevance=[number % 10 for number in numbers])])


async def test_many_documents_go_in_batches_and_keep_their_places() -> None:
    client, server = client_on(scores_in_order)
    count = 2 * RERANK_BATCH + 3

    relevances = await client.relevances("q", [str(number) for number in range(count)])

    assert relevances == [number % 10 / 10 for number in range(count)]
    assert len(server.bodies) == 3
    assert await client.relevances("q", []) == []


@pytest.mark.parametrize("given", [[1], [1, 2, 3], []])
async def test_another_number_of_scores_is_the_wrong_shape(given: list[int]) -> None:
    client, _ = client_on(answering(relevance=given))

    assert await cause_of(client.relevances("q", ["a", "b"])) == "wrong_shape"


async def test_a_batch_that_fails_ends_the_others() -> None:
    cancelled: list[bool] = []

    async def hang(_: httpx2.Request) -> httpx2.Response:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError("it was not cancelled")

    client, _ = client_on(hang, refusal(400))

    assert await cause_of(client.relevances("q", ["a"] * (RERANK_BATCH + 1))) == "refused"

    assert cancelled == [True]


async def test_a_reranking_in_batches_can_close_the_breaker() -> None:
    """While it is half open calls go one at a time, so its batches do too."""
    client, _ = client_on(*[refusal(500)] * 2 * FAILURES, scores_in_order, reset_s=0.05)
    for _ in range(FAILURES):
        await cause_of(client.summarize("note", 40))
    assert client.state == "open"
    await asyncio.sleep(0.1)

    await client.relevances("q", [str(number) for number in range(3 * RERANK_BATCH)])

    assert client.state == "closed"


@pytest.mark.parametrize("reply", [refusal(500), refusal(429), httpx2.ReadError("reset"), httpx2.ConnectError("no")])
async def test_a_failure_that_may_pass_is_tried_again(reply: Reply) -> None:
    client, server = client_on(reply, answering(hypotheses=[reading(QUESTION)]))

    (made,) = await client.generate_hypotheses("build api", CONTEXT, 3)

    assert made.question == QUESTION
    assert server.bodies[0] == server.bodies[1]


async def test_a_connection_lost_in_the_middle_is_tried_again() -> None:
    whole = answering(hypotheses=[reading(QUESTION)])
    client, server = client_on(stream_of([whole[:400], httpx2.ReadError("reset")]), whole)

    await client.generate_hypotheses("build api", CONTEXT, 3)

    assert len(server.bodies) == 2


async def test_the_loser_of_a_hedge_is_hung_up_on() -> None:
    """The second call answers; the first one's stream is closed, which frees the server."""
    closed: list[bool] = []

    class Silent(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b": wait\n\n"
            await asyncio.sleep(30)

        async def aclose(self) -> None:
            closed.append(True)

    slow = httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Silent())
    client, server = client_on(slow, answering(hypotheses=[reading(QUESTION)]), hedge_s=0.05)

    (made,) = await client.generate_hypotheses("build api", CONTEXT, 3)

    assert made.question == QUESTION
    assert len(server.bodies) == 2
    assert closed == [True]


@calls
async def test_only_model_unavailable_comes_out(call: Callable[[VLLMClient], Awaitable[object]]) -> None:
    """Whatever a server says, in whichever call."""
    oddities: list[Callable[[], Reply]] = [
        lambda: refusal(418),
        lambda: httpx2.Response(200, text="hello"),
        lambda: httpx2.Response(204),
        lambda: httpx2.Response(500, content=b"\xff\xfe"),
        lambda: stream_of([b"data: null\n\n"]),
        lambda: stream_of([b'data: {"choices": [{}]}\n\n']),
        lambda: stream_of([b"event: error\ndata: x\n\n"]),
        lambda: streamed('{"\ud800": 1}'),
        lambda: streamed("null"),
        lambda: streamed("1e999"),
        lambda: httpx2.DecodingError("what?"),
        lambda: httpx2.PoolTimeout("full"),
    ]
    for make in oddities:
        client, _ = client_on(make(), make())
        with contextlib.suppress(ModelUnavailable):
            await call(client)


@calls
async def test_no_event_quotes_anybody(call: Callable[[VLLMClient], Awaitable[object]]) -> None:
    secrets = ("build api", "memory 1", "too long", "one note", "JWT", QUESTION)
    document = {
        "hypotheses": [reading(QUESTION)],
        "facets": {"concise": "more"},
        "implicit_goals": [QUESTION],
        "inferred_expertise_level": "expert",
        "next_steps": [QUESTION],
        "questions": [QUESTION],
        "relevance": [1, 2],
    }
    with capture_logs() as events:
        client, _ = client_on(streamed("no"), answering(**document))
        await call(client)
        failing, _ = client_on(refusal(400, f"response_format? {' '.join(secrets)}"), streamed("{}"))
        await asyncio.gather(call(failing), return_exceptions=True)

    assert {event["event"] for event in events} >= {"llm_generate"}
    assert not [secret for secret in secrets if secret in str(events)]


async def test_each_judgement_says_what_made_it_and_how_long_it_took() -> None:
    with capture_logs() as events:
        client, _ = client_on(answering(hypotheses=[reading(QUESTION)]))
        await client.generate_hypotheses("build api", CONTEXT, 3)

    (event,) = [event for event in events if event["event"] == "vllm_hypotheses_generated"]
    assert event == {
        "event": "vllm_hypotheses_generated",
        "log_level": "info",
        "slm": "test",
        "model": "made-up",
        "prompt_version": PROMPT_VERSION,
        "seconds": event["seconds"],
        "count": 1,
    }


async def test_the_tenant_of_the_request_salts_the_cache() -> None:
    async def salt(tenant: str) -> str:
        request.set_tenant(tenant)
        client, server = client_on(answering(hypotheses=[reading(QUESTION)]))
        await client.generate_hypotheses("build api", CONTEXT, 3)
        return server.bodies[0]["cache_salt"]

    assert [await asyncio.create_task(salt(name)) for name in ("one", "two")] == ["one", "two"]


async def test_settings_say_what_the_caller_does_not() -> None:
    values = {"vllm_base_url": "http://elsewhere:9/v1", "vllm_model_name": "big", "slm_api_key": "s3cret"}
    settings = Settings(_env_file=None, slm_concurrency=3, slm_hedge_s=0.5, request_budget_s=4.0, **values)  # type: ignore[arg-type]
    server = ScriptedServer([streamed("A gist.")])

    client = VLLMClient(settings=settings, http_client=server.client)
    await client.summarize("note", 40)

    assert (client.model, client.address) == ("big", "http://elsewhere:9/v1")
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"
    assert server.requests[0].url.host == "elsewhere"
    assert limits_of(settings) == Limits(4.0, 3, 0.5, 10.0)


async def test_without_any_argument_it_is_the_documents_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BASE_URL", "http://there:8/v1")
    monkeypatch.setenv("VLLM_MODEL_NAME", "some/model")

    client = VLLMClient()

    assert (client.address, client.model, client.state) == ("http://there:8/v1", "some/model", "closed")
    await client.aclose()
