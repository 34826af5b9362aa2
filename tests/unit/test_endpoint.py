"""What is sent to an OpenAI-compatible server, how its streamed answers are read, and what its errors mean."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app import request
from app.clients.slm.endpoint import MAX_TEXT, Ask, ChatEndpoint, Dialect, address_of, request_body
from app.domain.errors import ModelUnavailable
from tests.model_answers import SERVERS, Reply, ScriptedServer, recorded, refusal, said, stream_of, streamed
from tests.slm_server import model_server

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
ASK = Ask("hypotheses", [{"role": "user", "content": "hello"}], 50, 0.3, SCHEMA, has_logprobs=True)
PLAIN = Ask("summary", [{"role": "user", "content": "hello"}], 50)


def endpoint_on(*replies: Reply, model: str | None = "m", **options: Any) -> tuple[ChatEndpoint, ScriptedServer]:
    server = ScriptedServer(replies)
    return ChatEndpoint("test", "http://host:1/v1", model, http_client=server.client, **options), server


async def cause_of(*replies: Reply, ask: Ask = ASK, **options: Any) -> str:
    """The cause that `complete` fails with."""
    endpoint, _ = endpoint_on(*replies, **options)
    with pytest.raises(ModelUnavailable) as caught:
        await endpoint.complete(ask)
    return caught.value.cause


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("case", ["hypotheses", "facets", "summary", "enrichment", "followups", "relevance"])
async def test_a_recorded_answer_is_read_whole(server: str, case: str) -> None:
    body = recorded(server, case)
    endpoint, _ = endpoint_on(body)

    completion = await endpoint.complete(ASK)

    assert completion.text == said(body) != ""
    assert completion.finish_reason in {"stop", "length"}
    assert completion.model in body.decode()
    counted = {
        name: int(value) for name, value in re.findall(r'"(prompt_tokens|completion_tokens)": ?(\d+)', body.decode())
    }
    assert (completion.prompt_tokens, completion.completion_tokens) == (
        counted["prompt_tokens"],
        counted["completion_tokens"],
    )
    assert completion.seconds >= completion.first_token_s > 0


@pytest.mark.parametrize("server", SERVERS)
async def test_a_recorded_answer_has_a_logprob_for_every_token(server: str) -> None:
    endpoint, _ = endpoint_on(recorded(server, "hypotheses"))

    completion = await endpoint.complete(ASK)

    assert completion.text.encode() in b"".join(token.text for token in completion.tokens)
    assert all(token.logprob <= 0 for token in completion.tokens)
    assert completion.completion_tokens is not None
    assert 0.9 <= len(completion.tokens) / completion.completion_tokens <= 1.1


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_how_the_network_cuts_an_answer_changes_nothing(server: str, size: int) -> None:
    body = recorded(server, "facets")
    whole, _ = endpoint_on(body)
    cut, _ = endpoint_on(stream_of(body[start : start + size] for start in range(0, len(body), size)))

    first, second = await whole.complete(ASK), await cut.complete(ASK)

    assert (first.text, first.tokens, first.finish_reason) == (second.text, second.tokens, second.finish_reason)


async def test_tokens_are_counted_by_kind() -> None:
    usage = {
        "prompt_tokens": 70,
        "completion_tokens": 9,
        "total_tokens": 79,
        "prompt_tokens_details": {"cached_tokens": 48},
    }
    kinds = ("prompt", "cached", "completion")
    before = [figure("embed_service_slm_tokens_total", slm="test", kind=kind) for kind in kinds]
    endpoint, _ = endpoint_on(streamed("{}", usage=usage))

    completion = await endpoint.complete(ASK)

    after = [figure("embed_service_slm_tokens_total", slm="test", kind=kind) for kind in kinds]
    assert [new - old for new, old in zip(after, before, strict=True)] == [70, 48, 9]
    assert (completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens) == (70, 48, 9)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": "9"},
        {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None},
        {"prompt_tokens": 1.5, "completion_tokens": [], "prompt_tokens_details": {"cached_tokens": "x"}},
    ],
)
async def test_counts_that_are_no_counts_are_left_out(usage: dict[str, object]) -> None:
    endpoint, _ = endpoint_on(streamed("{}", usage=usage))

    completion = await endpoint.complete(ASK)

    assert (completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens) == (None, None, None)


async def test_the_body_says_what_the_server_has_to_know() -> None:
    assert request_body(ASK, Dialect(), "m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 50,
        "temperature": 0.3,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "hypotheses", "schema": SCHEMA}},
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    assert {"response_format", "logprobs"}.isdisjoint(request_body(PLAIN, Dialect(), "m"))


async def test_each_tenant_has_a_cache_of_its_own() -> None:
    """vLLM's `cache_salt` keeps prefixes of different tenants apart; without a tenant, and with servers that are not
    vLLM, it is not sent."""

    async def sent(tenant: str | None, *, has_extras: bool = True) -> dict[str, Any]:
        endpoint, server = endpoint_on(streamed("{}"), has_extras=has_extras)
        if tenant:
            request.set_tenant(tenant)
        await endpoint.complete(ASK)
        return server.bodies[0]

    bodies = [await asyncio.create_task(sent(tenant)) for tenant in ("a", "b", "a", None)]
    plain = await asyncio.create_task(sent("a", has_extras=False))

    assert [body.get("cache_salt") for body in bodies] == ["a", "b", "a", None]
    assert {"cache_salt", "chat_template_kwargs"}.isdisjoint(plain)


@pytest.mark.parametrize(("key", "sent"), [("s3cret", "Bearer s3cret"), (None, "Bearer none")])
async def test_the_key_goes_with_every_request(key: str | None, sent: str) -> None:
    endpoint, server = endpoint_on(streamed("{}"), api_key=key, model=None)

    await endpoint.complete(ASK)

    assert [each.headers["authorization"] for each in server.requests] == [sent, sent]


async def test_a_server_that_has_one_model_need_not_be_told() -> None:
    endpoint, server = endpoint_on(streamed("{}"), model=None)

    await endpoint.complete(ASK)
    await endpoint.complete(ASK)

    assert [each.method for each in server.requests] == ["GET", "POST", "POST"]
    assert endpoint.model == "listed-model"
    assert {body["model"] for body in server.bodies} == {"listed-model"}


@pytest.mark.parametrize(
    ("complaint", "changed"),
    [
        ("logprobs are not supported", {"has_logprobs": False}),
        ("Unknown parameter: 'stream_options'", {"has_usage": False}),
        ("cache_salt: extra fields not permitted", {"has_extras": False}),
        ("unknown field chat_template_kwargs", {"has_extras": False}),
        ("'max_tokens' is not supported, use 'max_completion_tokens'", {"tokens_field": "max_completion_tokens"}),
        ("'temperature' does not support 0.3 with this model", {"has_temperature": False}),
        ("response_format json_schema is unavailable", {"structured": "json_object"}),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
async def test_a_dialect_is_learned_from_a_complaint(complaint: str, changed: dict[str, object], status: int) -> None:
    """What a server says no to is not sent again, then or later."""
    endpoint, server = endpoint_on(refusal(status, complaint), streamed("{}"))

    await endpoint.complete(ASK)
    await endpoint.complete(ASK)

    assert endpoint.dialect == Dialect(**changed)  # type: ignore[arg-type]
    assert len(server.bodies) == 3
    assert server.bodies[1] == server.bodies[2] != server.bodies[0]


async def test_a_dialect_is_narrowed_step_by_step() -> None:
    """From a schema over any JSON to plain text, in one call."""
    no = refusal(400, "response_format is not supported")
    endpoint, server = endpoint_on(no, no, refusal(400, "logprobs?"), streamed("{}"))

    await endpoint.complete(ASK)

    kinds = [body.get("response_format", {}).get("type") for body in server.bodies]
    assert kinds == ["json_schema", "json_object", None, None]
    assert endpoint.dialect == Dialect(structured="text", has_logprobs=False)


async def test_a_complaint_teaches_nothing_unless_it_was_meant() -> None:
    """A server may refuse a request for its length and quote a user who speaks of schemas and temperatures."""
    quoting = refusal(400, "too long: 'what temperature has the schema, and which logprobs?'")
    endpoint, server = endpoint_on(*[quoting] * 6)

    with pytest.raises(ModelUnavailable) as caught:
        await endpoint.complete(ASK)

    assert caught.value.cause == "refused"
    assert endpoint.dialect == Dialect()
    assert len(server.bodies) <= 6


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (refusal(400), "refused"),
        (refusal(401), "unauthorised"),
        (refusal(403), "unauthorised"),
        (refusal(404), "unknown_model"),
        (refusal(409), "refused"),
        (refusal(413), "refused"),
        (refusal(429), "busy"),
        (refusal(500), "failed"),
        (refusal(503), "failed"),
        (httpx2.Response(302, headers={"location": "http://elsewhere"}), "refused"),
        (httpx2.ConnectError("refused"), "unreachable"),
        (httpx2.ConnectTimeout("slow"), "unreachable"),
        (httpx2.ReadError("reset"), "reset"),
        (httpx2.RemoteProtocolError("what?"), "reset"),
        (stream_of([b""]), "reset"),
        (stream_of([b"data: [DONE]\n\n"]), "reset"),
        (stream_of([streamed("{}")[:150]]), "reset"),
        (stream_of([streamed("{}")[:250], httpx2.ReadError("reset")]), "reset"),
        (stream_of([b"<html>hello</html>"], "text/html"), "broken_answer"),
        (stream_of([b'{"choices": []}'], "application/json"), "broken_answer"),
        (stream_of([b"data: \xff\xfe\n\n"]), "broken_answer"),
        (stream_of([b"data: {\n\n"]), "broken_answer"),
        (stream_of([b"data: [1]\n\n"]), "broken_answer"),
        (stream_of([b"data: 7\n\n"]), "broken_answer"),
        (stream_of([b'data: {"choices": 7}\n\n']), "broken_answer"),
        (stream_of([b'data: {"choices": [{"delta": null}]}\n\n']), "broken_answer"),
        (stream_of([b'data: {"choices": [{"delta": {"content": 7}}]}\n\n']), "broken_answer"),
        (stream_of([b"data: " + b"[" * 200_000 + b"\n\n"]), "broken_answer"),
        (stream_of([b'data: {"error": {"message": "out of memory"}}\n\n']), "failed"),
        (streamed("x" * (MAX_TEXT + 1)), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_failure_has_a_cause(reply: Reply, cause: str) -> None:
    assert await cause_of(reply) == cause


async def test_an_adapter_that_is_not_there_is_no_unknown_model() -> None:
    """The base model may answer in its place."""
    endpoint, server = endpoint_on(refusal(404))

    with pytest.raises(ModelUnavailable, match="run-1") as caught:
        await endpoint.complete(replace(ASK, model="run-1"))

    assert caught.value.cause == "unknown_adapter"
    assert [body["model"] for body in server.bodies] == ["run-1"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_may_say_when_to_come_back(status: int, given: str, seconds: float | None) -> None:
    endpoint, _ = endpoint_on(refusal(status, retry_after=given))

    with pytest.raises(ModelUnavailable) as caught:
        await endpoint.complete(ASK)

    assert getattr(caught.value, "retry_after_s", None) == seconds


async def test_characters_cut_in_halves_are_joined_and_lone_halves_replaced() -> None:
    """JSON can write half of a character beyond 16 bits; no database takes one."""
    pieces = [
        json.dumps({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": half}}]}).encode()
        for half in ("a", "\ud83d", "\ude80", "b", "\ud83d")
    ]
    end = b'{"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}'
    endpoint, _ = endpoint_on(stream_of(b"data: " + piece + b"\n\n" for piece in [*pieces, end]))

    assert (await endpoint.complete(PLAIN)).text == "a🚀b�"


@pytest.mark.parametrize("logprob", [None, "likely", True])
async def test_a_logprob_that_is_no_number_is_not_one(logprob: Any) -> None:
    token = {"token": "{}", "bytes": None, "logprob": logprob}
    choice = {"index": 0, "delta": {"content": "{}"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()
    endpoint, _ = endpoint_on(stream_of([b"data: " + body + b"\n\n"]))

    (read,) = (await endpoint.complete(ASK)).tokens

    assert read.text == b"{}"
    assert math.isnan(read.logprob) or logprob is True


@pytest.mark.parametrize(
    ("fault", "message"),
    [("gzip_bomb", "compresses"), ("endless_line", "4,194,304 bytes"), ("ten_megabytes", "100,000 characters")],
)
async def test_the_real_pool_stops_reading(fault: str, message: str) -> None:
    """On a socket: nothing compressed is unpacked, and nothing is read without end."""
    with model_server() as server:
        server.fault = fault
        endpoint = ChatEndpoint("test", server.base_url, "tiny-chat")
        try:
            with pytest.raises(ModelUnavailable, match=message):
                await endpoint.complete(ASK)
        finally:
            await endpoint.aclose()
        assert server.chats()[0].headers["accept-encoding"] == "identity"


async def test_no_event_quotes_a_user() -> None:
    """Neither the prompt, nor the answer, nor what the server says of them."""
    secret = "zanzibar"
    ask = Ask("hypotheses", [{"role": "user", "content": secret}], 50, schema=SCHEMA)
    quoting: list[Callable[[], Reply]] = [
        lambda: streamed(secret),
        lambda: refusal(400, f"response_format {secret}"),
        lambda: refusal(500, secret),
        lambda: stream_of([f"data: {secret}\n\n".encode()]),
    ]
    messages: list[str] = []
    with capture_logs() as events:
        for make in quoting:
            endpoint, _ = endpoint_on(make(), make(), make(), streamed(secret))
            try:
                await endpoint.complete(ask)
            except ModelUnavailable as error:
                messages.append(str(error))

    assert events
    assert secret not in str(events)
    assert secret not in str(messages)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("https://user:secret@host/v1?key=secret", "https://host/v1"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert address_of(url) == shown
