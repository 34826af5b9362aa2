"""Labels read from servers of every kind: what each is asked, what is made of its answer, and what is remembered."""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2
import pytest

from app import request as served_request
from app.clients.slm import labels as module
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.domain.errors import ModelUnavailable
from app.domain.labels import NONE_OF_THESE
from tests.model_answers import stream_of

CONTEXT = {"memories": [{"type": "PROFILE", "content": "I lead a depot"}]}
TEXTS = ["plan the week of the depot", "plan a holiday"]
LIKELY = {"plan the week of the depot": 0.7, "plan a holiday": 0.1, NONE_OF_THESE: 0.2}
EXPECTED = [math.log(0.7 / 0.2), math.log(0.1 / 0.2)]

Answer = Callable[[Mapping[str, Any]], httpx2.Response]


class Server:
    """A server that has what `has` says, by the end of the path; 404 for all else."""

    def __init__(self, **has: Answer) -> None:
        self.has = has
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.path.rsplit("/", 1)[-1]
        body = json.loads(request.content)
        self.asked.append((name, body))
        return self.has[name](body) if name in self.has else httpx2.Response(404, json={"error": {"message": "no"}})

    def client(self, name: str = "vllm", **more: Any) -> VLLMClient:
        transport = httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))
        return VLLMClient("http://host:1/v1", "m", name=name, limits=Limits(), http_client=transport, **more)

    @property
    def paths(self) -> list[str]:
        return [name for name, _ in self.asked]

    def bodies(self, path: str) -> list[Mapping[str, Any]]:
        return [body for name, body in self.asked if name == path]


def decisions(body: Mapping[str, Any]) -> httpx2.Response:
    answers = [
        {
            "type": "choice",
            "name": each["name"],
            "probabilities": [{"value": c["value"], "probability": LIKELY[c["value"]]} for c in each["choices"]],
        }
        for each in body["questions"]
    ]
    usage = {"input_tokens": 120, "output_tokens": 3}
    return httpx2.Response(200, json={"model": "m", "answers": answers, "usage": usage})


def systemone(body: Mapping[str, Any], mass: float = 0.9) -> httpx2.Response:
    answers = {
        name: {"type": "choice", "probabilities": {text: LIKELY[text] for text in each["criteria"]}}
        for name, each in body["questions"].items()
    }
    diagnostics = {name: {"label_mass": mass, "argmax_is_label": True} for name in answers}
    usage = {"input_tokens": 300, "output_tokens": 3}
    return httpx2.Response(200, json={"answers": answers, "diagnostics": diagnostics, "usage": usage})


def chat(told: Callable[[Mapping[str, str], Mapping[str, Any]], list[tuple[str, float]] | None]) -> Answer:
    """A chat server that tells `told(letter by text, body)` of its first token."""

    def answer(body: Mapping[str, Any]) -> httpx2.Response:
        lines = body["messages"][1]["content"].splitlines()
        letters = {line[3:]: line[0] for line in lines if line[1:3] == ": "}
        found = told(letters, body)
        logprobs = None
        if found is not None:
            top = [{"token": token, "bytes": None, "logprob": value} for token, value in found]
            logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        first = {"index": 0, "delta": {"content": "A"}, "logprobs": logprobs, "finish_reason": None}
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        usage = {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
        events = [{**frame, "choices": [first]}, {**frame, "choices": [last]}, {**frame, "choices": [], "usage": usage}]
        return stream_of([b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)])

    return answer


def likely(letters: Mapping[str, str], _: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(f" {letters[text]}", math.log(0.5 * share)) for text, share in LIKELY.items()] + [("Sure", math.log(0.5))]


def tokenize(body: Mapping[str, Any]) -> httpx2.Response:
    return httpx2.Response(200, json={"tokens": [100 + ord(body["prompt"])], "count": 1})


async def test_decisions_are_asked_for_first_all_orders_in_one_request() -> None:
    server = Server(decisions=decisions)
    made = await server.client().weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.log_odds == pytest.approx(EXPECTED)
    assert (made.way, made.orders, made.mass, made.tokens) == ("decisions", 3, None, 123)
    assert server.paths == ["decisions"]
    (body,) = server.bodies("decisions")
    shown = [[each["value"] for each in question["choices"]] for question in body["questions"]]
    assert shown[0] == [*TEXTS, NONE_OF_THESE]
    assert [each[0] for each in shown] == [*TEXTS, NONE_OF_THESE], "each stands first once"
    assert "depot" in body["input"]


async def test_system_one_comes_next_and_tells_how_sure_it_is_of_labels_at_all() -> None:
    server = Server(systemone=systemone)
    served_request.set_tenant("acme")
    client = server.client()
    made = await client.weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.log_odds == pytest.approx(EXPECTED)
    assert (made.way, made.orders, made.mass, made.tokens) == ("systemone", 3, pytest.approx(0.9), 303)
    assert server.bodies("systemone")[0]["cache_salt"] == "acme"
    await client.weigh("plan week", CONTEXT, TEXTS)
    assert server.paths == ["decisions", "systemone", "systemone"], "what it has not is not asked for again"


async def test_else_one_token_of_a_chat_for_every_order() -> None:
    """Of vLLM, the label's own tokens, however unlikely they are."""
    server = Server(completions=chat(likely), tokenize=tokenize)
    client = server.client()
    made = await client.weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.log_odds == pytest.approx(EXPECTED)
    assert (made.way, made.orders, made.mass, made.tokens) == ("logprobs", 3, pytest.approx(0.5), 153)
    chats = server.bodies("completions")
    assert len(chats) == 3
    for body in chats:
        assert (body["max_tokens"], body["logprobs"]) == (1, True)
        assert body["logprob_token_ids"] == [165, 166, 167]
        assert "top_logprobs" not in body
        assert "response_format" not in body
    await client.weigh("plan week", CONTEXT, TEXTS)
    assert server.paths.count("tokenize") == 3, "labels are looked up once"


