"""Personas under parallel signals: every one counts, once, and the history says why."""

import asyncio
from itertools import pairwise

import pytest

from app.api.deps import Services
from app.domain.errors import InvalidInput, NotFound, VersionConflict
from app.domain.persona import Persona, Signal
from app.services.feedback import Feedback
from tests.integration.conftest import choose


async def test_two_hundred_signals_at_once_all_count(services: Services, tenant: str) -> None:
    """200 equal signals in parallel give the very value of 200 in sequence, one version each, and a history
    in which every change begins where the one before it ended."""
    await services.hypotheses.hypothesize(tenant, "ada", "deploy my app")
    signal = Signal("feedback", {}, comment="a bit too long")
    await asyncio.gather(*(services.personas.learn(tenant, "ada", signal) for _ in range(200)))

    await services.hypotheses.hypothesize(tenant, "bob", "deploy my app")
    for _ in range(200):
        await services.personas.learn(tenant, "bob", signal)
    expected = await services.personas.get(tenant, "bob")
    persona = await services.personas.get(tenant, "ada")
    history = await services.personas.history(tenant, "ada")
    assert persona.version == len(history) == expected.version == 200
    concise, other = persona.facets["concise"], expected.facets["concise"]
    assert (concise.mean, concise.variance, concise.evidence) == (other.mean, other.variance, 200)
    assert concise.mean == pytest.approx(0.5 + 0.5 * 200 * 6 / (12 + 200 * 6))
    assert [change.version for change in history] == list(range(1, 201))
    assert {(change.facet, change.reason) for change in history} == {("concise", "feedback, comment")}
    assert all(earlier.after == later.before for earlier, later in pairwise(history))
    assert (history[0].before, history[-1].after) == (0.5, persona.facets["concise"].value)


async def test_opposite_signals_at_once_add_up_in_some_order(services: Services, tenant: str) -> None:
    """Mixed signals and outright corrections in parallel leave one unbroken chain of changes per facet."""
    await services.hypotheses.hypothesize(tenant, "ada", "deploy my app")
    comments = ["too long", "too brief", "more formal", "show me the code"]
    await asyncio.gather(
        *(services.personas.learn(tenant, "ada", Signal("feedback", {}, comment=comments[n % 4])) for n in range(60)),
        *(services.personas.correct(tenant, "ada", {"concise": n / 10, "patience": 0.9}) for n in range(6)),
    )
    persona = await services.personas.get(tenant, "ada")
    history = await services.personas.history(tenant, "ada")
    assert persona.version == max(change.version for change in history) == 66
    for name, facet in persona.facets.items():
        chain = [change for change in history if change.facet == name]
        assert all(earlier.after == later.before for earlier, later in pairwise(chain))
        assert facet.value == (chain[-1].after if chain else 0.5)


async def test_the_history_names_its_signals(services: Services, tenant: str) -> None:
    """Each change carries the signal it came from and the reason, without the user's words."""
    _, executed = await choose(services, tenant, "ada", "write a tutorial step by step")
    await services.feedback.give(
        tenant, "ada", Feedback(executed.execution_id, comment="too long, you zebra", rating=-0.5, rejected_ids=("h2",))
    )
    await services.personas.correct(tenant, "ada", {"formal": 0.9})
    history = await services.personas.history(tenant, "ada")
    assert {change.reason.split(",")[0] for change in history} == {"selection", "feedback", "correction"}
    assert all((change.signal_id is None) == (change.reason == "correction") for change in history)
    assert len({change.signal_id for change in history}) == 3
    assert "zebra" not in str(history)
    assert "feedback, comment, rating -0.50, 1 rejected" in {change.reason for change in history}


async def test_a_correction_is_refused_on_another_version(services: Services, tenant: str) -> None:
    """Of many corrections of the version all of them saw exactly one is made; the others change nothing."""
    await services.hypotheses.hypothesize(tenant, "ada", "deploy my app")
    outcomes = await asyncio.gather(
        *(services.personas.correct(tenant, "ada", {"concise": n / 20}, version=0) for n in range(20)),
        return_exceptions=True,
    )
    made = [one for one in outcomes if isinstance(one, Persona)]
    assert len(made) == 1
    assert sum(isinstance(one, VersionConflict) for one in outcomes) == 19
    persona = await services.personas.get(tenant, "ada")
    assert (persona.version, persona.facets) == (1, made[0].facets)
    corrected = await services.personas.correct(tenant, "ada", {"concise": 0.25, "patience": 1.0}, version=1)
    assert (corrected.facets["concise"].value, corrected.facets["patience"].value) == (0.25, 1.0)
    with pytest.raises(VersionConflict, match="version 2, not 1"):
        await services.personas.correct(tenant, "ada", {"concise": 0.5}, version=1)
    assert len(await services.personas.history(tenant, "ada")) == 3


async def test_a_correction_names_a_facet(services: Services, tenant: str) -> None:
    await services.hypotheses.hypothesize(tenant, "ada", "deploy my app")
    with pytest.raises(InvalidInput, match="at least one facet"):
        await services.personas.correct(tenant, "ada", {})


async def test_an_unknown_user_has_no_persona(services: Services, tenant: str, other_tenant: str) -> None:
    """No user, or one of another tenant: NotFound, for reading, history, learning and correcting."""
    await services.hypotheses.hypothesize(other_tenant, "ada", "deploy my app")
    for call in (
        services.personas.get(tenant, "ada"),
        services.personas.history(tenant, "ada"),
        services.personas.learn(tenant, "ada", Signal("feedback", {}, comment="too long")),
        services.personas.correct(tenant, "ada", {"concise": 0.5}),
    ):
        with pytest.raises(NotFound):
            await call
