"""Adapters on a real vLLM: the contract, and who answers."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.clients.slm.adapters import VLLMAdapters
from app.clients.slm.endpoint import Ask, ChatEndpoint
from app.domain.errors import ModelUnavailable
from tests.contract.adapter_server import AdapterServerContract
from tests.vllm_server import VllmServer

QUESTION = Ask("text", [{"role": "user", "content": "What is the capital of France?"}], max_tokens=16)


@pytest.fixture
async def server(vllm_server: VllmServer) -> AsyncIterator[VLLMAdapters]:
    made = VLLMAdapters(vllm_server.base_url, vllm_server.model)
    yield made
    await made.aclose()


@pytest.fixture
async def endpoint(vllm_server: VllmServer) -> AsyncIterator[ChatEndpoint]:
    made = ChatEndpoint("vllm", vllm_server.base_url, vllm_server.model)
    yield made
    await made.aclose()


@pytest.fixture
def folder(lora_adapter: Path) -> Path:
    return lora_adapter


@pytest.fixture
def twin(lora_adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lora_adapter, tmp_path / "twin")


@pytest.fixture
def large(lora_adapter: Path, tmp_path: Path) -> Path:
    """The same adapter, said to be of rank 64: vLLM reads that first."""
    made = shutil.copytree(lora_adapter, tmp_path / "large")
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps(config | {"r": 64}))
    return made


class TestVLLMAdapters(AdapterServerContract):
    """The contract on the real server."""


async def test_an_adapter_answers_in_its_own_name(
    server: VLLMAdapters, endpoint: ChatEndpoint, vllm_server: VllmServer, folder: Path
) -> None:
    """Otherwise than the base model, which stays as it was; once it is gone, it is an unknown adapter."""
    plain = await endpoint.complete(QUESTION)
    asked = Ask(QUESTION.call, QUESTION.messages, QUESTION.max_tokens, model="answers-1")
    await server.load("answers-1", folder)
    try:
        adapted = await endpoint.complete(asked)
        assert (adapted.model, plain.model) == ("answers-1", vllm_server.model)
        assert adapted.text != plain.text
        assert (await endpoint.complete(QUESTION)).text == plain.text
    finally:
        await server.unload("answers-1")

    with pytest.raises(ModelUnavailable) as caught:
        await endpoint.complete(asked)
    assert caught.value.cause == "unknown_adapter"
