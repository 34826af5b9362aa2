"""OpenAI's own clients, Python's and Node's, unchanged: through the proxy they get what they get from the real model's
server directly; with memory on they get that, and the question that may stand in its place."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop
from openai import OpenAI

from app.clients.slm.builtin import BuiltinServer, find_model
from app.domain.clarifying import OPENING
from tests.e2e.running import Key, RunningService, open_service
from tests.servers import open_folder
from tests.upstream_server import Received, Step, UpstreamServer, answer, stream, upstream_server

pytestmark = pytest.mark.slow

NODE = Path(__file__).with_name("node")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}


@dataclass(frozen=True)
class Backend:
    """A chat model's server; the one that answers by heart makes tool calls, and tells what it got."""

    base_url: str
    key: str
    model: str
    by_heart: UpstreamServer | None = None

    @property
    def has_tools(self) -> bool:
        """Whether it makes tool calls."""
        return self.by_heart is not None


@pytest.fixture(scope="module", params=["llama.cpp", "scripted"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The real one, with the packaged model, which makes no tool calls; and one that answers by heart, tool
    calls too."""
    opened = real_backend() if request.param == "llama.cpp" else scripted_backend()
    with opened as server:
        yield server


@contextlib.contextmanager
def real_backend() -> Iterator[Backend]:
    """llama.cpp, in a loop of its own."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=120)

    with open_folder() as folder:
        server = BuiltinServer(find_model(None, Path("/nonexistent")), folder / "slm.log")
        do(server.start())
        try:
            yield Backend(server.base_url, server.api_key, server.model)
        finally:
            do(server.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)


@contextlib.contextmanager
def scripted_backend() -> Iterator[Backend]:
    """A server that knows a few answers by heart."""
    with upstream_server() as server:
        server.script = by_heart
        yield Backend(server.base_url, "sk-scripted", "scripted", server)


def by_heart(received: Received) -> Sequence[Step]:
    """Models, three fruits in pieces or whole, a tool call where there are tools, what a tool gave where it has given
    something, an error for what is no list."""
    if received.line.startswith(b"GET"):
        return answer(
            b'{"object": "list", "data": [{"id": "scripted", "object": "model", "created": 1, "owned_by": "a"}]}'
        )
    body: dict[str, Any] = json.loads(received.body)
    if not isinstance(body["messages"], list) or body.get("response_format"):
        return answer(
            b'{"error": {"message": "that is no chat", "type": "bad", "param": null, "code": "x"}}', status=400
        )
    head = {"id": "c1", "created": 1, "model": "scripted"}
    usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    last = body["messages"][-1]
    words = [f" {fruit}" for fruit in ("apple", "pear", "plum", "fig", "date", "lime")]
    if last["role"] == "tool":
        words = ["It", " is ", last["content"]]
    call: dict[str, Any] = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
    }
    is_called = bool(body.get("tools")) and last["role"] == "user"
    if body.get("stream"):
        pieces: list[dict[str, Any]] = [{"content": word} for word in words]
        if is_called:
            begun = call | {"index": 0, "function": {"name": "weather", "arguments": ""}}
            rest = [{"index": 0, "function": {"arguments": text}} for text in ('{"city":', ' "Rome"}')]
            pieces = [{"role": "assistant", "content": None, "tool_calls": [each]} for each in (begun, *rest)]
        deltas = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
        events: list[dict[str, Any]] = [{"choices": [delta]} for delta in deltas]
        ended = "tool_calls" if is_called else "stop"
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]})
        events.append({"choices": [], "usage": usage})
        lines = [{**head, "object": "chat.completion.chunk", **event} for event in events]
        return stream(*(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines), b"data: [DONE]\n\n")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words)}
    if is_called:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return answer(json.dumps(whole).encode())


@pytest.fixture(scope="module")
def service(backend: Backend) -> Iterator[RunningService]:
    """A service in front of it."""
    with open_service({"UPSTREAM_BASE_URL": backend.base_url, "UPSTREAM_API_KEY": backend.key}) as opened:
        yield opened


@pytest.fixture(scope="module")
def key(service: RunningService) -> Key:
    """A key of the service: these clients always send one."""
    return service.create_key()


