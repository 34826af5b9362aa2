"""The way back to the built-in model, where the process's own embedder is an endpoint's by now (EMBED_ENDPOINT)."""

from collections.abc import AsyncIterator

import pytest

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import ModelUnavailable
from app.domain.memory import MemoryType
from app.services.jobs.queue import JobQueue, tenant_job
from app.services.jobs.run import JobHandler
from app.services.jobs.spaces import SPACE_BACKLOG, SPACE_FILL
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.wiring import build_services, build_switch, late_spaces
from app.wiring_jobs import build_space_jobs
from tests.integration.conftest import facts
from tests.jobs import is_empty, queue_of, until, working
from tests.served import Addresses, Served

ADDRESS = "http://new.example/embed"
BUILT_IN = "all-MiniLM-L6-v2"


class House:
    """A tenant whose memories were in the built-in model's space, and who was switched to an endpoint's; `after`: a
    process that was started with EMBED_ENDPOINT since."""

    def __init__(self, after: Services, settings: Settings, model: Served, tenant: str) -> None:
        self.after, self.settings, self.model, self.tenant = after, settings, model, tenant

    async def remember(self, said: str) -> None:
        await self.after.memories.add(self.tenant, "ada", facts(said, kind=MemoryType.HISTORY))

    async def found(self, query: str) -> tuple[str, str]:
        """The model that answered, and what was found first."""
        found = await self.after.ranking.search(self.tenant, "ada", SearchRequest(query))
        assert not found.is_degraded
        return found.space.split("@")[0], found.ranked[0].memory.content

    async def roles(self) -> dict[str, tuple[str, int]]:
        """Role and what is lacking, by the model's name."""
        found = await build_switch(self.after.database, self.after.spaces).status(self.tenant)
        return {one.space.space.model: (one.role, one.lacking) for one in found}


@pytest.fixture
async def house(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    addresses = Addresses()
    model = addresses[ADDRESS] = Served(f"model-{tenant}")
    monkeypatch.setattr("app.wiring.HttpEmbedder", addresses.open)
    before = build_services(settings, database, embedder)
    await before.memories.add(tenant, "ada", facts("I like tea", kind=MemoryType.HISTORY))
    switch = build_switch(database, before.spaces)
    await switch.create(tenant, ADDRESS)
    await switch.fill(tenant)
    await switch.switch(tenant)
    since = settings.model_copy(update={"embed_endpoint": ADDRESS})
    after = build_services(since, database, model)
    yield House(after, since, model, tenant)
    for each in (before, after):
        await each.afterwards.aclose()
        await each.spaces.aclose()


async def test_the_kept_space_is_kept_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in model embeds in it, loaded when there is something to embed, and the switch back loses nothing."""
    monkeypatch.setattr("app.services.spaces.SECOND_S", 30.0)  # else a slow machine loads it for the next write only
    late = house.after.spaces._built_in
    assert late.backend == "late"
    assert (await house.found("tea"))[0] == house.model.name
    assert late.backend == "late", "nobody needed it"
    await house.remember("I like snow")
    assert (await house.roles())[BUILT_IN] == ("kept", 0)
    assert late.backend == "onnx"
    await build_switch(house.after.database, house.after.spaces).switch(house.tenant)
    assert await house.found("snow") == (BUILT_IN, "I like snow")
    await house.remember("I like rain")
    assert await house.roles() == {BUILT_IN: ("serving", 0), house.model.name: ("kept", 0)}


async def test_the_command_switches_back(house: House) -> None:
    """In a process of its own, which loads the model for what was written while nothing could."""
    house.model.calls.clear()
    async with late_spaces(house.settings, house.after.database) as spaces:
        switch = build_switch(house.after.database, spaces)
        await _note_all(house)
        assert (await house.roles())[BUILT_IN] == ("kept", 1)
        assert (await switch.switch(house.tenant)).lacking == 0
    assert await house.found("tea") == (BUILT_IN, "I like tea")


async def test_a_worker_fills_what_is_lacking(house: House) -> None:
    queue: JobQueue = queue_of(house.after.database)
    await _note_all(house)
    async with late_spaces(house.settings, house.after.database) as spaces:
        jobs = build_space_jobs(house.after.database, spaces)
        async with house.after.database.begin(house.tenant) as connection:
            await queue.add(connection, tenant_job(SPACE_BACKLOG, house.tenant))
        async with working(
            house.after.database, JobHandler(SPACE_FILL, jobs.fill), JobHandler(SPACE_BACKLOG, jobs.look)
        ):
            await until(lambda: is_empty(queue, "space_backlog"))
            await until(lambda: is_empty(queue, "space_fill"))
    assert await queue.find(kind="space_fill", states=("dead",)) == []
    assert (await house.roles())[BUILT_IN] == ("kept", 0)


async def test_a_built_in_model_that_cannot_be_loaded_fails_no_write(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> OnnxEmbedder:
        raise ModelUnavailable("the package is missing")

    monkeypatch.setattr("app.wiring.OnnxEmbedder.load", load)
    await house.remember("I like snow")
    assert await house.roles() == {BUILT_IN: ("kept", 1), house.model.name: ("serving", 0)}


async def _note_all(house: House) -> None:
    """As if nothing had embedded in the kept space when its memories were written."""
    async with house.after.database.begin(house.tenant) as connection:
        space = next(one for one in (await house.after.spaces.of(house.tenant)).of_role("kept"))
        await connection.exec_driver_sql(f"DELETE FROM {space.memory_table} WHERE tenant_id = '{house.tenant}'")
        await connection.exec_driver_sql(
            "INSERT INTO space_backlog (tenant_id, number, kind, user_id, item_id) "
            f"SELECT tenant_id, {space.number}, 'memory', user_id, memory_id FROM memories "
            f"WHERE tenant_id = '{house.tenant}'"
        )
