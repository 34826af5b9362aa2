"""The contract of servers of adapters, on the fake and on vLLM's API as a small server speaks it. The real vLLM runs it
in `tests/vllm`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.clients.slm.adapters import VLLMAdapters
from app.ports import AdapterServer
from tests.contract.adapter_server import AdapterServerContract
from tests.fakes import FakeAdapterServer
from tests.lora_routes import write_adapter
from tests.slm_server import MODEL, ModelServer, model_server


@pytest.fixture(scope="module")
def http_server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("twin"))


@pytest.fixture
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("large"), rank=64)


class TestAdapterServer(AdapterServerContract):
    @pytest.fixture(params=["fake", "http"])
    async def server(self, request: pytest.FixtureRequest, http_server: ModelServer) -> AsyncIterator[AdapterServer]:
        if request.param == "fake":
            yield FakeAdapterServer()
            return
        made = VLLMAdapters(http_server.base_url, MODEL)
        yield made
        await made.aclose()
