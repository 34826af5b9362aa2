"""Readings weighed by the built-in model, for real."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.clients.slm.builtin import BuiltinServer, find_model
from app.clients.slm.model import FEW_ORDERS, BuiltinSLM
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.ports import SLM
from tests.contract.slm import CONTEXT, PLANS, SLMContract


@pytest.fixture(scope="module")
async def builtin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BuiltinSLM]:
    server = BuiltinServer(find_model(None, Path("/nonexistent")), tmp_path_factory.mktemp("logs") / "slm.log")
    await server.start()
    limits = Limits(budget_s=300.0)
    client = VLLMClient(
        server.base_url,
        server.model,
        name="builtin",
        api_key=server.api_key,
        limits=limits,
        label_orders=FEW_ORDERS,
    )
    made = BuiltinSLM(client, server)
    yield made
    await made.aclose()


class TestBuiltin(SLMContract):
    """llama.cpp tells the log-probabilities of what could stand in a token's place, and has no decisions."""

    @pytest.fixture
    def slm(self, builtin: BuiltinSLM) -> SLM:
        return builtin

    async def test_its_answer_is_a_label(self, builtin: BuiltinSLM) -> None:
        """Nearly all of the probability of the first token is the labels'."""
        weighed = await builtin.weigh_readings(CONTEXT, PLANS)
        assert weighed is not None
        assert (weighed.way, weighed.orders) == ("logprobs", FEW_ORDERS)
        assert weighed.mass is not None
        assert weighed.mass > 0.5
        assert weighed.tokens > 100
