"""OpenAI's own clients, Python's and Node's, unchanged: through the proxy they get what they get from the real model's
server directly."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop
from openai import OpenAI

from app.clients.slm.builtin import BuiltinServer, find_model
from tests.e2e.running import RunningService, open_service
from tests.servers import open_folder
from tests.upstream_server import Received, Step, answer, stream, upstream_server

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
    """A chat model's server, and whether it makes tool calls."""

    base_url: str
    key: str
    model: str
    has_tools: bool


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
            yield Backend(server.base_url, server.api_key, server.model, has_tools=False)
        finally:
            do(server.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)


@contextlib.contextmanager
def scripted_backend() -> Iterator[Backend]:
    """A server that knows a few answers by heart."""
    with upstream_server() as server:
        server.script = by_heart
        yield Backend(server.base_url, "sk-scripted", "scripted", has_tools=True)


def by_heart(received: Received) -> Sequence[Step]:
    """Models, three fruits in pieces or whole, a tool call where there are tools, an error for what is no list."""
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
    words = [f" {fruit}" for fruit in ("apple", "pear", "plum", "fig", "date", "lime")]
    if body.get("stream"):
        deltas = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words]
        events: list[dict[str, Any]] = [{"choices": [delta]} for delta in deltas]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": usage})
        lines = [{**head, "object": "chat.completion.chunk", **event} for event in events]
        return stream(*(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines), b"data: [DONE]\n\n")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words)}
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
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
def key(service: RunningService) -> str:
    """A key of the service: these clients always send one."""
    return service.create_key().secret


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
    said: dict[str, Any] = {
        "models": [each.id for each in client.models.list()],
        "whole": [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens],
        "streamed": [event.choices[0].delta.content for event in events if event.choices],
        "usage": [event.usage.total_tokens for event in events if event.usage],
        "tools": [[call.function.name, call.function.arguments] for call in calls],
    }
    for wrong in ({"messages": "not a list"}, {"messages": messages, "response_format": {"type": "json_schema"}}):
        try:
            client.chat.completions.create(model=model, **wrong)
            said.setdefault("errors", []).append(None)
        except openai.APIStatusError as error:
            said.setdefault("errors", []).append([type(error).__name__, error.status_code, error.body])
    return said


def test_the_python_client(service: RunningService, backend: Backend, key: str) -> None:
    """Models, a whole answer, a stream, a tool call and errors: the same both ways, and none of them empty."""
    direct = conversation(OpenAI(base_url=backend.base_url, api_key=backend.key, max_retries=0), backend.model)
    proxied = conversation(OpenAI(base_url=f"{service.base_url}/v1", api_key=key, max_retries=0), backend.model)

    assert proxied == direct
    assert direct["whole"][0]
    assert len(direct["streamed"]) > 5
    assert direct["tools"] == ([["weather", '{"city": "Rome"}']] if backend.has_tools else [])
    assert direct["errors"][0][1] >= 400


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script with the client from npm beside it, as its lock says."""
    folder = Path(__file__).parents[2] / ".cache" / "openai-node"
    folder.mkdir(parents=True, exist_ok=True)
    for path in NODE.iterdir():
        shutil.copy(path, folder)
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed: apt-get install nodejs npm"
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "conversation.mjs"


def test_the_node_client(service: RunningService, backend: Backend, key: str, node_client: Path) -> None:
    """The same conversation in JavaScript."""
    node = shutil.which("node")
    assert node is not None, "node is not installed: apt-get install nodejs"

    def converse(base_url: str, key: str) -> dict[str, Any]:
        command = [node, str(node_client), base_url, key, backend.model]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    direct = converse(backend.base_url, backend.key)
    proxied = converse(f"{service.base_url}/v1", key)

    assert proxied == direct
    assert direct["whole"]["choice"]["message"]["content"]
    assert len(direct["streamed"]["pieces"]) > 5
    assert direct["tools"] == ([["weather", '{"city": "Rome"}']] if backend.has_tools else [])
    assert direct["error"][1] >= 400
