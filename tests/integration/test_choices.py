"""Learning from choices without fooling itself: options whose order is left to chance, how places are looked at, what
silences say, and orders and adapters that are promoted by their intervals."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import insert, select, text, update

from app.api.deps import Services
from app.domain.errors import InvalidInput, NotFound, NotReady
from app.domain.ordering import drawn
from app.domain.outcomes import IGNORED_AFTER, KEPT_AFTER
from app.domain.position import PRIOR_EXAMINATION, examination
from app.services.adapter_policy import AdapterPolicy, routed_evaluation
from app.services.answers import Answered
from app.services.chance import die_of
from app.services.choices import ExecuteRequest
from app.services.hypotheses import HypothesisSet
from app.services.question_policy import QuestionPolicy
from app.services.ranker_policy import LEAST_DRAWN, RankerPolicy
from app.store.calibrations import CalibrationStore
from app.store.hypotheses import HypothesisStore
from app.store.off_policy import OffPolicyStore, RoutedOutcome
from app.store.tables import hypothesis_sets
from app.store.training import DeploymentStore
from app.store.users import UserStore
from benchmarks.hypotheses.off_policy import LOOKED_AT, WORTH
from tests.integration.conftest import choose

BUILD = "build api"
LONG_AGO = timedelta(days=3)


async def ask(services: Services, tenant: str, user: str = "ada", shuffle: float = 1.0) -> HypothesisSet:
    """A question whose options are shown by rank."""
    await services.catalogues.save_document(tenant, {"order_shuffle": shuffle})
    made = await services.hypotheses.hypothesize(tenant, user, BUILD, by_rank=True)
    assert made.decision == "ask"
    return made


async def row_of(services: Services, tenant: str, set_id: UUID) -> Any:
    async with services.database.begin(tenant) as connection:
        return (await connection.execute(select(hypothesis_sets).where(hypothesis_sets.c.set_id == set_id))).one()


async def insert_sets(services: Services, tenant: str, rows: Sequence[dict[str, Any]]) -> None:
    """Sets as if they had been put earlier."""
    async with services.database.begin(tenant) as connection:
        for user in sorted({row["user_id"] for row in rows}):
            await UserStore().ensure(connection, tenant, user, datetime.now(UTC), known_since=None)
        await connection.execute(insert(hypothesis_sets), list(rows))


async def test_options_are_put_in_an_order_that_is_drawn_and_told(services: Services, tenant: str) -> None:
    """The list stays in the order of confidence; the ranks say where each option is to stand."""
    made = await ask(services, tenant)
    ranks = [one.rank for one in made.hypotheses]
    confidences = [one.confidence for one in made.hypotheses]

    assert confidences == sorted(confidences, reverse=True)
    assert sorted(ranks) == [1, 2, 3]
    assert made.order is not None
    assert made.order == drawn(3, 1.0, die_of(made.set_id))
    assert made.order.propensity == pytest.approx(1 / 6)
    row = await row_of(services, tenant, made.set_id)
    assert row.policy["order"] == made.order.record
    assert [each["rank"] for each in row.hypotheses] == ranks
    assert [each["propensity"] for each in row.hypotheses] == pytest.approx([1 / 3] * 3)


async def test_orders_differ_from_set_to_set(services: Services, tenant: str) -> None:
    orders = {made.order.ranks for _ in range(12) if (made := await ask(services, tenant)).order}
    assert len(orders) > 1


async def test_who_does_not_show_by_rank_gets_no_drawn_order(services: Services, tenant: str) -> None:
    await services.catalogues.save_document(tenant, {"order_shuffle": 1.0})
    made = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    assert [one.rank for one in made.hypotheses] == [1, 2, 3]
    assert made.order is None
    assert "order" not in (await row_of(services, tenant, made.set_id)).policy


async def test_what_goes_ahead_is_never_drawn(services: Services, tenant: str) -> None:
    document = {"order_shuffle": 1.0, "auto_advance_confidence": 0.5, "question_cost": 1.0}
    for _ in range(4):
        await choose(services, tenant, "ada", BUILD)
    await services.catalogues.save_document(tenant, document)
    made = await services.hypotheses.hypothesize(tenant, "ada", BUILD, by_rank=True)
    assert made.decision == "auto_advance"
    assert made.order is not None
    assert (made.order.shuffle, made.hypotheses[0].rank) == (0.0, 1)


async def test_the_order_is_replayed_from_the_record(services: Services, tenant: str) -> None:
    policy = QuestionPolicy(services.database, services.catalogues, HypothesisStore(), services.memories.clock)
    made = await ask(services, tenant)
    again = await policy.replay(tenant, made.set_id)
    assert (again.order, again.is_same) == (made.order, True)

    record = dict(again.record)
    record["order"] = {**record["order"], "ranks": record["order"]["ranks"][::-1]}
    async with services.database.begin(tenant) as connection:
        await connection.execute(update(hypothesis_sets).values(policy=record))
    assert not (await policy.replay(tenant, made.set_id)).is_same
    record["order"] = {**record["order"], "version": 99}
    async with services.database.begin(tenant) as connection:
        await connection.execute(update(hypothesis_sets).values(policy=record))
    with pytest.raises(InvalidInput, match="version 99"):
        await policy.replay(tenant, made.set_id)


async def test_a_question_that_goes_on_is_ordered_as_the_first_was(services: Services, tenant: str) -> None:
    """A bare yes chooses what was shown first; a question that was answered is not one that was ignored."""
    made = await ask(services, tenant)
    first = next(one for one in made.hypotheses if one.rank == 1)
    after = await services.answers.answer(tenant, "ada", made.set_id, Answered(words="yes"))

    assert after.hypotheses[0].question == first.question
    assert after.order is not None
    row = await row_of(services, tenant, made.set_id)
    assert (row.outcome, row.chosen_id, row.answered_at is not None) == ("selected", first.id, True)


async def test_drawn_choices_teach_how_places_are_looked_at(services: Services, tenant: str) -> None:
    """Of the lists in a drawn order alone; and the calibration that is fitted then holds it."""
    store, picked = CalibrationStore(), []
    for number in range(6):
        made = await ask(services, tenant, f"user-{number}")
        last = max(made.hypotheses, key=lambda one: one.rank)
        picked.append((last.rank, len(made.hypotheses)))
        await services.context.execute(tenant, f"user-{number}", ExecuteRequest(BUILD, made.set_id, last.id))
        await choose(services, tenant, f"user-{number}", BUILD)
    await services.hypotheses.recalibrate(tenant)
    async with services.database.begin(tenant) as connection:
        assert sorted(await store.drawn_choices(connection, tenant)) == sorted(picked)
        held = await store.calibration(connection, tenant, "local")
    # How many there were when it was last fitted: a fit comes with every few outcomes.
    assert held.examination in {examination(picked[:count]) for count in range(1, 7)}
    assert held.examination != PRIOR_EXAMINATION


async def test_silences_count_by_half_at_most(services: Services, tenant: str) -> None:
    """Questions nobody answered, and what nobody undid: as many as there are words, and not before their time."""
    await choose(services, tenant, "ada", BUILD, "h2")
    for _ in range(3):
        await services.hypotheses.hypothesize(tenant, "bob", BUILD)
    now = services.memories.clock.now()

    async def outcomes(later: timedelta) -> list[tuple[float, ...] | None]:
        async with services.database.begin(tenant) as connection:
            found = await CalibrationStore().outcomes(connection, tenant, "local", PRIOR_EXAMINATION, now + later)
        return [each.likelihood for each in found]

    assert len(await outcomes(timedelta(0))) == 1
    said, ignored = await outcomes(2 * IGNORED_AFTER)
    assert said is not None
    assert ignored is not None
    assert int(np.argmax(said)) == 1
    assert int(np.argmax(ignored)) == len(ignored) - 1  # none of these
    assert max(ignored) / min(ignored) < 1.5 < max(said) / min(said)


async def test_what_nobody_undid_counts_a_little_among_earlier_choices(services: Services, tenant: str) -> None:
    made, _ = await choose(services, tenant, "ada", BUILD, "h1")
    async with services.database.begin(tenant) as connection:
        await connection.execute(
            update(hypothesis_sets)
            .where(hypothesis_sets.c.set_id == made.set_id)
            .values(outcome="assumed", decision="auto_advance", chosen_slots=dict(made.hypotheses[0].slots))
        )
    settings, now = await services.catalogues.settings(tenant), services.memories.clock.now()

    async def earlier(later: timedelta) -> list[tuple[str, float]]:
        _, context, _ = await services.hypotheses.context(tenant, "ada", BUILD, settings, now + later)
        return [(each.outcome, each.weight) for each in context.past_choices]

    assert await earlier(timedelta(0)) == []
    assert await earlier(KEPT_AFTER + timedelta(minutes=1)) == [("kept", 0.3)]


async def test_a_choice_far_down_counts_more_and_an_edited_one_less(services: Services, tenant: str) -> None:
    made = await ask(services, tenant, shuffle=0.0)
    await services.context.execute(tenant, "ada", ExecuteRequest(BUILD, made.set_id, "h3"))
    other = await ask(services, tenant, shuffle=0.0)
    await services.context.execute(tenant, "ada", ExecuteRequest(BUILD, other.set_id, "h1", "in Rust"))
    settings = await services.catalogues.settings(tenant)
    now = services.memories.clock.now()
    _, context, _ = await services.hypotheses.context(tenant, "ada", BUILD, settings, now)
    weights = {each.outcome: each.weight for each in context.past_choices}

    assert weights == {"selected": pytest.approx(1 / PRIOR_EXAMINATION[2]), "edited": 0.5}


async def _questions(services: Services, tenant: str, count: int, shuffle: float = 0.5) -> None:
    """Questions that were answered long ago by users who look less at what stands far down and mean memories less often
    than they are shown first."""
    made = await ask(services, tenant, "someone", shuffle)
    row = (await row_of(services, tenant, made.set_id))._asdict()
    chances, rows = np.random.default_rng(5), []
    for number in range(count):
        set_id = uuid4()
        origins = chances.choice(["memory", "cohort", "option"], 3)
        scores = np.sort(chances.normal(0.0, 0.5, 3))[::-1]
        odds = np.exp(scores + 2.5 * np.array([WORTH.get(each, 0.0) for each in origins]))
        order = drawn(3, shuffle, float(chances.random()))
        aim = int(chances.choice(4, p=np.append(odds, 0.3) / (odds.sum() + 0.3)))
        is_seen = aim < 3 and chances.random() < LOOKED_AT[order.ranks[aim] - 1]
        shown = [
            {**row["hypotheses"][at], "score": float(scores[at]), "origin": str(origins[at]), "rank": order.ranks[at]}
            for at in range(3)
        ]
        rows.append(
            {
                **row,
                "set_id": set_id,
                "user_id": f"user-{number % 60}",
                "hypotheses": shown,
                "policy": {**row["policy"], "order": order.record},
                "outcome": "selected" if is_seen else "custom",
                "chosen_id": shown[aim]["id"] if is_seen else None,
                "answered_at": row["created_at"],
            }
        )
    await insert_sets(services, tenant, rows)


async def test_a_ranker_is_promoted_by_its_interval_and_taken_back(services: Services, tenant: str) -> None:
    policy = RankerPolicy(
        services.database, services.catalogues, OffPolicyStore(), CalibrationStore(), services.memories.clock
    )
    with pytest.raises(NotReady, match=f"{LEAST_DRAWN} are the least"):
        await policy.evaluate(tenant)
    await _questions(services, tenant, 1200)
    found = await policy.promote(tenant)

    assert found.drawn > LEAST_DRAWN
    assert found.evaluation.is_gain
    assert found.learned["memory"] < 0 < found.learned["cohort"]
    assert (await services.catalogues.settings(tenant)).ranker == found.learned
    made = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    row = await row_of(services, tenant, made.set_id)
    assert row.policy["ranker"] == found.learned
    assert await policy.rollback(tenant) == {}
    assert (await services.catalogues.settings(tenant)).ranker is None
    with pytest.raises(NotFound):
        await policy.rollback(tenant)


async def test_a_ranker_without_a_gain_is_not_promoted(services: Services, tenant: str) -> None:
    """Users who mean what comes first."""
    policy = RankerPolicy(
        services.database, services.catalogues, OffPolicyStore(), CalibrationStore(), services.memories.clock
    )
    await _questions(services, tenant, 400)
    async with services.database.begin(tenant) as connection:
        await connection.execute(update(hypothesis_sets).values(outcome="selected", chosen_id="h1"))
    with pytest.raises(NotReady, match="not promoted"):
        await policy.promote(tenant)
    assert (await services.catalogues.settings(tenant)).ranker is None


async def test_what_is_learned_survives_what_is_set(services: Services, tenant: str) -> None:
    learned = {"ranker": {"weights": {"memory": -0.5}, "earlier": [{}]}}
    await services.catalogues.save_document(tenant, {"question_cost": 0.2, **learned})
    assert await services.catalogues.chosen(tenant) == {"question_cost": 0.2}
    await services.catalogues.choose(tenant, {"token_budget": 500})
    assert await services.catalogues.document(tenant) == {"token_budget": 500, **learned}


def routed(user: int, is_candidate: bool, is_selected: bool) -> RoutedOutcome:
    return RoutedOutcome(f"user-{user}", is_candidate, 0.25 if is_candidate else 0.75, is_selected)


def test_an_adapter_is_judged_by_where_users_were_routed() -> None:
    """A quarter of the users had it, and chose more often."""
    better = [routed(user, user % 4 == 0, user % 4 == 0 or user % 3 == 0) for user in range(400)]
    found = routed_evaluation(better)
    assert found.is_gain
    assert found.gain.value == pytest.approx(1.0 - found.held, abs=0.02)
    alike = [routed(user, user % 4 == 0, user % 3 == 0) for user in range(400)]
    assert not routed_evaluation(alike).is_gain
    with pytest.raises(NotReady, match="both"):
        routed_evaluation([replace(each, is_candidate=True) for each in alike])


async def test_sets_say_where_they_were_routed(services: Services, tenant: str) -> None:
    store, now = OffPolicyStore(), services.memories.clock.now()
    made, _ = await choose(services, tenant, "ada", BUILD)
    row = (await row_of(services, tenant, made.set_id))._asdict()
    route = {"candidate": "run-2", "is_candidate": True, "propensity": 0.1}
    await insert_sets(services, tenant, [{**row, "set_id": uuid4(), "policy": {**row["policy"], "route": route}}])
    async with services.database.begin(tenant) as connection:
        found = await store.routed_since(connection, tenant, "run-2", now - LONG_AGO)
        assert await store.routed_since(connection, tenant, "run-1", now - LONG_AGO) == []
    assert found == [RoutedOutcome("ada", is_candidate=True, propensity=0.1, is_selected=True)]
    policy = AdapterPolicy(services.database, DeploymentStore(), store, services.memories.clock)
    with pytest.raises(NotReady, match="no adapter is tried"):
        await policy.evaluate(tenant)


async def test_drawn_orders_are_found_by_their_index(services: Services, tenant: str) -> None:
    async with services.database.begin(tenant) as connection:
        found = await connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_hypothesis_sets_drawn'")
        )
        assert "is_drawn" in found.scalar_one()
