"""From a choice to one enriched prompt: only the user's own, within the budget, without secrets, and learned from."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import Draft, MemoryType
from app.services.choices import ExecuteRequest
from app.services.feedback import Feedback
from app.services.ranking import SearchRequest
from tests.integration.conftest import choose, facts

DEPLOY = "deploy my app"
SELECTED = text("SELECT outcome, chosen_id, answer FROM hypothesis_sets WHERE set_id = :set_id")


async def outcome(services: Services, tenant: str, set_id: object) -> tuple:
    async with services.database.begin(tenant) as connection:
        return tuple((await connection.execute(SELECTED, {"set_id": set_id})).one())


async def memories_of(services: Services, tenant: str, user: str) -> list[tuple[str, str, str]]:
    query = text("SELECT type, source, content FROM memories WHERE user_id = :user ORDER BY created_at, content")
    async with services.database.begin(tenant) as connection:
        return [tuple(row) for row in (await connection.execute(query, {"user": user})).all()]


async def test_what_is_not_the_users_is_not_there(services: Services, tenant: str, other_tenant: str) -> None:
    """An unknown hypothesis, an unknown set, another user's set and another tenant's set are the same NotFound,
    and nothing is written for any of them."""
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    for each, user, set_id, hypothesis in (
        (tenant, "ada", made.set_id, "h9"),
        (tenant, "ada", made.set_id, ""),
        (tenant, "ada", uuid4(), "h1"),
        (tenant, "eve", made.set_id, "h1"),
        (other_tenant, "ada", made.set_id, "h1"),
    ):
        with pytest.raises(NotFound):
            await services.context.execute(each, user, ExecuteRequest(DEPLOY, set_id, hypothesis))
    with pytest.raises(InvalidInput):
        await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY, None, "h1"))
    async with services.database.begin(tenant) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM executions"))).scalar_one() == 0
        assert (await connection.execute(text("SELECT count(*) FROM users WHERE user_id = 'eve'"))).scalar_one() == 0
    assert await outcome(services, tenant, made.set_id) == (None, None, None)


async def test_a_choice_becomes_a_prompt_and_a_memory(services: Services, tenant: str) -> None:
    """The prompt says what was chosen with the memory behind it; the choice is a GOAL from then on."""
    (memory,) = (await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))).ids
    await services.memories.add(tenant, "eve", facts("I deploy my app on the dark side of the moon"))
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    prompt = executed.prompt
    assert "deploy my app on AWS with Docker in Python" in prompt.text
    assert "the dark side" not in prompt.text
    assert [use.memory_id for use in prompt.uses] == [memory]
    assert set(prompt.breakdown) == {
        "goal_summary",
        "preferences_style",
        "critical_artifacts",
        "recent_history",
        "constraints",
        "task_specific_retrieval",
        "safety_system",
    }
    assert prompt.breakdown["preferences_style"] > 0
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert await outcome(services, tenant, made.set_id) == ("selected", "h1", None)
    assert ("GOAL", "selection", "deploy my app on AWS with Docker in Python") in await memories_of(
        services, tenant, "ada"
    )
    await choose(services, tenant, "ada", DEPLOY)
    goals = [content for kind, _, content in await memories_of(services, tenant, "ada") if kind == "GOAL"]
    assert len(goals) == 1, "the same goal is remembered once"


@pytest.mark.parametrize(
    ("answer", "learned"),
    [
        ("I prefer Heroku", ("PREFERENCE", "selection", "I prefer Heroku")),
        ("It must run in Germany", ("CONSTRAINT", "selection", "It must run in Germany")),
        ("on Heroku", ("GOAL", "selection", "deploy my app. on Heroku")),
    ],
)
async def test_an_answer_of_ones_own(
    services: Services, tenant: str, answer: str, learned: tuple[str, str, str]
) -> None:
    """A custom answer is in the prompt and remembered, says that no hypothesis was meant, and is offered the
    next time; together with a hypothesis it refines it."""
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    request = ExecuteRequest(DEPLOY, made.set_id, custom_answer=answer)
    executed = await services.context.execute(tenant, "ada", request)
    assert answer in executed.prompt.text
    assert await outcome(services, tenant, made.set_id) == ("custom", None, answer)
    assert await memories_of(services, tenant, "ada") == [learned]
    again = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    assert any(answer.rstrip(".") in one.question or "Heroku" in one.question for one in again.hypotheses)

    both = await services.hypotheses.hypothesize(tenant, "bob", DEPLOY)
    refined = await services.context.execute(tenant, "bob", ExecuteRequest(DEPLOY, both.set_id, "h2", answer))
    assert answer in refined.prompt.text
    assert both.hypotheses[1].request in refined.prompt.text
    assert await outcome(services, tenant, both.set_id) == ("selected", "h2", answer)


async def test_without_a_choice_nothing_is_learned(services: Services, tenant: str) -> None:
    """The bare input makes a prompt for a user nobody knew, and no memory and no facet."""
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY, made.set_id))
    executed = await services.context.execute(tenant, "new", ExecuteRequest(DEPLOY))
    assert DEPLOY in executed.prompt.text
    assert await memories_of(services, tenant, "ada") == await memories_of(services, tenant, "new") == []
    assert await outcome(services, tenant, made.set_id) == (None, None, None)
    assert (await services.personas.get(tenant, "new")).version == 0


async def test_the_budget_is_kept(services: Services, tenant: str) -> None:
    """However much there is to say, the prompt has at most the tokens asked for, counted by the tokenizer
    itself, and its sections no more than that; the tenant's own budget holds where none is asked."""
    words = "alpha bravo charlie delta echo foxtrot golf hotel".split()
    await services.memories.add(
        tenant,
        "ada",
        [
            Draft(kind, f"Deploy note {number} {word}: " + f"{word} server cluster release " * 12)
            for number, word in enumerate(words)
            for kind in (MemoryType.HISTORY, MemoryType.ARTIFACT)
        ],
    )
    count = SentencePieceTokenizer().count
    for budget in (256, 400, 1200):
        for said in (DEPLOY, "many words " * 1000):
            request = ExecuteRequest(said, token_budget=budget)
            prompt = (await services.context.execute(tenant, "ada", request)).prompt
            assert count(prompt.text) == prompt.tokens <= budget
            assert sum(prompt.breakdown.values()) <= budget
            assert said in prompt.text or said != DEPLOY
    await services.catalogues.save_document(tenant, {"token_budget": 300})
    assert (await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY))).prompt.tokens <= 300


