"""The chat proxy in front of a real vLLM: the official client with tools and errors, and how much of a conversation
its prefix cache finds again, with memory and without a proxy."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.running import RunningService, open_service
from tests.vllm.test_client import metric
from tests.vllm_server import VllmServer

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Porto", "Lisbon"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALLED: Any = {"type": "function", "function": {"name": "weather"}}
PLACES = ("Porto", "Coimbra", "Lisbon", "Evora", "Faro", "Sagres")
ASKED = (
    "Now to {place}. We arrive by train at noon and have a day and a half there, with two children who are tired of "
    "churches, and one of us has to sit at a desk for two hours in the afternoon. What should we see in {place}, in "
    "which order, and where do we eat in the evening?"
)
SAID = (
    "In {place} begin at the river, where the children can run, and take the old tram up to the upper town before the "
    "heat comes. There is a library on the main square with quiet desks and good chairs, so one of you can work there "
    "from two until four while the others look at the market hall, which has fruit, cheese and a man who carves boats. "
    "After that walk along the town wall, which takes an hour with small steps and ends at a park with a fountain. In "
    "the evening the streets behind the theatre are full of small kitchens; take one where the list is written by hand "
    "and the tables stand outside. On the second morning there is only half a day left: keep it for the hill with the "
    "view over all of {place}, and buy bread for the train on the way down to the station."
)
MEMORIES = (
    ("CONSTRAINT", "I never eat fish or seafood, in no restaurant"),
    ("STYLE", "Keep answers short, with a list of places at the end"),
    ("PROFILE", "We travel by train with two children, who are five and eight"),
    ("PREFERENCE", "I like to eat outside in the evening, late and slowly"),
    ("PREFERENCE", "I work best in libraries, at a desk by a window"),
    ("HISTORY", "We were in Lisbon two years ago and saw the castle and the aquarium"),
    ("PREFERENCE", "The children like boats, markets and fountains"),
)
LEAST_RISE = 128
"""Tokens: the largest block that vLLM keeps on a CPU. A turn of the conversation has half as many again and more."""


@dataclass(frozen=True)
class Turn:
    """What vLLM's counters rose by for one request: tokens that were looked up in the prefix cache and found there, and
    how many memories were added to it."""

    queries: float
    hits: float
    memories: int


@pytest.fixture(scope="module")
def service(vllm_server: VllmServer) -> Iterator[RunningService]:
    """The proxy, with rules for its own judgements."""
    with open_service({"SLM_IMPL": "local", "UPSTREAM_BASE_URL": vllm_server.base_url}) as opened:
        yield opened


def converse(client: httpx.Client, server: VllmServer, path: str, **fields: str) -> list[Turn]:
    """A conversation that no cache knows yet, turn by turn: the same words each time, so that what is found again is
    all that differs. One token is answered: nothing but the prompt counts."""
    system = f"Conversation {time.monotonic_ns()}. You are a guide for travellers."
    messages = [{"role": "system", "content": system}]
    turns: list[Turn] = []
    for place in PLACES:
        messages.append({"role": "user", "content": ASKED.format(place=place)})
        before = counters(server)
        body = {"model": server.model, "messages": messages, "max_tokens": 1, "temperature": 0, **fields}
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        queries, hits = (now - then for now, then in zip(counters(server), before, strict=True))
        turns.append(Turn(queries, hits, int(answer.headers.get("x-memories-used", 0))))
        messages.append({"role": "assistant", "content": SAID.format(place=place)})
    return turns


def counters(server: VllmServer) -> tuple[float, float]:
    """Tokens looked up in the prefix cache so far, and found."""
    return metric(server, "vllm:prefix_cache_queries_total"), metric(server, "vllm:prefix_cache_hits_total")


def share(turns: list[Turn]) -> float:
    """Of the tokens of all turns but the first, how many were found again."""
    return sum(turn.hits for turn in turns[1:]) / sum(turn.queries for turn in turns[1:])


def test_a_conversation_with_memory_is_found_again(
    service: RunningService, vllm_server: VllmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With memory on, each turn finds more of the conversation in vLLM's prefix cache than the one before: all but the
    last question and what was recalled for it, which a direct client would find, too. So does each of a user of whom
    nothing is known that holds whatever is asked."""
    with httpx.Client(base_url=vllm_server.root_url, timeout=300) as client:
        direct = converse(client, vllm_server, "/v1/chat/completions")
    with service.client(timeout_s=300) as client:
        for user, left_out in (("ada", set[str]()), ("bea", {"CONSTRAINT", "STYLE"})):
            memories = [{"type": kind, "content": content} for kind, content in MEMORIES if kind not in left_out]
            assert client.post("/v1/memories", json={"user_id": user, "memories": memories}).status_code == 200
        proxied = converse(client, vllm_server, "/v1/chat/completions", user="ada")
        unsteady = converse(client, vllm_server, "/v1/chat/completions", user="bea")

    with capsys.disabled():
        print()
        told = ("directly", "through the proxy, with memory", "the same with nothing that holds whatever is asked")
        for name, turns in zip(told, (direct, proxied, unsteady), strict=True):
            found = ", ".join(f"{turn.hits:.0f} of {turn.queries:.0f}" for turn in turns)
            print(f"prefix cache, {name}: {share(turns):.0%} of the tokens after the first turn ({found})")
    assert all(turn.memories > 0 for turn in proxied)
    assert any(turn.memories > 0 for turn in unsteady)
    for turns in (direct, proxied, unsteady):
        rises = [later.hits - earlier.hits for earlier, later in pairwise(turns[1:])]
        assert all(rise >= LEAST_RISE for rise in rises), turns
    assert min(share(proxied), share(unsteady)) >= 0.6 * share(direct)


