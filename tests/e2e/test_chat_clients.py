"""OpenAI's own clients, Python's and Node's, unchanged: through the proxy they get what they get from the real model's
server directly."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop
from openai import OpenAI

from app.clients.slm.builtin import BuiltinServer, find_model
from tests.e2e.running import RunningService, open_service
from tests.servers import open_folder

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


@pytest.fixture(scope="module")
def model() -> Iterator[BuiltinServer]:
    """llama.cpp with the packaged model, in a loop of its own."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def do(work: Any) -> None:
        import asyncio

        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=120)

    with open_folder() as folder:
        server = BuiltinServer(find_model(None, Path("/nonexistent")), folder / "slm.log")
        do(server.start())
        try:
            yield server
        finally:
            do(server.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)


@pytest.fixture(scope="module")
def service(model: BuiltinServer) -> Iterator[RunningService]:
    """A service in front of it."""
    with open_service({"UPSTREAM_BASE_URL": model.base_url, "UPSTREAM_API_KEY": model.api_key}) as opened:
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


def test_the_python_client(service: RunningService, model: BuiltinServer, key: str) -> None:
    """Models, a whole answer, a stream, a tool call and errors: the same both ways, and none of them empty."""
    direct = conversation(OpenAI(base_url=model.base_url, api_key=model.api_key, max_retries=0), model.model)
    proxied = conversation(OpenAI(base_url=f"{service.base_url}/v1", api_key=key, max_retries=0), model.model)

    assert proxied == direct
    assert direct["whole"][0]
    assert len(direct["streamed"]) > 5
    assert direct["tools"][0][0] == "weather"
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


def test_the_node_client(service: RunningService, model: BuiltinServer, key: str, node_client: Path) -> None:
    """The same conversation in JavaScript."""
    node = shutil.which("node")
    assert node is not None, "node is not installed: apt-get install nodejs"

    def converse(base_url: str, key: str) -> dict[str, Any]:
        command = [node, str(node_client), base_url, key, model.model]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    direct = converse(model.base_url, model.api_key)
    proxied = converse(f"{service.base_url}/v1", key)

    assert proxied == direct
    assert direct["whole"]["choice"]["message"]["content"]
    assert len(direct["streamed"]["pieces"]) > 5
    assert direct["tools"][0][0] == "weather"
    assert direct["error"][1] >= 400
