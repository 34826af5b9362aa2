"""When users are asked: another cost is judged by what came of decisions, and promoted only where it is better."""

from dataclasses import replace
from uuid import uuid4

import pytest

from app.api.deps import Services
from app.domain.decisions import Stakes, decide
from app.domain.errors import InvalidInput, NotFound, NotReady
from app.domain.telemetry import Shown
from app.services.catalogues import CatalogueService
from app.services.question_policy import Change, QuestionPolicy, evaluated
from app.store.hypotheses import HypothesisStore
from tests.integration.conftest import choose

BUILD = "build api"


@pytest.fixture
def policy(services: Services) -> QuestionPolicy:
    catalogues: CatalogueService = services.catalogues
    return QuestionPolicy(services.database, catalogues, HypothesisStore(), services.memories.clock)


def asked(user: int, is_right: bool, confidences: tuple[float, ...] = (0.9, 0.05)) -> Shown:
    """A question that was put, though the service was nearly sure; the first option was meant, or none."""
    stakes, specific = Stakes(question_cost=0.01, floor=0.5), 0.1
    made = decide(confidences, specific, stakes)
    return Shown(
        confidences,
        made.decision,
        True,
        0 if is_right else None,
        stakes=stakes,
        utility=made.utility,
        specificity=specific,
        user_id=f"user-{user}",
    )


def test_where_answers_say_that_asking_pays_fewer_questions_are_no_gain() -> None:
    """All that were asked got what they meant: nothing speaks for asking less."""
    found = evaluated([asked(user, is_right=True) for user in range(60)], Change(question_cost=0.5))

    assert (found.decisions, found.agreement) == (60, 0.0)
    assert found.gain.value < 0
    assert not found.is_gain


def test_where_questions_help_nobody_fewer_of_them_are_a_gain() -> None:
    """Where both ways are seen: what nobody asks otherwise is known by the model alone, and that is no evidence."""
    sure = [asked(user, is_right=user % 3 == 0) for user in range(60)]
    unsure = [asked(user, True, (0.3, 0.3, 0.2)) for user in range(60)]
    assert not evaluated(sure, Change(question_cost=0.3)).is_gain
    found = evaluated([*sure, *unsure], Change(question_cost=0.3))

    assert found.agreement == 0.5
    assert found.gain.low > 0
    assert found.is_gain
    few = {method: replace(each, users=5) for method, each in found.gains.items()}
    assert not replace(found, gains=few).is_gain


def test_the_same_policy_gains_nothing() -> None:
    found = evaluated([asked(user, is_right=user % 3 == 0) for user in range(30)], Change(question_cost=0.01))

    assert found.agreement == 1.0
    assert found.gain.value == pytest.approx(0.0)


def test_what_is_not_known_is_not_judged() -> None:
    with pytest.raises(NotReady, match="no decision yet"):
        evaluated([Shown((0.5,), "ask", False, None)], Change(question_cost=0.5))


async def test_a_change_is_promoted_only_where_its_interval_says_so(
    services: Services, policy: QuestionPolicy, tenant: str
) -> None:
    """Few users are no evidence; and nothing is changed then."""
    for user in ("ada", "bob", "eve"):
        await choose(services, tenant, user, BUILD, "h1")
    found = await policy.evaluate(tenant, Change(question_cost=0.9))
    assert found.decisions == 3
    with pytest.raises(NotReady, match="decisions of 3 users"):
        await policy.promote(tenant, Change(question_cost=0.9))
    assert (await services.catalogues.settings(tenant)).question_cost is None


async def test_a_decision_is_replayed_from_its_record(
    services: Services, policy: QuestionPolicy, tenant: str, other_tenant: str
) -> None:
    """Also where the tenant's cost is another one by now."""
    made = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    await services.catalogues.save_document(tenant, {"question_cost": 0.9})
    again = await policy.replay(tenant, made.set_id)
    assert (again.decided, again.record["decision"]) == (made.decided, made.decision)
    assert (again.order, again.is_same) == (None, True)
    for where, set_id in ((other_tenant, made.set_id), (tenant, uuid4())):
        with pytest.raises(NotFound):
            await policy.replay(where, set_id)
    with pytest.raises(InvalidInput):
        await policy.replay(tenant, await _without_record(services, tenant, made.set_id))


async def _without_record(services: Services, tenant: str, set_id: object) -> object:
    from sqlalchemy import text

    async with services.database.begin(tenant) as connection:
        await connection.execute(text("UPDATE hypothesis_sets SET policy = NULL"))
    return set_id
