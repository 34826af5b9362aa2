"""What `VLLMAdapters` asks of vLLM, and what it calls each way of saying no; over a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.clients.slm.adapters import VLLMAdapters
from app.domain.errors import AdapterRefused, ModelUnavailable
from tests.lora_routes import write_adapter
from tests.slm_server import MODEL, ModelServer, model_server

ADAPTER = "run-1"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def server(shared_server: ModelServer) -> ModelServer:
    """The server, well and without adapters."""
    shared_server.heal()
    shared_server.asked.clear()
    vars(shared_server.loras).update(vars(type(shared_server.loras)()))
    return shared_server


@pytest.fixture
async def adapters(server: ModelServer) -> AsyncIterator[VLLMAdapters]:
    made = VLLMAdapters(server.base_url, MODEL, load_s=0.3, ask_s=0.3)
    yield made
    await made.aclose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def paths(server: ModelServer) -> list[str]:
    return [asked.path.removeprefix("/v1/") for asked in server.asked]


def error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "x", "code": status}}


async def test_loading_ends_with_one_token_of_the_adapter(
    adapters: VLLMAdapters, server: ModelServer, folder: Path
) -> None:
    await adapters.load(ADAPTER, folder)

    assert paths(server) == ["models", "load_lora_adapter", "chat/completions"]
    assert server.asked[1].body == {"lora_name": ADAPTER, "lora_path": str(folder)}
    assert (server.asked[2].body["model"], server.asked[2].body["max_tokens"]) == (ADAPTER, 1)
    assert await adapters.loaded() == {ADAPTER}


async def test_a_relative_folder_is_sent_as_an_absolute_one(
    adapters: VLLMAdapters, server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server runs elsewhere."""
    write_adapter(tmp_path / "runs/1/adapter")
    monkeypatch.chdir(tmp_path)

    await adapters.load(ADAPTER, Path("runs/1/adapter"))

    assert server.loras.folders == {ADAPTER: str(tmp_path / "runs/1/adapter")}


async def test_what_is_listed_is_not_loaded_again(adapters: VLLMAdapters, server: ModelServer, folder: Path) -> None:
    await adapters.load(ADAPTER, folder)
    server.asked.clear()

    await adapters.load(ADAPTER, folder)

    assert paths(server) == ["models"]


async def test_two_loads_at_once_are_both_fine(adapters: VLLMAdapters, server: ModelServer, folder: Path) -> None:
    """The slower one is told `already been loaded`."""
    others = [VLLMAdapters(server.base_url, MODEL) for _ in range(3)]

    await asyncio.gather(*(each.load(ADAPTER, folder) for each in (adapters, *others)))

    assert paths(server).count("load_lora_adapter") > 1
    assert server.loras.folders == {ADAPTER: str(folder)}
    for each in others:
        await each.aclose()


async def test_a_name_stands_for_one_folder(
    adapters: VLLMAdapters, server: ModelServer, folder: Path, tmp_path: Path
) -> None:
    """Users would be answered by the adapter of someone else."""
    server.loras.folders[ADAPTER] = str(tmp_path / "someone-else")

    with pytest.raises(AdapterRefused, match="from another folder"):
        await adapters.load(ADAPTER, folder)


async def test_only_adapters_count_as_loaded(adapters: VLLMAdapters) -> None:
    assert await adapters.loaded() == frozenset()


async def test_unloading_twice_is_fine(adapters: VLLMAdapters, folder: Path) -> None:
    await adapters.load(ADAPTER, folder)

    await adapters.unload(ADAPTER)
    await adapters.unload(ADAPTER)

    assert await adapters.loaded() == frozenset()


async def test_the_key_is_sent_where_there_is_one(server: ModelServer, folder: Path) -> None:
    for key in ("secret", None):
        made = VLLMAdapters(server.base_url, MODEL, api_key=key)
        await made.loaded()
        await made.aclose()

    assert [asked.headers.get("authorization") for asked in server.asked] == ["Bearer secret", None]


async def test_runtime_adapters_turned_off(adapters: VLLMAdapters, server: ModelServer, folder: Path) -> None:
    server.loras.is_on = False

    for work in (adapters.load(ADAPTER, folder), adapters.unload(ADAPTER)):
        with pytest.raises(AdapterRefused, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
            await work


async def test_too_large_a_rank_says_which_would_do(adapters: VLLMAdapters, tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match=r"rank 64 is above the server's 32: .*VLLM_MAX_LORA_RANK=64"):
        await adapters.load(ADAPTER, write_adapter(tmp_path, rank=64))


async def test_a_folder_without_an_adapter_is_named(adapters: VLLMAdapters, tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused, match=f"finds no adapter in {tmp_path}"):
        await adapters.load(ADAPTER, tmp_path)


async def test_what_else_it_says_is_passed_on(adapters: VLLMAdapters, server: ModelServer, folder: Path) -> None:
    server.loras.fault = error(500, "vLLM does not yet support DoRA.")

    with pytest.raises(AdapterRefused, match=r"refused the adapter run-1: vLLM does not yet support DoRA\."):
        await adapters.load(ADAPTER, folder)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (error(401, "Unauthorized"), "unauthorised"),
        (error(429, "later"), "busy"),
        (error(500, "EngineCore encountered an issue. See stack trace for the root cause."), "failed"),
        ((500, "Internal Server Error"), "failed"),
        (error(503, "starting"), "failed"),
    ],
)
async def test_a_server_that_is_not_well_refuses_nothing(
    adapters: VLLMAdapters, server: ModelServer, folder: Path, answer: tuple[int, Any], cause: str
) -> None:
    server.loras.fault = answer

    with pytest.raises(ModelUnavailable) as caught:
        await adapters.load(ADAPTER, folder)

    assert caught.value.cause == cause


async def test_a_server_that_is_down(adapters: VLLMAdapters, server: ModelServer, folder: Path) -> None:
    server.go_down()

    for work in (adapters.load(ADAPTER, folder), adapters.unload(ADAPTER), adapters.loaded()):
        with pytest.raises(ModelUnavailable) as caught:
            await work
        assert caught.value.cause == "unreachable"


async def test_an_adapter_that_does_not_answer_is_let_go(
    adapters: VLLMAdapters, server: ModelServer, folder: Path
) -> None:
    """Else the next attempt would find it listed, and take it for one that works."""
    server.loras.broken = {ADAPTER}
    with pytest.raises(AdapterRefused, match="does not answer with it"):
        await adapters.load(ADAPTER, folder)
    assert server.loras.folders == {}

    server.loras.broken, server.loras.hung = set(), {ADAPTER}
    started = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        await adapters.load(ADAPTER, folder)
    assert caught.value.cause == "timeout"
    assert 0.25 < time.monotonic() - started < 1.5
    assert server.loras.folders == {}