def conversation(client: OpenAI, model: str) -> dict[str, Any]:
    """What a conversation with every kind of request gives, without what differs from call to call."""
    plain: dict[str, Any] = {"model": model, "temperature": 0, "seed": 1, "max_tokens": 24}
    messages: list[Any] = [{"role": "user", "content": "Name three fruits."}]
    whole = client.chat.completions.create(messages=messages, **plain)
    streamed = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **plain
    )
    events = list(streamed)
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    called = client.chat.completions.create(
        model=model, messages=asked, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=64
    )  # pyright: ignore[reportCallIssue, reportArgumentType]
    calls = called.choices[0].message.tool_calls or []
    in_pieces: list[Any] = []
    for event in client.chat.completions.create(
        model=model, messages=asked, tools=[TOOL], tool_choice="required", stream=True, temperature=0, max_tokens=24
    ):  # pyright: ignore[reportCallIssue, reportArgumentType]
        for piece in [piece for choice in event.choices for piece in choice.delta.tool_calls or []]:
            in_pieces.append([piece.index, piece.function.name, piece.function.arguments])
    given: list[Any] = []
    if calls:
        turn = called.choices[0].message.model_dump(exclude_none=True)
        result = {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}
        told = client.chat.completions.create(model=model, messages=[*asked, turn, result], tools=[TOOL], max_tokens=24)  # pyright: ignore[reportCallIssue, reportArgumentType]
        given.append(told.choices[0].message.content)
    said: dict[str, Any] = {
        "models": [each.id for each in client.models.list()],
        "whole": [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens],
        "streamed": [event.choices[0].delta.content for event in events if event.choices],
        "usage": [event.usage.total_tokens for event in events if event.usage],
        "tools": [[call.function.name, call.function.arguments] for call in calls],
        "tools in pieces": in_pieces,
        "result": given,
    }
    for wrong in ({"messages": "not a list"}, {"messages": messages, "response_format": {"type": "json_schema"}}):
        try:
            client.chat.completions.create(model=model, **wrong)
            said.setdefault("errors", []).append(None)
        except openai.APIStatusError as error:
            said.setdefault("errors", []).append([type(error).__name__, error.status_code, error.body])
    return said


def test_the_python_client(service: RunningService, backend: Backend, key: Key) -> None:
    """Models, a whole answer, a stream, a tool call, whole and in pieces, its result and errors: the same both ways,
    and none of them empty."""
    direct = conversation(OpenAI(base_url=backend.base_url, api_key=backend.key, max_retries=0), backend.model)
    proxied = conversation(OpenAI(base_url=f"{service.base_url}/v1", api_key=key.secret, max_retries=0), backend.model)

    assert proxied == direct
    assert direct["whole"][0]
    assert len(direct["streamed"]) > 5
    assert direct["tools"] == ([["weather", '{"city": "Rome"}']] if backend.has_tools else [])
    in_pieces = [[0, "weather", ""], [0, None, '{"city":'], [0, None, ' "Rome"}']]
    assert direct["tools in pieces"] == (in_pieces if backend.has_tools else [])
    assert direct["result"] == (["It is sunny"] if backend.has_tools else [])
    assert direct["errors"][0][1] >= 400


def remember(service: RunningService, key: Key, user: str, kind: str, content: str) -> None:
    """Tell the service about a user."""
    with service.client(key) as client:
        memory = {"user_id": user, "type": kind, "content": content}
        assert client.post("/v1/memories", json=memory).status_code == 200


def is_remembered(service: RunningService, key: Key, user: str, text: str) -> bool:
    """Whether a user's memories hold a text by now."""
    with service.client(key) as client:
        return text in client.get("/v1/memory/export", params={"user_id": user}).text


def check_upstream_was_told(backend: Backend, fact: str) -> None:
    """The one that tells what it got was told a fact as a memory."""
    if backend.by_heart is not None:
        assert f"{fact}</memory>" in backend.by_heart.received[-1].body.decode()


