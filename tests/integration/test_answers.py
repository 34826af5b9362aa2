"""Answers to questions: the belief of a set is moved, kept, and asked further or not."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.decisions import replayed
from app.domain.errors import InvalidInput, NotFound
from app.domain.position import PRIOR_EXAMINATION
from app.services.answers import Answered
from app.services.choices import ExecuteRequest
from app.store.calibrations import CalibrationStore
from tests.integration.conftest import facts

BUILD = "build api"


async def test_what_is_turned_down_makes_room_and_what_is_picked_is_meant(services: Services, tenant: str) -> None:
    """Three answers in a row: two options turned down, own words, then a choice. Each time a set of its own."""
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    turned_down = Answered(rejected_ids=["h1", "h2"])
    second = await services.answers.answer(tenant, "ada", first.set_id, turned_down)
    assert second.set_id != first.set_id
    assert second.hypotheses[0].request not in {first.hypotheses[0].request, first.hypotheses[1].request}
    assert sum(one.confidence for one in second.hypotheses) < 1

    wanted = first.hypotheses[1].request
    said = Answered(words=wanted)
    third = await services.answers.answer(tenant, "ada", second.set_id, said)
    assert third.hypotheses[0].request == wanted, "nothing is ruled out"

    fourth = await services.answers.answer(tenant, "ada", third.set_id, Answered(chosen_id="h1"))
    assert fourth.hypotheses[0].confidence > max(0.9, third.hypotheses[0].confidence)
    assert fourth.decision == "auto_advance"
    executed = await services.context.execute(tenant, "ada", ExecuteRequest(BUILD, fourth.set_id, "h1"))
    assert wanted[:20] in executed.prompt.text


async def test_yes_is_to_the_first_and_no_to_all(services: Services, tenant: str) -> None:
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    yes = await services.answers.answer(tenant, "ada", first.set_id, Answered(words="Yes please!"))
    no = await services.answers.answer(tenant, "ada", first.set_id, Answered(words="no"))

    assert yes.hypotheses[0].request == first.hypotheses[0].request
    assert yes.hypotheses[0].confidence > first.hypotheses[0].confidence
    assert not {one.request for one in no.hypotheses} & {one.request for one in first.hypotheses}


async def test_the_same_question_is_not_put_twice(services: Services, tenant: str) -> None:
    """What was said moved nothing, and the options are the same: the input is left as it is, or gone ahead with."""
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    assert first.decision == "ask"
    again = await services.answers.answer(tenant, "ada", first.set_id, Answered(words=first.hypotheses[0].request))
    if {one.request for one in again.hypotheses} == {one.request for one in first.hypotheses}:
        assert again.decision != "ask"


async def test_each_decision_is_made_again_from_its_record(services: Services, tenant: str) -> None:
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    await services.answers.answer(tenant, "ada", first.set_id, Answered(rejected_ids=["h1"]))
    async with services.database.begin(tenant) as connection:
        rows = (await connection.execute(text("SELECT hypotheses, decision, policy FROM hypothesis_sets"))).all()
    assert len(rows) == 2
    for row in rows:
        confidences = [each["confidence"] for each in row.hypotheses]
        assert replayed(confidences, row.policy).decision == row.decision


async def test_what_an_answer_says_of_a_set_is_its_outcome(services: Services, tenant: str) -> None:
    """Turned down as a whole, picked, turned down in part, and by a bare no: as with feedback and execute."""
    sets = [await services.hypotheses.hypothesize(tenant, "ada", BUILD) for _ in range(4)]
    every = [each.id for each in sets[0].hypotheses]
    said = (Answered(rejected_ids=every), Answered(chosen_id="h2"), Answered(rejected_ids=["h1"]), Answered(words="no"))
    for one, answered in zip(sets, said, strict=True):
        await services.answers.answer(tenant, "ada", one.set_id, answered)

    store = services.hypotheses.hypotheses
    async with services.database.begin(tenant) as connection:
        rows = [await store.get_set(connection, tenant, "ada", one.set_id) for one in sets]
    assert [(row.outcome, row.chosen_id, list(row.rejected_ids)) for row in rows if row is not None] == [
        ("none", None, every),
        ("selected", "h2", []),
        (None, None, ["h1"]),
        ("none", None, every),
    ]


async def test_words_that_name_what_no_reading_has_become_one(services: Services, tenant: str) -> None:
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    said = Answered(words="in Rust, on Kubernetes, with SQLite")
    second = await services.answers.answer(tenant, "ada", first.set_id, said)

    best = second.hypotheses[0]
    assert best.slots == {"language": "Rust", "platform": "Kubernetes", "database": "SQLite"}
    assert best.confidence > second.hypotheses[1].confidence + 0.2
    assert all(value in best.question for value in best.slots.values())
    executed = await services.context.execute(tenant, "ada", ExecuteRequest(BUILD, second.set_id, "h1"))
    assert "Rust" in executed.prompt.text


async def test_a_calibration_is_fitted_on_what_no_answer_has_moved(services: Services, tenant: str) -> None:
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    every = [each.id for each in first.hypotheses]
    second = await services.answers.answer(tenant, "ada", first.set_id, Answered(rejected_ids=every))
    await services.context.execute(tenant, "ada", ExecuteRequest(BUILD, second.set_id, "h1"))
    async with services.database.begin(tenant) as connection:
        now = services.memories.clock.now()
        outcomes = await CalibrationStore().outcomes(connection, tenant, "local", PRIOR_EXAMINATION, now)

    assert [each.chosen for each in outcomes] == [None], "the second set was read from the answer, too"


async def test_what_cannot_be_answered(services: Services, tenant: str, other_tenant: str) -> None:
    first = await services.hypotheses.hypothesize(tenant, "ada", BUILD)
    await services.hypotheses.hypothesize(other_tenant, "ada", BUILD)
    for where, user, set_id, answered, error in (
        (tenant, "ada", uuid4(), Answered(chosen_id="h1"), NotFound),
        (tenant, "bob", first.set_id, Answered(chosen_id="h1"), NotFound),
        (other_tenant, "ada", first.set_id, Answered(chosen_id="h1"), NotFound),
        (tenant, "ada", first.set_id, Answered(chosen_id="h9"), NotFound),
        (tenant, "ada", first.set_id, Answered(), InvalidInput),
    ):
        with pytest.raises(error):
            await services.answers.answer(where, user, set_id, answered)
