"""Feedback: what a reaction changes, and that it changes nothing of anybody else's."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.errors import InvalidInput, NotFound
from app.services.choices import ExecuteRequest
from app.services.feedback import Feedback
from tests.integration.conftest import choose

DEPLOY = "deploy my app"


async def rows(services: Services, tenant: str, query: str) -> list[tuple]:
    async with services.database.begin(tenant) as connection:
        return [tuple(row) for row in (await connection.execute(text(query))).all()]


async def test_a_comment_moves_facets_and_teaches_what_lasts(services: Services, tenant: str) -> None:
    """The deltas returned are the moves made; a stated preference becomes a memory, a passing wish does not."""
    _, executed = await choose(services, tenant, "ada", DEPLOY)
    before = (await services.personas.get(tenant, "ada")).facets["concise"].value
    comment = "too long. I prefer bullet points. I want to go home."
    deltas = await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, comment=comment, rating=-0.4))
    persona = await services.personas.get(tenant, "ada")
    assert deltas["concise"] == pytest.approx(persona.facets["concise"].value - before)
    assert deltas["concise"] > 0
    learned = await rows(services, tenant, "SELECT type, content FROM memories WHERE source = 'feedback'")
    assert learned == [("PREFERENCE", "I prefer bullet points")]
    assert await rows(services, tenant, "SELECT rating, is_success FROM executions") == [(-0.4, None)]
    kinds = await rows(services, tenant, "SELECT kind, body->>'comment' FROM signals ORDER BY created_at")
    assert kinds == [("selection", None), ("feedback", comment)]


async def test_a_later_word_completes_an_earlier_one(services: Services, tenant: str) -> None:
    """What a second feedback leaves open stays as the first one said."""
    _, executed = await choose(services, tenant, "ada", DEPLOY)
    await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, is_success=True))
    await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, rating=0.5))
    assert await rows(services, tenant, "SELECT rating, is_success FROM executions") == [(0.5, True)]


async def test_refusing_all_is_none_of_these(services: Services, tenant: str) -> None:
    """Refused one by one, the set is `none` once the last is gone; a chosen set stays chosen."""
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    outcome = "SELECT outcome, rejected_ids FROM hypothesis_sets ORDER BY created_at"
    await services.feedback.give(tenant, "ada", Feedback(set_id=made.set_id, rejected_ids=("h1", "h3")))
    assert await rows(services, tenant, outcome) == [(None, ["h1", "h3"])]
    await services.feedback.give(tenant, "ada", Feedback(set_id=made.set_id, rejected_ids=("h2",)))
    assert await rows(services, tenant, outcome) == [("none", ["h1", "h2", "h3"])]
    chosen, _ = await choose(services, tenant, "bob", DEPLOY)
    await services.feedback.give(tenant, "bob", Feedback(set_id=chosen.set_id, rejected_ids=("h1", "h2", "h3")))
    assert (await rows(services, tenant, outcome))[1][0] == "selected"


async def test_feedback_on_what_is_not_the_users(services: Services, tenant: str, other_tenant: str) -> None:
    """Unknown users, executions, sets and hypotheses, and those of others, are NotFound, and nothing is kept."""
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    await services.hypotheses.hypothesize(tenant, "eve", DEPLOY)
    await services.hypotheses.hypothesize(other_tenant, "ada", DEPLOY)
    about = Feedback(executed.execution_id, is_success=True)
    for each, user, feedback in (
        (tenant, "unknown", about),
        (tenant, "eve", about),
        (other_tenant, "ada", about),
        (tenant, "eve", Feedback(set_id=made.set_id)),
        (tenant, "ada", Feedback(uuid4())),
        (tenant, "ada", Feedback(set_id=uuid4())),
        (tenant, "ada", Feedback(set_id=made.set_id, is_success=True, rejected_ids=("h9",))),
        (tenant, "ada", Feedback(executed.execution_id, is_success=True, rejected_ids=("h9",))),
    ):
        with pytest.raises(NotFound):
            await services.feedback.give(each, user, feedback)
    bare = await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY))
    with pytest.raises(InvalidInput):
        await services.feedback.give(tenant, "ada", Feedback(bare.execution_id, rejected_ids=("h1",)))
    with pytest.raises(NotFound):
        await services.feedback.prefer(
            tenant, "unknown", hypothesis_a="a", hypothesis_b="b", preferred="tie", reward=None
        )
    assert await rows(services, tenant, "SELECT is_success FROM executions") == [(None,), (None,)]
    assert await rows(services, tenant, "SELECT kind FROM signals") == [("selection",)]


async def test_every_reaction_is_a_training_sample(services: Services, tenant: str) -> None:
    """With collection on, a choice, its ranking, a feedback, a facet's move and a preference leave one line
    each, redacted, with the ids they are about."""
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    await choose(services, tenant, "ada", DEPLOY)
    comment = "too long, mail me at nora.lind@example.org"
    await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, rating=0.5, comment=comment))
    await services.feedback.prefer(
        tenant, "ada", hypothesis_a="short", hypothesis_b="long", preferred="hypothesis_a", reward=1.0
    )

    def own(file: str) -> list[dict]:
        return [sample for sample in services.collector.read(f"{file}.jsonl") if sample["tenant_id"] == tenant]

    chosen, again = own("hypotheses_data")
    assert (chosen["hypothesis_set_id"], chosen["selected_id"], chosen["label"]) == (
        str(made.set_id),
        "h1",
        "positive",
    )
    assert [one["id"] for one in chosen["hypotheses"]] == ["h1", "h2", "h3"]
    assert again["context"]["recent_goals"]
    (ranking,) = own("ranking_data")
    assert set(ranking["used_ids"]) <= {candidate["id"] for candidate in ranking["candidates"]}
    (feedback,) = own("user_feedback")
    assert (feedback["execution_id"], feedback["rating"]) == (str(executed.execution_id), 0.5)
    assert feedback["comment"] == "too long, mail me at [EMAIL]"
    update = own("persona_updates")[-1]
    assert update["updates"]["concise"] > 0
    assert update["facets_after"]["concise"] > update["persona_facets"]["concise"]
    (preference,) = own("preferences")
    assert (preference["preferred"], preference["reward"]) == ("hypothesis_a", 1.0)