def test_memory_by_the_python_client(service: RunningService, backend: Backend, key: Key) -> None:
    """What one conversation says is in the next one's request, for the `user` that the client names."""
    client = OpenAI(base_url=f"{service.base_url}/v1", api_key=key.secret, max_retries=0)

    def ask(text: str) -> Any:
        messages: list[Any] = [{"role": "user", "content": text}]
        return client.chat.completions.with_raw_response.create(
            model=backend.model, messages=messages, user="kim", max_tokens=8
        )

    assert "x-memories-used" not in ask("My dog is called Biscuit. Can you suggest a toy?").headers
    deadline = time.monotonic() + 20
    while not is_remembered(service, key, "kim", "My dog is called Biscuit"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = ask("What is the name of my dog?")

    assert second.headers["x-memories-used"] == "1"
    assert second.parse().choices[0].message.content
    check_upstream_was_told(backend, "My dog is called Biscuit.")


def test_a_question_by_the_python_client(service: RunningService, backend: Backend, key: Key) -> None:
    """It is a completion, and a stream, with a field that the client gives as it does what it does not know; the next
    turn answers it."""
    remember(service, key, "ida", "PREFERENCE", "I write my services in Python with FastAPI")
    client = OpenAI(base_url=f"{service.base_url}/v1", api_key=key.secret, max_retries=0)
    messages: list[Any] = [{"role": "user", "content": "build api"}]

    asked = client.chat.completions.create(model=backend.model, messages=messages, user="ida")
    streamed = list(client.chat.completions.create(model=backend.model, messages=messages, user="ida", stream=True))
    question = asked.choices[0].message.content
    messages += [{"role": "assistant", "content": question}, {"role": "user", "content": "1"}]
    settled = client.chat.completions.with_raw_response.create(
        model=backend.model, messages=messages, user="ida", max_tokens=8
    )

    assert question is not None
    assert question.startswith(OPENING)
    for each in (asked, streamed[0]):
        field = (each.model_extra or {})["embed_service"]
        assert field["decision"] == "ask"
        assert [f"{place}. {one['question']}" in question for place, one in enumerate(field["hypotheses"], 1)] == [
            True
        ] * 3
    assert "".join(event.choices[0].delta.content or "" for event in streamed) == question
    assert settled.headers["x-hypothesis-set-id"]
    assert settled.parse().choices[0].message.content


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripts with the client from npm beside them, as their lock says."""
    folder = Path(__file__).parents[2] / ".cache" / "openai-node"
    folder.mkdir(parents=True, exist_ok=True)
    for path in NODE.iterdir():
        shutil.copy(path, folder)
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed: apt-get install nodejs npm"
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run_node(script: Path, base_url: str, key: str, model: str) -> dict[str, Any]:
    """What a script prints."""
    node = shutil.which("node")
    assert node is not None, "node is not installed: apt-get install nodejs"
    command = [node, str(script), base_url, key, model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_node_client(service: RunningService, backend: Backend, key: Key, node_client: Path) -> None:
    """The same conversation in JavaScript."""
    script = node_client / "conversation.mjs"
    direct = run_node(script, backend.base_url, backend.key, backend.model)
    proxied = run_node(script, f"{service.base_url}/v1", key.secret, backend.model)

    assert proxied == direct
    assert direct["whole"]["choice"]["message"]["content"]
    assert len(direct["streamed"]["pieces"]) > 5
    assert direct["tools"] == ([["weather", '{"city": "Rome"}']] if backend.has_tools else [])
    assert direct["toolPieces"] == ([["weather", '{"city": "Rome"}']] if backend.has_tools else [])
    assert direct.get("result") == ("It is sunny" if backend.has_tools else None)
    assert direct["error"][1] >= 400


def test_memory_and_a_question_by_the_node_client(
    service: RunningService, backend: Backend, key: Key, node_client: Path
) -> None:
    """A remembered fact is in what the upstream gets; a question has its field, whole and streamed."""
    remember(service, key, "nan", "PROFILE", "My cat is called Pixel")
    remember(service, key, "nia", "PREFERENCE", "I write my services in Python with FastAPI")

    said = run_node(node_client / "memory.mjs", f"{service.base_url}/v1", key.secret, backend.model)

    check_upstream_was_told(backend, "My cat is called Pixel")
    assert (said["used"], bool(said["answer"])) == ("1", True)
    assert said["question"].startswith(OPENING)
    assert said["streamed"] == said["question"]
    for field in (said["field"], said["streamedField"]):
        assert field["decision"] == "ask"
        assert all(one["question"] in said["question"] for one in field["hypotheses"])
        assert len(field["hypotheses"]) == 3
