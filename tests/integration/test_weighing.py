"""Confidences of a language model's readings: from its labels, else from embeddings, and kept with what they cost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import request
from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.clients.slm.local import LocalSLM
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain.calibration import MODEL_PRIOR, probabilities
from app.domain.errors import ModelUnavailable
from app.domain.hypotheses import HypothesisContext, Reading
from app.domain.labels import LABELS_VERSION, Weighed
from app.services.answers import Answered
from app.settings import Settings
from app.store.engine import Database
from app.wiring import build_services

INPUT = "plan my week"
REQUESTS = ("plan my week", "plan a trip to the sea", "sell the car")


class WeighingSLM(LocalSLM):
    """A model that proposes three readings; `odds` are its log-odds of them, None where it tells none."""

    name = "vllm"
    model = "tiny-chat"
    prompt_version = "1"

    def __init__(self) -> None:
        super().__init__(SentencePieceTokenizer())
        self.odds: tuple[float, ...] | None = None
        self.error: ModelUnavailable | None = None
        self.hangs = False
        self.had_s = 0.0

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        return [Reading(f"Do you want me to {each}?", each, "why", 0.0, "model") for each in REQUESTS]

    async def weigh_readings(self, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
        assert [each.request for each in readings] == list(REQUESTS)
        self.had_s = request.remaining_s(99.0)
        if self.hangs:
            try:
                async with asyncio.timeout(self.had_s):
                    await asyncio.sleep(60)
            except TimeoutError:
                raise ModelUnavailable("no answer in time", "timeout") from None
        if self.error is not None:
            raise self.error
        return None if self.odds is None else Weighed(self.odds, 4, "systemone", 0.9, 0.25, 480)


@pytest.fixture(scope="module")
def slm() -> WeighingSLM:
    return WeighingSLM()


@pytest.fixture(scope="module")
async def served(
    settings: Settings, database: Database, embedder: OnnxEmbedder, slm: WeighingSLM
) -> AsyncIterator[Services]:
    built = build_services(settings, database, embedder, slm)
    await built.catalogues.warm()
    yield built
    await built.afterwards.aclose()


@pytest.fixture(autouse=True)
def _as_new(slm: WeighingSLM) -> None:
    slm.odds, slm.error, slm.hangs = None, None, False


async def kept(served: Services, tenant: str, set_id: Any) -> Any:
    async with served.database.begin(tenant) as connection:
        return await served.hypotheses.hypotheses.get_set(connection, tenant, "ada", set_id)


async def test_confidences_come_from_labels(served: Services, slm: WeighingSLM, tenant: str) -> None:
    slm.odds = (-1.0, 2.0, 0.0)
    made = await served.hypotheses.hypothesize(tenant, "ada", INPUT)

    assert [one.request for one in made.hypotheses] == [REQUESTS[at] for at in (1, 2, 0)]
    expected = probabilities([{"label": each} for each in (2.0, 0.0, -1.0)], MODEL_PRIOR)
    assert [one.confidence for one in made.hypotheses] == pytest.approx(expected)
    assert not made.is_degraded
    row = await kept(served, tenant, made.set_id)
    assert row.hypotheses[0]["features"] == {"label": 2.0}
    basis = row.basis
    assert (basis["evidence"], basis["way"], basis["orders"], basis["mass"]) == ("label", "systemone", 4, 0.9)
    assert (basis["labels_version"], basis["seconds"], basis["tokens"]) == (LABELS_VERSION, 0.25, 480)
    assert basis["calibration"]["weights"] == dict(MODEL_PRIOR.weights)

    report = await served.telemetry.report(tenant, datetime.now(UTC) - timedelta(minutes=1))
    (of_policy,) = report.policies
    assert (of_policy.policy.evidence, of_policy.policy.labels_version) == ("label", LABELS_VERSION)
    assert (of_policy.summary.weighed_ms, of_policy.summary.weighed_tokens) == (250.0, 480.0)


async def test_a_set_that_goes_on_from_another_costs_no_weighing(
    served: Services, slm: WeighingSLM, tenant: str
) -> None:
    slm.odds = (1.0, 0.9, 0.8)
    made = await served.hypotheses.hypothesize(tenant, "ada", INPUT)
    further = await served.answers.answer(tenant, "ada", made.set_id, Answered(rejected_ids=("h1",)))
    basis = (await kept(served, tenant, further.set_id)).basis
    assert (basis["evidence"], basis["seconds"], basis["tokens"]) == ("label", 0.0, 0)
    assert further.calibration == replace(made.calibration, outcomes=further.calibration.outcomes)


@pytest.mark.parametrize("error", [None, ModelUnavailable("the server is busy", "busy")])
async def test_without_labels_the_nearest_reading_comes_first(
    served: Services, slm: WeighingSLM, tenant: str, error: ModelUnavailable | None
) -> None:
    """The answer is the model's own all the same: only what it is weighed by is another."""
    slm.error = error
    made = await served.hypotheses.hypothesize(tenant, "ada", INPUT)
    assert [one.request for one in made.hypotheses] == list(REQUESTS)
    assert made.hypotheses[0].confidence > made.hypotheses[1].confidence > made.hypotheses[2].confidence
    assert (made.source, made.is_degraded, made.basis.evidence) == ("vllm", False, "nearness")
    assert sum(one.confidence for one in made.hypotheses) < 1


async def test_weighing_has_half_of_the_time_that_is_left(served: Services, slm: WeighingSLM, tenant: str) -> None:
    slm.hangs = True
    with request.budget(1.0):
        made = await served.hypotheses.hypothesize(tenant, "ada", INPUT)
    assert 0.1 < slm.had_s <= 0.5
    assert made.basis.evidence == "nearness"
