"""Facets on the real database: choices teach them, the user has the last word, and a tenant's users tell a prior."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.errors import NotFound, VersionConflict
from app.domain.facet_evidence import LEAST_USERS
from app.domain.persona import Signal
from app.services.jobs.facet_priors import FacetPriorService
from app.services.persona import PersonaService
from app.store.facets import FacetStore
from tests.integration.conftest import choose

ASKED = "help me with my sourdough"
"""Nothing in it names a topic: the options are general ones, which lean in different ways."""


@dataclass
class SetClock:
    """A clock that is set."""

    at: datetime

    def now(self) -> datetime:
        return self.at

    def perf(self) -> float:
        return 0.0


def later(services: Services, days: float) -> PersonaService:
    """The personas as they are in so many days."""
    return replace(services.personas, clock=SetClock(datetime.now(UTC) + timedelta(days=days)))


async def say(services: Services, tenant: str, user: str, comment: str, times: int = 1) -> None:
    for _ in range(times):
        await services.personas.learn(tenant, user, Signal("feedback", {}, comment=comment))


async def known(services: Services, tenant: str, user: str) -> None:
    await services.hypotheses.hypothesize(tenant, user, "deploy my app")


async def test_choosing_among_options_is_a_comparison(services: Services, tenant: str) -> None:
    """The leanings of the options are kept with their set, and the chosen one's facet moves against the others'."""
    made = await services.hypotheses.hypothesize(tenant, "ada", ASKED)
    async with services.database.begin(tenant) as connection:
        (kept,) = (await connection.execute(text("SELECT hypotheses FROM hypothesis_sets"))).scalars()
    leanings = {each["id"]: each["leanings"] for each in kept}
    plan = next(one.id for one in made.hypotheses if leanings[one.id].get("step_by_step") == 1.0)
    await choose(services, tenant, "ada", ASKED, plan)
    persona = await services.personas.get(tenant, "ada")
    facet = persona.facets["step_by_step"]
    assert facet.value > 0.55
    assert (facet.evidence, facet.is_expressed) == (1, False)
    history = await services.personas.history(tenant, "ada")
    assert {each.reason for each in history} == {"selection"}
    async with services.database.begin(tenant) as connection:
        (evidence,) = (await connection.execute(text("SELECT evidence FROM facet_evidence"))).scalars()
    assert evidence["shown"][evidence["chosen"]]["step_by_step"] == 1.0
    assert evidence["remark"] == {}


async def test_a_preference_between_two_wordings_is_a_comparison(services: Services, tenant: str) -> None:
    await known(services, tenant, "ada")
    wordings = {"hypothesis_a": "A detailed essay about it", "hypothesis_b": "A short summary of it", "reward": None}
    await services.feedback.prefer(tenant, "ada", preferred="tie", **wordings)
    assert (await services.personas.get(tenant, "ada")).facets["concise"].value == 0.5
    await services.feedback.prefer(tenant, "ada", preferred="hypothesis_b", **wordings)
    assert (await services.personas.get(tenant, "ada")).facets["concise"].value > 0.6
    assert [each.reason for each in await services.personas.history(tenant, "ada")] == ["preference"]


async def test_what_is_not_heard_again_is_forgotten_by_and_by(services: Services, tenant: str) -> None:
    await known(services, tenant, "ada")
    await say(services, tenant, "ada", "too long", 4)
    await services.personas.correct(tenant, "ada", {"formal": 0.9})
    now = (await services.personas.get(tenant, "ada")).facets
    in_years = (await later(services, 2000).get(tenant, "ada")).facets
    assert now["concise"].is_expressed
    assert not in_years["concise"].is_expressed
    assert in_years["concise"].uncertainty > 1.5 * now["concise"].uncertainty
    assert in_years["formal"].value == now["formal"].value == 0.9
    assert in_years["formal"].is_expressed


async def test_a_correction_outranks_what_was_learned(services: Services, tenant: str) -> None:
    await known(services, tenant, "ada")
    await say(services, tenant, "ada", "too long", 9)
    corrected = await services.personas.correct(tenant, "ada", {"concise": 0.1})
    assert (corrected.facets["concise"].value, corrected.facets["concise"].evidence) == (0.1, 0)
    await say(services, tenant, "ada", "too long")
    facet = (await services.personas.get(tenant, "ada")).facets["concise"]
    assert 0.1 < facet.value < 0.2
    assert facet.is_expressed


async def test_nothing_but_the_user_moves_what_is_pinned(services: Services, tenant: str) -> None:
    """With a value or at the one it has; let go, it is learned again from there."""
    await known(services, tenant, "ada")
    await say(services, tenant, "ada", "too long", 3)
    learned = (await services.personas.get(tenant, "ada")).facets["concise"].value
    pinned = await services.personas.correct(tenant, "ada", {"formal": 0.2}, pins={"concise": True, "formal": True})
    await say(services, tenant, "ada", "too brief, too casual", 9)
    held = await services.personas.get(tenant, "ada")
    assert held.facets["concise"] == pinned.facets["concise"]
    assert (held.facets["concise"].value, held.facets["formal"].value) == (learned, 0.2)
    assert held.facets["step_by_step"].value > 0.5
    moved = await services.personas.correct(tenant, "ada", {"concise": 0.4})
    assert (moved.facets["concise"].value, moved.facets["concise"].is_pinned) == (0.4, True)
    await services.personas.correct(tenant, "ada", {}, pins={"concise": False})
    await say(services, tenant, "ada", "too brief")
    assert (await services.personas.get(tenant, "ada")).facets["concise"].value < 0.4
    reasons = [each.reason for each in await services.personas.history(tenant, "ada") if each.facet == "concise"]
    assert reasons == [*["feedback, comment"] * 3, "pinned", "correction", "unpinned", "feedback, comment"]


async def test_a_deleted_facet_leaves_nothing_and_takes_nothing_else(services: Services, tenant: str) -> None:
    await known(services, tenant, "ada")
    await say(services, tenant, "ada", "too long and too formal", 3)
    await say(services, tenant, "ada", "too long")
    await services.personas.correct(tenant, "ada", {"patience": 0.9})
    before = await services.personas.get(tenant, "ada")
    deleted = await services.personas.forget(tenant, "ada", "concise")
    assert (deleted.facets["concise"].value, deleted.facets["concise"].evidence) == (0.5, 0)
    assert deleted.facets["formal"].mean == before.facets["formal"].mean
    assert deleted.version == before.version + 1
    exported = b"".join([line async for line in services.transfer.export(tenant, "ada")])
    rows = [orjson.loads(line) for line in exported.splitlines()]
    assert "concise" not in str([row for row in rows if row["table"].startswith("facet_")])
    assert sum(row["table"] == "facet_evidence" for row in rows) == 3
    await services.personas.forget(tenant, "ada", "patience")
    assert "patience" not in (await services.personas.get(tenant, "ada")).facets
    with pytest.raises(NotFound, match="no such facet"):
        await services.personas.forget(tenant, "ada", "patience")
    with pytest.raises(NotFound, match="no such user"):
        await services.personas.forget(tenant, "bob", "concise")
    with pytest.raises(VersionConflict):
        await services.personas.forget(tenant, "ada", "concise", version=0)
    await say(services, tenant, "ada", "too long")
    assert (await services.personas.get(tenant, "ada")).facets["concise"].evidence == 1


async def test_a_persona_comes_back_from_an_export(services: Services, tenant: str, other_tenant: str) -> None:
    """To the last digit, and what is learned afterwards is the same."""
    await known(services, tenant, "ada")
    await say(services, tenant, "ada", "too long", 2)
    await services.feedback.prefer(
        tenant, "ada", hypothesis_a="a formal report", hypothesis_b="a chat", preferred="hypothesis_b", reward=None
    )
    await services.personas.correct(tenant, "ada", {"patience": 0.9}, pins={"patience": True})
    lines = [line async for line in services.transfer.export(tenant, "ada")]
    await services.transfer.import_(other_tenant, lines)
    assert (await services.personas.get(other_tenant, "ada")).facets == (
        await services.personas.get(tenant, "ada")
    ).facets
    for each in (tenant, other_tenant):
        await say(services, each, "ada", "show me the code")
    one, other = [(await services.personas.get(each, "ada")).facets for each in (tenant, other_tenant)]
    assert {name: (facet.mean, facet.variance) for name, facet in one.items()} == {
        name: (facet.mean, facet.variance) for name, facet in other.items()
    }


async def test_an_export_of_an_earlier_release_is_carried_along(services: Services, tenant: str) -> None:
    """Its facets have the mean and the strength of a Beta."""
    await known(services, tenant, "ada")
    lines = [orjson.loads(line) async for line in services.transfer.export(tenant, "ada")]
    facets = {"concise": {"value": 0.8, "strength": 5.0}, "formal": {"value": 1.0, "strength": 20.0}}
    old = [line | {"facets": facets} if line["table"] == "users" else line for line in lines]
    await services.transfer.erase(tenant, "ada")
    await services.transfer.import_(tenant, [orjson.dumps(line) for line in old])
    found = (await services.personas.get(tenant, "ada")).facets
    assert (found["concise"].value, found["concise"].variance) == (0.8, pytest.approx(1 / 30))
    assert (found["formal"].value, found["formal"].variance) == (1.0, pytest.approx(1 / 120))
    await say(services, tenant, "ada", "too long")
    assert 0.8 < (await services.personas.get(tenant, "ada")).facets["concise"].value < 0.9


async def test_the_users_of_a_tenant_tell_a_prior(services: Services, tenant: str, other_tenant: str) -> None:
    """Once they are enough, and only for their own tenant; gone with those who are erased."""
    priors = FacetPriorService(services.database, FacetStore(), services.personas.clock, 180.0)
    for number in range(LEAST_USERS):
        await known(services, tenant, f"u{number}")
        await say(services, tenant, f"u{number}", "too long, show me the code", 3)
    await known(services, tenant, "new")
    await known(services, other_tenant, "new")
    before = await services.personas.get(tenant, "new")
    assert (await priors.learn(other_tenant)) is None
    prior = await priors.learn(tenant)
    assert prior is not None
    assert (prior.users, prior.version) == (LEAST_USERS, 1)
    assert (await services.personas.get(tenant, "new")).facets == before.facets
    for each in (tenant, other_tenant):
        await say(services, each, "new", "too formal")
    facet = (await services.personas.get(tenant, "new")).facets["concise"]
    assert facet.value > 0.55
    assert (facet.evidence, facet.is_expressed) == (0, False)
    assert (await services.personas.get(other_tenant, "new")).facets["concise"].value == 0.5
    await services.transfer.erase(tenant, "u0")
    await services.transfer.erase(tenant, "new")
    assert await priors.learn(tenant) is None
    async with services.database.begin(tenant) as connection:
        assert (await FacetStore().prior(connection, tenant)).users == 0
