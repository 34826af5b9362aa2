"""Readings weighed by a real vLLM, by the log-probabilities of the labels' own tokens."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from app.clients.slm.model import ModelSLM
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.domain.labels import LABELS, MOST_ORDERS
from app.ports import SLM
from app.request import set_tenant
from tests.contract.slm import CONTEXT, PLANS, SLMContract
from tests.vllm_server import VllmServer


@pytest.fixture
async def model(vllm_server: VllmServer) -> AsyncIterator[ModelSLM]:
    made = ModelSLM(VLLMClient(vllm_server.base_url, vllm_server.model, limits=Limits(budget_s=300.0)))
    yield made
    await made.aclose()


class TestVLLM(SLMContract):
    """The contract on the real server, whose model has no decisions of its own."""

    @pytest.fixture
    def slm(self, model: ModelSLM) -> SLM:
        return model


async def test_every_order_is_read_by_the_labels_tokens(model: ModelSLM, vllm_server: VllmServer) -> None:
    """What the server tells of each letter is what it tells of the likeliest tokens, as far as these go; and it is
    alike for a tenant."""
    weighed = await model.weigh_readings(CONTEXT, PLANS)
    assert weighed is not None
    assert (weighed.way, weighed.orders) == ("logprobs", MOST_ORDERS)
    assert weighed.mass is not None
    assert 0.05 < weighed.mass <= 1.0
    assert weighed.tokens > 100
    set_tenant("acme")
    again = await model.weigh_readings(CONTEXT, PLANS)
    assert again is not None
    assert again.log_odds == pytest.approx(weighed.log_odds, abs=0.3), "batches differ a little"


async def test_a_letter_is_one_token_of_the_server_s(vllm_server: VllmServer) -> None:
    """Otherwise the labels would be looked for among the likeliest tokens."""
    async with httpx.AsyncClient(timeout=30) as client:
        for letter in LABELS:
            body = {"model": vllm_server.model, "prompt": letter, "add_special_tokens": False}
            answer = (await client.post(f"{vllm_server.root_url}/tokenize", json=body)).raise_for_status().json()
            assert len(answer["tokens"]) == 1, letter


async def test_what_is_asked_for_is_likelier_than_what_is_not(model: ModelSLM) -> None:
    """A model this small knows little, but tells a request from its opposite."""
    said = replace(CONTEXT, input_text="please write the word banana")
    readings = [replace(PLANS[0], request="write the word banana"), replace(PLANS[0], request="delete all my files")]
    weighed = await model.weigh_readings(said, readings)
    assert weighed is not None
    assert weighed.log_odds[0] > weighed.log_odds[1]
