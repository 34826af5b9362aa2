"""The built-in model, for real: it answers its owner alone, comes back when killed, and never outlives its owner."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import psutil
import pytest
from structlog.testing import capture_logs

from app.clients.slm.builtin import BuiltinServer, find_model
from app.domain.errors import ModelUnavailable

REPOSITORY = Path(__file__).parents[2]
NO_MODELS = Path("/nonexistent")
QUESTION = [{"role": "user", "content": "Name three fruits."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "fruits": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "string", "maxLength": 12}},
        "count": {"type": "integer", "minimum": 2, "maximum": 3},
    },
    "required": ["fruits", "count"],
    "additionalProperties": False,
}

OWNER = """
import asyncio, sys
from pathlib import Path
import structlog, uvloop
from app.clients.slm.builtin import BuiltinServer, find_model

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    server = BuiltinServer(find_model(None, Path("/nonexistent")), Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

uvloop.run(main())
"""


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BuiltinServer]:
    """One child for the tests here; the ones that end it start their own."""
    log_file = tmp_path_factory.mktemp("logs") / "slm.log"
    server = BuiltinServer(find_model(None, NO_MODELS), log_file)
    await server.start()
    yield server
    await server.aclose()


@pytest.fixture
async def client(server: BuiltinServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of that child."""
    async with connect(server) as client:
        yield client


def connect(server: BuiltinServer) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx2.AsyncClient(base_url=server.base_url, headers=headers, timeout=30)


def start_owner(log_file: Path) -> subprocess.Popen[str]:
    """A process that starts the built-in model, says its pid and stays."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(log_file)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def is_alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(holds: Callable[[], bool], timeout_s: float) -> float:
    """Wait for it; the seconds it took."""
    started_s = time.monotonic()
    while not holds():
        assert time.monotonic() - started_s < timeout_s, "it took too long"
        await asyncio.sleep(0.01)
    return time.monotonic() - started_s


async def test_it_answers_in_the_shape_it_is_told(server: BuiltinServer, client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        "/chat/completions",
        json={
            "model": server.model,
            "messages": QUESTION,
            "max_tokens": 150,
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "fruits", "schema": SCHEMA}},
        },
    )

    body = answer.raise_for_status().json()
    reply = json.loads(body["choices"][0]["message"]["content"])
    assert 2 <= len(reply["fruits"]) <= 3
    assert all(len(fruit) <= 12 for fruit in reply["fruits"])
    assert 2 <= reply["count"] <= 3
    assert body["model"] == server.model
    assert body["usage"]["prompt_tokens"] > 0


async def test_a_streamed_answer_ends_with_its_usage(client: httpx2.AsyncClient) -> None:
    request = {
        "messages": QUESTION,
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 2,
    }
    async with client.stream("POST", "/chat/completions", json=request) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]

    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert "cached_tokens" in chunks[-1]["usage"]["prompt_tokens_details"]
    logprobs = [
        chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"] and chunk["choices"][0].get("logprobs")
    ]
    assert all(len(entry["content"][0]["top_logprobs"]) == 2 for entry in logprobs)
    assert len(logprobs) == 3


@pytest.mark.parametrize("key", [None, "wrong"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics", "/props", "/slots"])
async def test_without_the_key_it_says_nothing(server: BuiltinServer, path: str, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=server.base_url.removesuffix("/v1"), headers=headers) as stranger:
        method = "POST" if path.endswith("completions") else "GET"
        answer = await stranger.request(method, path, json={"messages": QUESTION} if method == "POST" else None)

    assert answer.status_code == 401


async def test_the_key_can_be_read_nowhere(server: BuiltinServer) -> None:
    process = psutil.Process(server.pid)

    assert server.api_key not in " ".join(process.cmdline())
    assert server.api_key not in process.environ().values()


async def test_it_inherits_no_secret_and_yields_to_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLM_API_KEY", "a secret of the service")
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")
    await server.start()
    try:
        process = psutil.Process(server.pid)
        assert "SLM_API_KEY" not in process.environ()
        assert process.nice() > psutil.Process().nice()
        assert {connection.laddr.ip for connection in process.net_connections()} == {"127.0.0.1"}
    finally:
        await server.aclose()


async def test_no_web_page_may_call_it(client: httpx2.AsyncClient) -> None:
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = await client.options("/chat/completions", headers=headers)

    assert answer.headers.get("Access-Control-Allow-Origin", "") == ""


async def test_idle_connections_do_not_keep_others_waiting(server: BuiltinServer) -> None:
    address = server.base_url.removesuffix("/v1")
    async with httpx2.AsyncClient(base_url=address) as client:
        await asyncio.gather(*(client.get("/health") for _ in range(40)))
        async with httpx2.AsyncClient(base_url=address) as another:
            started_s = time.monotonic()
            assert (await another.get("/health")).status_code == 200
            assert time.monotonic() - started_s < 2


async def test_an_abandoned_stream_frees_its_slot(server: BuiltinServer, client: httpx2.AsyncClient) -> None:
    async def is_idle() -> bool:
        metrics = (await client.get(server.base_url.removesuffix("/v1") + "/metrics")).text
        return "llamacpp:requests_processing 0" in metrics

    request = {"messages": QUESTION, "max_tokens": 2000, "ignore_eos": True, "stream": True}
    async with client.stream("POST", "/chat/completions", json=request) as answer:
        await anext(answer.aiter_lines())
        assert not await is_idle()

    started_s = time.monotonic()
    while not await is_idle():
        assert time.monotonic() - started_s < 3
        await asyncio.sleep(0.02)


async def test_it_logs_no_word_of_what_it_is_asked(server: BuiltinServer, client: httpx2.AsyncClient) -> None:
    await client.post("/chat/completions", json={"messages": [{"role": "user", "content": "xyzzy"}], "max_tokens": 2})
    await client.post("/chat/completions", content=b'{"messages": [{"xyzzy"')
    await client.post("/chat/completions", json={"messages": [{"role": "user", "content": {"xyzzy": 1}}]})

    assert "xyzzy" not in server._log_file.read_text()


async def test_killed_it_comes_back_at_the_same_address(tmp_path: Path) -> None:
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")
    with capture_logs() as logs:
        await server.start()
        try:
            address, killed = server.base_url, server.pid
            assert killed is not None
            async with connect(server) as client:
                assert (await client.get("/models")).status_code == 200
                os.kill(killed, signal.SIGKILL)
                await until(lambda: server.pid not in (None, killed), 10)
                assert server.base_url == address
                assert (await client.get("/models")).json()["data"][0]["id"] == server.model
        finally:
            await server.aclose()

    assert [entry["event"] for entry in logs] == [
        "slm_server_started",
        "slm_server_died",
        "slm_server_restarted",
        "slm_server_stopped",
    ]
    assert logs[0]["ready_s"] > 0
    assert logs[0]["rss_mb"] > 50
    assert logs[1]["exit_status"] == -signal.SIGKILL


async def test_it_keeps_trying_until_it_can_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")
    with capture_logs() as logs:
        await server.start()
        try:
            monkeypatch.setitem(server._config, "model_path", str(tmp_path / "gone.gguf"))
            os.kill(server.pid or 0, signal.SIGKILL)
            await until(lambda: any(entry["event"] == "slm_server_restart_failed" for entry in logs), 10)
            assert server.pid is None
            monkeypatch.undo()
            await until(lambda: server.pid is not None, 10)
            async with connect(server) as client:
                assert (await client.get("/models")).status_code == 200
        finally:
            await server.aclose()

    failed = [entry for entry in logs if entry["event"] == "slm_server_restart_failed"]
    assert "gone.gguf" in failed[0]["reason"]
    assert [entry["attempts"] for entry in logs if entry["event"] == "slm_server_restarted"] == [len(failed) + 1]


async def test_stopped_in_mid_sentence_it_leaves_nothing(tmp_path: Path) -> None:
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")
    await server.start()
    pid = server.pid
    async with connect(server) as client:
        request = {"messages": QUESTION, "max_tokens": 2000, "ignore_eos": True}
        answer = asyncio.create_task(client.post("/chat/completions", json=request))
        await asyncio.sleep(0.3)
        await server.aclose()
        with pytest.raises(httpx2.TransportError):
            await answer

    assert not is_alive(pid)
    assert server.pid is None
    await server.aclose()


async def test_stopped_while_it_is_restarting_it_leaves_nothing(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")
    await server.start()
    os.kill(server.pid or 0, signal.SIGKILL)
    await until(lambda: {child.pid for child in psutil.Process().children()} - before - {server.pid} != set(), 5)
    await server.aclose()

    assert {child.pid for child in psutil.Process().children() if is_alive(child.pid)} <= before


async def test_it_ends_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    with start_owner(tmp_path / "slm.log") as owner:
        assert owner.stdout is not None
        child = int(await asyncio.to_thread(owner.stdout.readline))
        assert is_alive(child)
        owner.kill()
        await until(lambda: not is_alive(child), 2)


async def test_a_file_that_is_no_model_is_refused_with_one_line(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(4096))
    server = BuiltinServer(model, tmp_path / "slm.log")

    with pytest.raises(ModelUnavailable, match=r"broken did not start: .*slm\.log") as caught:
        await server.start()

    assert "\n" not in str(caught.value)
    assert {child.pid for child in psutil.Process().children()} == before


async def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    server = BuiltinServer(find_model(None, NO_MODELS), tmp_path / "slm.log")

    with pytest.raises(ModelUnavailable, match=r"does not answer after 0\.05 s"):
        await server.start(timeout_s=0.05)

    assert {child.pid for child in psutil.Process().children()} == before
