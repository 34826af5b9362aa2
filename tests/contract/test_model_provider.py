"""What every provider of models promises, the fake and the real ones on their servers and folders."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.clients.provisioning.huggingface import HuggingFaceProvider
from app.clients.provisioning.llamacpp import LlamaCppProvider
from app.clients.provisioning.local import LocalProvider
from app.clients.provisioning.ollama import OllamaProvider
from app.clients.provisioning.vllm import VLLMProvider
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import ModelProvider, Progress
from tests.fake_provider import FakeProvider
from tests.hub_server import hub_server
from tests.model_files import gguf, safetensors
from tests.ollama_server import ollama_server
from tests.slm_server import MODEL, model_server


@dataclass
class Case:
    """A provider, a model that can be had of it, and one that cannot."""

    provider: ModelProvider
    there: Model
    missing: Model


@pytest.fixture(params=["fake", "ollama", "vllm", "huggingface", "local", "llamacpp"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with AsyncExitStack() as stack:
        match request.param:
            case "fake":
                made = Case(FakeProvider(), Model("m"), Model("nowhere"))
            case "ollama":
                server = stack.enter_context(ollama_server({"m": [2000]}))
                made = Case(OllamaProvider(server.url), Model("m"), Model("nowhere"))
            case "vllm":
                served = stack.enter_context(model_server())
                made = Case(VLLMProvider(served.base_url), Model(MODEL, "vllm"), Model("nowhere", "vllm"))
            case "huggingface":
                hub = stack.enter_context(hub_server({"org/m": {"model.safetensors": safetensors()}}))
                there, missing = Model("org/m", "huggingface"), Model("org/nowhere", "huggingface")
                made = Case(HuggingFaceProvider(hub.url, tmp_path), there, missing)
            case "local":
                (tmp_path / "m").mkdir()
                (tmp_path / "m" / "model.safetensors").write_bytes(safetensors())
                made = Case(LocalProvider(tmp_path), Model("m", "local"), Model("nowhere", "local"))
            case _:
                (tmp_path / "m.gguf").write_bytes(gguf())
                there, missing = (Model("m", "llamacpp", path=f"{name}.gguf") for name in ("m", "nowhere"))
                made = Case(LlamaCppProvider(tmp_path), there, missing)
        yield made
        await made.provider.aclose()


async def test_a_model_that_can_be_had_is_there_afterwards_and_its_progress_was_told(case: Case) -> None:
    told: list[Progress] = []

    first = await case.provider.provision(case.there, told.append)
    again = await case.provider.provision(case.there, told.append, force=True)

    assert {first.action, again.action} <= {"present", "downloaded"}
    assert first.detail
    assert "\n" not in first.detail
    assert first.downloaded_bytes == 0 or first.action == "downloaded"
    assert told
    assert all(each.total is None or each.done <= each.total for each in told)


async def test_one_that_cannot_is_a_line_each_time(case: Case) -> None:
    for _ in range(2):
        with pytest.raises(ProvisionFailed) as caught:
            await case.provider.provision(case.missing, lambda progress: None)
        assert str(caught.value)
        assert "\n" not in str(caught.value)
