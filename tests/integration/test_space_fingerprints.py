"""A model that is replaced behind its address under the same name: noticed, refused, and changed to like any other."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.embeddings import AS_TOLD, Labels
from app.domain.errors import InvalidInput, ModelUnavailable, OtherSpace
from app.domain.memory import MemoryType
from app.domain.spaces import PROBE
from app.services.ranking import SearchRequest
from app.services.space_switch import SpaceSwitch
from app.settings import Settings
from app.store.engine import Database
from app.wiring import build_services, build_switch
from tests.integration.conftest import facts
from tests.served import Addresses, Served

ADDRESS = "http://new.example/embed"
OWN = "http://old.example/embed"
"""Where tenants begin."""


class House:
    """A tenant, and as many processes as are begun, on one database."""

    def __init__(self, settings: Settings, database: Database, tenant: str, addresses: Addresses) -> None:
        self.settings = settings.model_copy(update={"embed_endpoint": OWN})
        self.database, self.tenant = database, tenant
        self.own = addresses[OWN] = Served(f"old-{tenant}")
        self.model = addresses[ADDRESS] = Served(f"model-{tenant}")
        self.services, self.switch = self.begun()

    def begun(self) -> tuple[Services, SpaceSwitch]:
        """A process that has asked nobody yet."""
        self.services = build_services(self.settings, self.database, self.own)
        self.switch = build_switch(self.database, self.services.spaces)
        return self.services, self.switch

    async def remember(self, *said: str) -> None:
        await self.services.memories.add(self.tenant, "ada", facts(*said, kind=MemoryType.HISTORY))

    async def found(self, query: str) -> tuple[str, bool]:
        """What was found first, and whether by words alone."""
        found = await self.services.ranking.search(self.tenant, "ada", SearchRequest(query))
        return found.ranked[0].memory.content, found.is_degraded

    async def switched(self, labels: Labels = AS_TOLD) -> None:
        await self.switch.create(self.tenant, ADDRESS, labels)
        await self.switch.fill(self.tenant)
        await self.switch.switch(self.tenant)

    async def rows(self, query: str) -> list[Any]:
        async with self.database.begin(self.tenant) as connection:
            return list(await connection.execute(text(query)))


@pytest.fixture
async def house(
    settings: Settings, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    addresses = Addresses()
    monkeypatch.setattr("app.wiring.HttpEmbedder", addresses.open)
    house = House(settings, database, tenant, addresses)
    yield house
    await house.services.afterwards.aclose()


async def test_a_replaced_model_is_refused_in_one_line(house: House) -> None:
    """Searches go on by words, nothing is written, and the reason says where, what and what to do."""
    await house.remember("I like tea")
    await house.switched()
    house.model.weights = "another"
    house.begun()
    assert await house.found("tea") == ("I like tea", True)
    with pytest.raises(OtherSpace) as caught:
        await house.remember("I like snow")
    line = str(caught.value)
    assert caught.value.cause == "other_space"
    assert "\n" not in line
    for part in (house.model.space.id, f"{ADDRESS} has another model now", f"create --endpoint {ADDRESS} --revision"):
        assert part in line
    assert await house.rows("SELECT 1 FROM memories WHERE content = 'I like snow'") == []

    house.model.weights = house.model.name
    house.begun()
    assert await house.found("tea") == ("I like tea", False), "it was brought back"


async def test_what_is_refused_is_asked_again_when_it_has_rested(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.remember("I like tea")
    await house.switched()
    house.model.weights = "another"
    house.begun()
    assert (await house.found("tea"))[1]
    house.model.calls.clear()
    assert (await house.found("tea"))[1]
    assert house.model.calls == [], "it rests"
    monkeypatch.setattr("app.services.fingerprints.REST", timedelta(0))
    house.model.weights = house.model.name
    assert await house.found("tea") == ("I like tea", False)


async def test_the_new_model_is_changed_to_under_a_revision(house: House) -> None:
    await house.remember("I like tea", "I like boats")
    await house.switched()
    old = house.model.space
    house.model.weights = "another"
    house.begun()
    for refused in (house.switch.create, house.switch.plan):
        with pytest.raises(OtherSpace, match="--revision NEW"):
            await refused(house.tenant, ADDRESS)
    await house.switch.drop(house.tenant)  # the space before
    await house.switched(Labels(revision="2"))
    assert await house.found("boats") == ("I like boats", False)
    serving, kept = await house.switch.status(house.tenant)
    assert (serving.space.id, kept.space.id) == (f"{old.model}@2:384:mean:l2", old.id)
    await house.remember("I like snow")
    assert await house.found("snow") == ("I like snow", False)
    with pytest.raises(OtherSpace):
        await house.switch.switch(house.tenant)
    await house.switch.drop(house.tenant)
    assert [one.role for one in await house.switch.status(house.tenant)] == ["serving"]


async def test_after_an_outage_it_is_compared_before_anything_is_written(house: House) -> None:
    await house.remember("I like tea")
    await house.switched()
    house.model.error = ModelUnavailable("it is restarted", "unreachable")
    with pytest.raises(ModelUnavailable, match="restarted"):
        await house.remember("I like snow")
    house.model.error = None
    house.model.weights = "another"
    with pytest.raises(OtherSpace):
        await house.remember("I like snow")


async def test_a_restart_that_nobody_noticed_is_noticed_within_a_minute(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.remember("I like tea")
    await house.switched()
    house.model.calls.clear()
    await house.found("tea")
    assert PROBE not in house.model.texts, "it is trusted for a while"
    monkeypatch.setattr("app.services.fingerprints.TRUSTED", timedelta(0))
    await house.found("tea")
    assert house.model.texts.count(PROBE) == 1
    house.model.weights = "another"
    assert (await house.found("tea"))[1]


async def test_a_space_from_before_gets_its_fingerprint_when_it_is_used(house: House) -> None:
    await house.remember("I like tea")
    await house.switched()
    query = f"SELECT told, fingerprint IS NULL FROM embedding_spaces WHERE model = '{house.model.name}'"
    assert await house.rows(query) == [(house.model.space.id, False)]
    await house.rows(
        f"UPDATE embedding_spaces SET told = NULL, fingerprint = NULL WHERE model = '{house.model.name}' RETURNING 1"
    )
    house.model.revision = "told-by-a-newer-server"
    house.begun()
    assert await house.found("tea") == ("I like tea", False)
    assert await house.rows(query) == [(house.model.space.id, False)]


async def test_another_revision_that_is_told_is_another_model(house: House) -> None:
    house.model.revision = "1"
    await house.remember("I like tea")
    await house.switched()
    house.model.revision = "2"
    house.begun()
    assert (await house.found("tea"))[1]
    with pytest.raises(OtherSpace, match=r"gives vectors of .*@2:384:mean:l2 now"):
        await house.remember("I like snow")
    await house.switched()
    assert await house.found("tea") == ("I like tea", False)


async def test_a_prefix_is_put_before_whatever_is_embedded(house: House) -> None:
    """Memories and queries, in this space and in no other at the same address; the model never sees them without."""
    await house.remember("I like tea")
    await house.switched(Labels(prefix="query: "))
    await house.remember("I like boats")
    assert await house.found("boats") == ("I like boats", False)
    assert {"query: I like tea", "query: I like boats", "query: boats", f"query: {PROBE}"} <= set(house.model.texts)
    assert all(text.startswith("query: ") for text in house.model.texts)
    serving = (await house.switch.status(house.tenant))[0]
    assert serving.space.space.prefix == "query: "

    await house.switch.drop(house.tenant)
    await house.switched()
    assert await house.found("boats") == ("I like boats", False)
    assert "I like boats" in house.model.texts
    assert len({one.space.id for one in await house.switch.status(house.tenant)}) == 2


async def test_what_is_said_of_it_is_part_of_what_it_is(house: House) -> None:
    await house.remember("I like tea")
    labels = Labels("2024-05", "cls", "passage: ")
    plan = await house.switch.plan(house.tenant, ADDRESS, labels)
    await house.switched(labels)
    serving = (await house.switch.status(house.tenant))[0].space
    assert serving.space == plan.to == labels.of(house.model.space)
    with pytest.raises(InvalidInput, match="serves already"):
        await house.switch.create(house.tenant, ADDRESS, labels)
    house.begun()
    assert await house.found("tea") == ("I like tea", False), "another process knows it by what is stored"


async def test_tenants_begin_in_the_space_of_what_is_said(house: House, settings: Settings, database: Database) -> None:
    """EMBED_REVISION and EMBED_PREFIX are for EMBED_ENDPOINT what the options are for `space create`."""
    labelled = settings.model_copy(update={"embed_endpoint": ADDRESS, "embed_revision": "7", "embed_prefix": "query: "})
    services = build_services(labelled, database, house.model)
    await services.memories.add(house.tenant, "ada", facts("I like tea"))
    space = (await services.spaces.of(house.tenant)).serving
    assert (space.space.revision, space.space.prefix, space.endpoint) == ("7", "query: ", ADDRESS)
    assert "query: I like tea" in house.model.texts
    assert services.spaces.own_space == space.space


async def test_a_filling_writes_nothing_of_a_replaced_model(house: House) -> None:
    await house.remember(*(f"I keep thing number {number} of {number * 7}" for number in range(20)))
    await house.switch.create(house.tenant, ADDRESS)
    house.model.weights = "another"
    house.begun()
    with pytest.raises(OtherSpace):
        await house.switch.fill(house.tenant)
    (made,) = [one for one in await house.switch.status(house.tenant) if one.role == "filling"]
    assert made.lacking == 20


async def test_a_service_starts_beside_a_replaced_model(house: House, settings: Settings, database: Database) -> None:
    """It serves by words until somebody changes the space."""
    own = settings.model_copy(update={"embed_endpoint": ADDRESS})
    services = build_services(own, database, house.model)
    await services.catalogues.warm()
    await services.memories.add(house.tenant, "ada", facts("I like tea"))
    house.model.weights = "another"
    again = build_services(own, database, house.model)
    await again.catalogues.warm()
    found = await again.ranking.search(house.tenant, "ada", SearchRequest("tea"))
    assert (found.is_degraded, found.ranked[0].memory.content) == (True, "I like tea")