async def test_servers_without_vllm_s_fields_tell_the_likeliest_tokens() -> None:
    """A label that is not among them is at most as likely as the last of them."""

    def told(letters: Mapping[str, str], _: Mapping[str, Any]) -> list[tuple[str, float]]:
        return [(letters[TEXTS[0]], math.log(0.8)), ("The", math.log(0.05))]

    server = Server(completions=chat(told))
    made = await server.client("openai", label_orders=2).weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.log_odds == pytest.approx([math.log(0.8 / 0.05), 0.0])
    assert (made.orders, made.mass) == (2, pytest.approx(0.8))
    for body in server.bodies("completions"):
        assert body["top_logprobs"] == 20
        assert "logprob_token_ids" not in body
    assert "tokenize" not in server.paths


async def test_a_server_that_tells_fewer_alternatives_is_asked_for_fewer() -> None:
    def answer(body: Mapping[str, Any]) -> httpx2.Response:
        if body["top_logprobs"] > 5:
            return httpx2.Response(400, json={"error": {"message": "top_logprobs must be at most 5"}})
        return chat(likely)(body)

    server = Server(completions=answer)
    made = await server.client("openai").weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.log_odds == pytest.approx(EXPECTED)


@pytest.mark.parametrize("refusal", [None, "logprobs are not supported by this model"])
async def test_a_server_without_log_probabilities_is_asked_once(refusal: str | None) -> None:
    """Whether it says so or not."""

    def answer(body: Mapping[str, Any]) -> httpx2.Response:
        if refusal is not None and body.get("logprobs"):
            return httpx2.Response(400, json={"error": {"message": refusal}})
        return chat(lambda *_: None)(body)

    server = Server(completions=answer)
    client = server.client("openai")
    assert await client.weigh("plan week", CONTEXT, TEXTS) is None
    asked = len(server.asked)
    assert await client.weigh("plan week", CONTEXT, TEXTS) is None
    assert len(server.asked) == asked


async def test_a_server_is_asked_again_once_it_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_S", 0.0)
    server = Server(systemone=systemone)
    client = server.client()
    await client.weigh("plan week", CONTEXT, TEXTS)
    server.has["decisions"] = decisions
    made = await client.weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.way == "decisions"


async def test_a_server_that_could_not_be_reached_may_be_another_one_by_now() -> None:
    server = Server(systemone=systemone)
    client = server.client()
    await client.weigh("plan week", CONTEXT, TEXTS)

    def lost(_: Mapping[str, Any]) -> httpx2.Response:
        raise httpx2.ConnectError("nobody there")

    server.has["systemone"] = lost
    with pytest.raises(ModelUnavailable, match="reached"):
        await client.weigh("plan week", CONTEXT, TEXTS)
    server.has = {"decisions": decisions}
    made = await client.weigh("plan week", CONTEXT, TEXTS)
    assert made is not None
    assert made.way == "decisions"


async def test_a_model_about_to_say_something_else_has_not_weighed_anything() -> None:
    server = Server(systemone=lambda body: systemone(body, mass=0.01))
    assert await server.client().weigh("plan week", CONTEXT, TEXTS) is None


async def test_readings_that_say_the_same_are_two_options() -> None:
    seen: list[list[str]] = []

    def answer(body: Mapping[str, Any]) -> httpx2.Response:
        names = list(body["questions"]["order0"]["criteria"])
        seen.append(names)
        answers = {name: {"probabilities": dict.fromkeys(names, 0.25)} for name in body["questions"]}
        diagnostics = {name: {"label_mass": 1.0} for name in answers}
        return httpx2.Response(200, json={"answers": answers, "diagnostics": diagnostics})

    made = await Server(systemone=answer).client().weigh("plan week", CONTEXT, ["plan", "plan", "plan"])
    assert made is not None
    assert made.log_odds == pytest.approx([0.0, 0.0, 0.0])
    assert len(set(seen[0])) == 4


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        {"answers": {}, "diagnostics": {}},
        {"answers": {"order0": {"probabilities": {"x": 1}}}, "diagnostics": {"order0": {"label_mass": 1}}},
        {"answers": 7},
    ],
)
@pytest.mark.parametrize("path", ["decisions", "systemone"])
async def test_an_answer_of_another_form_is_none(path: str, document: object) -> None:
    server = Server(**{path: lambda _: httpx2.Response(200, json=document)})
    assert await _cause(server.client().weigh("plan week", CONTEXT, TEXTS)) == "broken_answer"


@pytest.mark.parametrize("probability", [-0.1, 1.5, "many", None])
async def test_what_is_no_probability_is_no_answer(probability: object) -> None:
    def answer(body: Mapping[str, Any]) -> httpx2.Response:
        answers = {
            name: {"probabilities": dict.fromkeys(each["criteria"], probability)}
            for name, each in body["questions"].items()
        }
        return httpx2.Response(200, json={"answers": answers, "diagnostics": {n: {"label_mass": 1} for n in answers}})

    assert await _cause(Server(systemone=answer).client().weigh("plan week", CONTEXT, TEXTS)) == "broken_answer"


async def test_a_busy_server_is_not_taken_for_one_without_decisions() -> None:
    server = Server(decisions=lambda _: httpx2.Response(429, json={"error": {"message": "busy"}}))
    client = server.client()
    assert await _cause(client.weigh("plan week", CONTEXT, TEXTS)) == "busy"
    server.has["decisions"] = decisions
    assert await client.weigh("plan week", CONTEXT, TEXTS) is not None


async def _cause(call: Awaitable[object]) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        await call
    return caught.value.cause
