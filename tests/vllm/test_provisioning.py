"""The provider of models that asks a vLLM, on a real one."""

import pytest

from app.clients.provisioning.vllm import VLLMProvider
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress
from tests.vllm_server import VllmServer


async def test_it_has_loaded_what_it_was_started_with_and_nothing_else(vllm_server: VllmServer) -> None:
    provider = VLLMProvider(vllm_server.base_url)
    told: list[Progress] = []
    try:
        found = await provider.provision(Model(vllm_server.model, "vllm"), told.append)
        with pytest.raises(ProvisionFailed, match=f"vLLM serves .*{vllm_server.model}.*: start it with"):
            await provider.provision(Model("nowhere", "vllm"), told.append)
    finally:
        await provider.aclose()

    assert found.action == "present"
    assert [each.stage for each in told] == ["asking vLLM"] * 2
