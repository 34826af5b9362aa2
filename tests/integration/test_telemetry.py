"""Telemetry: figures that a handful of known choices make easy to check."""

from datetime import UTC, datetime, timedelta

import pytest

from app.api.deps import Services
from app.services.feedback import Feedback
from app.services.telemetry import telemetry_service
from tests.integration.conftest import choose, facts

DEPLOY = "deploy my app"


async def test_nothing_observed_is_nothing_claimed(services: Services, tenant: str) -> None:
    """Before the first set there are counts of zero and no rates."""
    report = await services.telemetry.report(tenant, datetime.now(UTC) - timedelta(days=1))
    summary, calibration = report.summary, report.calibration
    assert (summary.sets, summary.answered) == (0, 0)
    assert summary.auto_advance_rate is summary.selection_rate is summary.mrr is summary.calibration_error is None
    assert calibration.version == 0


async def test_rates_are_what_was_shown_and_chosen(services: Services, tenant: str, other_tenant: str) -> None:
    """One first choice, one second choice, one `none of these` and one left open: a selection rate of 2/3 and
    a mean reciprocal rank of (1 + 1/2 + 0)/3; another tenant's sets and older ones do not count."""
    since = datetime.now(UTC) - timedelta(minutes=1)
    await choose(services, tenant, "ada", DEPLOY, "h1")
    await choose(services, tenant, "bob", DEPLOY, "h2")
    refused = await services.hypotheses.hypothesize(tenant, "eve", DEPLOY)
    await services.feedback.give(tenant, "eve", Feedback(set_id=refused.set_id, rejected_ids=("h1", "h2", "h3")))
    await services.hypotheses.hypothesize(tenant, "dan", DEPLOY)
    await choose(services, other_tenant, "ada", DEPLOY, "h3")
    report = await services.telemetry.report(tenant, since)
    summary = report.summary
    assert (summary.sets, summary.answered) == (4, 3)
    assert summary.auto_advance_rate == 0.0
    assert summary.selection_rate == pytest.approx(2 / 3)
    assert summary.mrr == pytest.approx(0.5)
    assert summary.calibration_error is not None
    assert 0 <= summary.calibration_error <= 1
    (of_policy,) = report.policies
    assert of_policy.summary == summary
    assert (of_policy.policy.source, of_policy.policy.evidence, of_policy.policy.version) == ("local", "score", 1)
    assert (of_policy.first, of_policy.last) == (0, 0)
    later = await services.telemetry.report(tenant, datetime.now(UTC) + timedelta(minutes=1))
    assert (later.summary.sets, later.policies) == (0, [])


async def test_the_process_counts_its_own_decisions(services: Services, tenant: str) -> None:
    """The rate of this process moves with each decision, up for an auto-advance and down for a question."""
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    await services.catalogues.save_document(tenant, {"auto_advance_confidence": 0.5, "question_cost": 0.3})
    rates = [telemetry_service.get_auto_advance_rate()]
    for user, decision in (("ada", "auto_advance"), ("cold", "ask")):
        made = await services.hypotheses.hypothesize(tenant, user, DEPLOY)
        assert made.decision == decision
        rates.append(telemetry_service.get_auto_advance_rate())
    assert rates[1] > rates[0] or rates[1] == 1.0
    assert rates[2] < rates[1]
    report = await services.telemetry.report(tenant, datetime.now(UTC) - timedelta(minutes=1))
    assert report.summary.auto_advance_rate == 0.5