async def test_secrets_are_hidden_in_the_prompt_and_kept_as_written(services: Services, tenant: str) -> None:
    """Addresses, keys and card numbers reach neither the prompt nor a hypothesis, in which they are counted
    and named; the memory itself keeps what the user wrote."""
    secrets = ["nora.lind@example.org", "sk-proj-Abc123Def456Ghi789Jkl012Mno345Pqr678", "4111 1111 1111 1111"]
    content = f"I deploy my app as {secrets[0]} with {secrets[1]} and pay by {secrets[2]}"
    (memory,) = (await services.memories.add(tenant, "ada", facts(content))).ids
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    shown = " ".join(one.question + one.request + one.rationale for one in made.hypotheses)
    for secret in secrets:
        assert secret not in executed.prompt.text + str(executed.prompt.messages)
        assert secret not in shown
    assert "[EMAIL]" in executed.prompt.text
    assert {"EMAIL", "API_KEY", "CARD"} <= set(executed.prompt.redactions)
    assert (await services.memories.get(tenant, memory)).content == content
    found = await services.ranking.search(tenant, "ada", SearchRequest("deploy"))
    assert content in [item.memory.content for item in found.ranked]
    said = await services.context.execute(tenant, "ada", ExecuteRequest(f"write to {secrets[0]}"))
    assert secrets[0] not in said.prompt.text


async def sure(services: Services, tenant: str, user: str) -> None:
    """Make the service sure of what `deploy my app` means for a user."""
    await services.memories.add(tenant, user, facts("I write Python and deploy with Docker on AWS"))
    await services.catalogues.save_document(tenant, {"auto_advance_confidence": 0.5, "question_cost": 0.5})


@pytest.mark.parametrize(
    ("feedback", "becomes"),
    [
        ({"is_success": True}, "selected"),
        ({"rating": 0.7}, "selected"),
        ({"is_success": False}, "assumed"),
        ({"rating": -0.7}, "assumed"),
        ({"comment": "hm"}, "assumed"),
    ],
)
async def test_what_the_service_assumed_counts_only_once_it_was_liked(
    services: Services, tenant: str, feedback: dict, becomes: str
) -> None:
    """Taking the first hypothesis of a set that advanced by itself is `assumed`: no choice to learn from
    until positive feedback makes it one."""
    await sure(services, tenant, "ada")
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    assert made.decision == "auto_advance"
    assert await outcome(services, tenant, made.set_id) == ("assumed", "h1", None)
    assert "GOAL" not in {kind for kind, _, _ in await memories_of(services, tenant, "ada")}
    again = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    assert again.hypotheses[0].score == pytest.approx(made.hypotheses[0].score, abs=1e-3)
    await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, **feedback))
    assert (await outcome(services, tenant, made.set_id))[0] == becomes
    after = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    change = after.hypotheses[0].score - made.hypotheses[0].score
    assert (change > 0.1) == (becomes == "selected")
    assert (change < -0.1) == (feedback.get("is_success") is False)


async def test_choosing_another_than_the_assumed_one_is_a_choice(services: Services, tenant: str) -> None:
    """In a set that advanced by itself, any other hypothesis, or words of one's own, are the user's choice."""
    await sure(services, tenant, "ada")
    made, _ = await choose(services, tenant, "ada", DEPLOY, "h2")
    assert made.decision == "auto_advance"
    assert (await outcome(services, tenant, made.set_id))[:2] == ("selected", "h2")
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY, made.set_id, "h1", "with a rollback"))
    assert await outcome(services, tenant, made.set_id) == ("selected", "h1", "with a rollback")