def clients(service: RunningService, vllm_server: VllmServer) -> tuple[openai.OpenAI, openai.OpenAI]:
    """The official client, at the model server and at the proxy."""
    ours = service.create_key().secret
    direct = openai.OpenAI(base_url=vllm_server.base_url, api_key="none", timeout=300, max_retries=0)
    return direct, direct.with_options(base_url=f"{service.base_url}/v1", api_key=ours)


def arguments_of(events: Any) -> str:
    """What a stream says of the arguments of its call."""
    said = ""
    for event in events:
        for choice in event.choices:
            for call in choice.delta.tool_calls or ():
                said += call.function.arguments or ""
    return said


@pytest.mark.parametrize("memory", ["off", "on"])
def test_the_official_client_has_a_tool_called_and_tells_its_result(
    service: RunningService, vllm_server: VllmServer, memory: str
) -> None:
    direct, proxied = clients(service, vllm_server)
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Porto?"}]
    given: Any = {"model": vllm_server.model, "temperature": 0, "seed": 1, "max_tokens": 48}
    told: list[str] = []
    streamed: list[str] = []
    answered: list[str] = []
    for client, headers in ((direct, {}), (proxied, {"X-Memory": memory, "X-User-ID": "cleo", "X-Clarify": "off"})):
        ask: Any = partial(client.chat.completions.create, extra_headers=headers, **given)
        called: Any = ask(messages=asked, tools=[TOOL], tool_choice=CALLED).choices[0].message
        (call,) = called.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments), "JSON, whatever so small a model says in it"
        told.append(call.function.arguments)
        events: Any = ask(messages=asked, tools=[TOOL], tool_choice=CALLED, stream=True)
        streamed.append(arguments_of(events))
        result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
        last = ask(messages=[*asked, called.model_dump(exclude_none=True), result])
        answered.append(last.choices[0].message.content)

    assert streamed == told
    assert all(answered)
    if memory == "off":
        assert told[0] == told[1]
        assert answered[0] == answered[1]


def test_the_official_client_sees_the_servers_own_errors(service: RunningService, vllm_server: VllmServer) -> None:
    seen: list[tuple[type[Exception], Any]] = []
    asked: Any = [{"role": "user", "content": "Hello"}]
    for client in clients(service, vllm_server):
        with pytest.raises(openai.APIStatusError) as unknown:
            client.chat.completions.create(model="no-such-model", messages=asked)
        with pytest.raises(openai.APIStatusError) as too_long:
            client.chat.completions.create(model=vllm_server.model, messages=asked, max_tokens=1_000_000)
        seen.append((type(unknown.value), unknown.value.body))
        seen.append((type(too_long.value), too_long.value.body))
    assert seen[:2] == seen[2:]
    assert seen[0][0] is openai.NotFoundError
    assert seen[1][0] is openai.BadRequestError
