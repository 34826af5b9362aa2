"""A change of embedding space under way: filled, switched to and back while people write and search, on real tables."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors, cosine
from app.domain.errors import InvalidInput, ModelUnavailable, NotFound, StaleSpace
from app.domain.memory import MemoryType
from app.services.answers import Answered
from app.services.examples import ExampleVectors
from app.services.ranking import SearchRequest
from app.services.space_switch import SpaceSwitch
from app.settings import Settings
from app.store.engine import Database
from app.store.spaces import SpaceStore
from app.store.vectors import vector_literal
from app.wiring import build_services, build_switch
from tests.fakes import FakeEmbedder
from tests.integration.conftest import facts

ENDPOINT = "http://new.example/embed"
DIMENSION = 64


class NewEmbedder(FakeEmbedder):
    """A space of 64 dimensions. `is_down`: its calls fail. `is_narrow`: those fail that come while another is under
    way. `is_another`: the same name stands for another model by now."""

    def __init__(self) -> None:
        super().__init__("new")
        self.is_down = self.is_narrow = self.is_another = False
        self._under_way = 0

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace("new", "0", DIMENSION)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.is_down:
            raise ModelUnavailable("it was switched off", "unreachable")
        if self.is_narrow and self._under_way:
            raise ModelUnavailable("did not answer within 10 s", "timeout")
        self._under_way += 1
        await asyncio.sleep(0.01 if self.is_narrow else 0)
        self._under_way -= 1
        begin = DIMENSION if self.is_another else 0
        vectors = (await super().embed(texts))[:, begin : begin + DIMENSION]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class House:
    """Two processes' services on one database, and a tenant."""

    def __init__(self, one: Services, other: Services, new: NewEmbedder, tenant: str) -> None:
        self.one, self.other, self.new, self.tenant = one, other, new, tenant
        self.switch: SpaceSwitch = build_switch(one.database, one.spaces)

    async def remember(self, user: str, *said: str, services: Services | None = None) -> Sequence[Any]:
        drafts = facts(*said, kind=MemoryType.HISTORY)  # which replaces nothing
        return (await (services or self.one).memories.add(self.tenant, user, drafts)).ids

    async def found(self, user: str, query: str, services: Services | None = None) -> tuple[str, list[str]]:
        """The space that answered, and what was found, best first."""
        found = await (services or self.one).ranking.search(self.tenant, user, SearchRequest(query, limit=20))
        assert not found.is_degraded
        return found.space, [item.memory.content for item in found.ranked]

    async def roles(self) -> dict[str, tuple[str, int]]:
        """Role and what is lacking, by the model's name."""
        return {one.space.space.model: (one.role, one.lacking) for one in await self.switch.status(self.tenant)}

    async def switched(self) -> None:
        await self.switch.create(self.tenant, ENDPOINT)
        await self.switch.fill(self.tenant)
        await self.switch.switch(self.tenant)


@pytest.fixture
async def house(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    new = NewEmbedder()
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: new)
    one, other = (build_services(settings, database, embedder) for _ in range(2))
    await one.catalogues.warm()
    yield House(one, other, new, tenant)
    for each in (one, other):
        await each.afterwards.aclose()


OLD = "all-MiniLM-L6-v2"


async def test_there_and_back_and_gone(house: House) -> None:
    said = [f"I keep note number {number} about topic {number % 7}" for number in range(70)]
    await house.remember("ada", *said)
    await house.one.hypotheses.hypothesize(house.tenant, "ada", "build api")
    plan = await house.switch.plan(house.tenant, ENDPOINT)
    assert (plan.memories, plan.inputs, plan.to.dimension) == (len(said), 1, DIMENSION)
    assert list(await house.roles()) == [OLD], "a plan changes nothing"

    made = await house.switch.create(house.tenant, ENDPOINT)
    assert (made.role, made.lacking) == ("filling", plan.memories + plan.inputs)
    assert (await house.found("ada", said[3]))[0] == house.one.embedder.space.id
    told: list[tuple[int, int]] = []
    filled = await house.switch.fill(house.tenant, lambda done, items: told.append((done, items)))
    assert (filled.role, filled.lacking) == ("filled", 0)
    assert told[0] == (0, made.lacking)
    assert told[-1] == (made.lacking, made.lacking)
    seen = await house.switch.verify(house.tenant)
    assert (seen.missing, seen.new.recall, seen.serving.recall, seen.is_good) == (0, 1.0, 1.0, True)
    assert (await house.found("ada", said[3]))[0] == house.one.embedder.space.id

    await house.switch.switch(house.tenant)
    assert await house.roles() == {"new": ("serving", 0), OLD: ("kept", 0)}
    space, found = await house.found("ada", said[3])
    assert (space, found[0]) == (house.new.space.id, said[3])
    await house.remember("ada", "I moved to Oslo")
    again = await house.one.hypotheses.hypothesize(house.tenant, "ada", "build api")
    assert again.hypotheses

    await house.switch.switch(house.tenant)
    space, found = await house.found("ada", "I moved to Oslo")
    assert (space, found[0]) == (house.one.embedder.space.id, "I moved to Oslo"), "written meanwhile"
    await house.switch.drop(house.tenant)
    assert await house.roles() == {OLD: ("serving", 0)}
    with pytest.raises(NotFound, match="space create"):
        await house.switch.switch(house.tenant)


async def test_what_a_search_compares_with_is_ready_before_the_switch(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search about oneself compares with the examples of attributes; in a filled space they are embedded before it
    serves, else the first searches after the switch wait for them."""
    prepared: list[tuple[bytes, int]] = []
    monkeypatch.setattr(
        ExampleVectors, "prepare", lambda _self, key, _texts, space: prepared.append((key, space.number))
    )
    await house.remember("ada", "I live in Oslo")
    await house.found("ada", "Where do I live now?")
    assert prepared == [], "there is no other space"
    made = await house.switch.create(house.tenant, ENDPOINT)
    await house.switch.fill(house.tenant)
    await house.found("ada", "Where do I live now?")
    assert prepared == [(b"attributes", made.space.number)]


async def test_another_process_notices_at_once(house: House) -> None:
    """Its cache says that the old space serves; the database refuses, and it embeds anew. Nobody sees an error."""
    await house.remember("ada", "I like tea", "I like boats")
    assert (await house.found("ada", "I like tea", house.other))[0] == house.one.embedder.space.id
    await house.switched()

    space, found = await house.found("ada", "I like tea", house.other)
    assert (space, found[0]) == (house.new.space.id, "I like tea")
    await house.switch.switch(house.tenant)
    await house.remember("ada", "I like snow", services=house.other)
    assert await house.roles() == {OLD: ("serving", 0), "new": ("kept", 0)}
    await house.switch.switch(house.tenant)
    made = await house.other.hypotheses.hypothesize(house.tenant, "ada", "build api")
    assert made.hypotheses
    await house.switch.switch(house.tenant)
    ids = await house.remember("ada", "I like rain")
    await house.switch.switch(house.tenant)
    await house.other.memories.update(house.tenant, ids[0], {"content": "I like hail"})
    assert "I like hail" in (await house.found("ada", "I like hail"))[1]


async def test_nothing_is_lost_of_what_is_written_while_it_goes_on(house: House) -> None:
    """Adds, changes and deletions by both processes while the space is filled, switched, switched back and again."""
    await house.remember("ada", *(f"I keep thing number {number}" for number in range(40)))
    await house.found("ada", "thing", house.other)
    kept: dict[Any, str] = {}
    is_over = asyncio.Event()

    async def write(services: Services, name: str) -> None:
        for number in range(1000):
            (first,) = await house.remember("ada", f"{name} saw bird {number} of {number * 37}", services=services)
            (second,) = await house.remember("ada", f"{name} ate cake {number} of {number * 91}", services=services)
            await services.memories.update(house.tenant, first, {"content": f"{name} saw gull {number} of {number}"})
            kept[first] = f"{name} saw gull {number} of {number}"
            await services.memories.delete_one(house.tenant, second)
            if is_over.is_set():
                return

    async def look(services: Services) -> None:
        while not is_over.is_set():
            space, found = await house.found("ada", "I keep thing number 7", services)
            assert space in {house.new.space.id, house.one.embedder.space.id}
            assert "I keep thing number 7" in found

    async def change() -> None:
        await house.switch.create(house.tenant, ENDPOINT)
        await asyncio.gather(house.switch.fill(house.tenant), house.switch.fill(house.tenant))
        for _ in range(3):
            await asyncio.sleep(0.1)
            await house.switch.switch(house.tenant)
        is_over.set()

    await asyncio.gather(
        write(house.one, "Ada"), write(house.other, "Bob"), look(house.one), look(house.other), change()
    )
    await house.switch.fill(house.tenant)

    assert (await house.switch.verify(house.tenant)).missing == 0
    assert kept
    for _ in range(2):
        for services in (house.one, house.other):
            for content in kept.values():
                assert (await house.found("ada", content, services))[1][0] == content
        await house.switch.switch(house.tenant)


async def test_a_dead_new_embedder_fails_no_write_and_no_switch_is_made(house: House) -> None:
    await house.remember("ada", "I like tea")
    await house.switch.create(house.tenant, ENDPOINT)
    await house.switch.fill(house.tenant)
    house.new.is_down = True
    await house.remember("ada", "I like snow")
    assert (await house.roles())["new"] == ("filled", 1)
    with pytest.raises(ModelUnavailable, match="switched off"):
        await house.switch.switch(house.tenant)
    assert (await house.found("ada", "I like snow"))[1][0] == "I like snow"
    house.new.is_down = False
    await house.switch.switch(house.tenant)
    assert await house.roles() == {"new": ("serving", 0), OLD: ("kept", 0)}
    assert (await house.found("ada", "I like snow"))[1][0] == "I like snow"


async def test_all_that_is_written_has_a_vector_in_both_spaces_at_once(house: House) -> None:
    """Memories, changes of them, inputs and answers: `alembic upgrade` can fill nothing, and finds nothing noted."""
    await house.remember("ada", "I like tea")
    await house.switch.create(house.tenant, ENDPOINT)
    await house.switch.fill(house.tenant)
    for weather in ("snow", "hail"):  # there and back
        (first,) = await house.remember("ada", f"I like {weather}")
        await house.one.memories.update(house.tenant, first, {"content": f"I like much {weather}"})
        made = await house.one.hypotheses.hypothesize(house.tenant, "ada", "build api")
        answered = Answered(None, (made.hypotheses[0].id,))
        await house.one.answers.answer(house.tenant, "ada", made.set_id, answered)
        assert {lacking for _, lacking in (await house.roles()).values()} == {0}
        async with house.one.database.begin(house.tenant) as connection:
            for space in (await house.one.spaces.of(house.tenant)).every:
                count = await connection.execute(text(f"SELECT count(*) FROM {space.input_table}"))
                assert count.scalar_one() >= 2
        await house.switch.switch(house.tenant)


async def test_creating_a_space_looks_at_no_memory(house: House) -> None:
    """Writers wait for it, so it does nothing that takes long; what was there is noted by whoever fills."""
    await house.remember("ada", *(f"I keep thing number {number} of {number * 7}" for number in range(40)))
    made = await house.switch.create(house.tenant, ENDPOINT)
    count = text("SELECT count(*) FROM space_backlog")
    async with house.one.database.begin(house.tenant) as connection:
        assert (await connection.execute(count)).scalar_one() == 0
    assert (made.lacking, made.items) == (40, 40), "it is known all the same"
    assert (await house.switch.verify(house.tenant)).missing == 40
    await house.remember("ada", "I like snow")
    async with house.one.database.begin(house.tenant) as connection:
        assert (await connection.execute(count)).scalar_one() == 1, "from now on it is noted"
    with pytest.raises(NotFound, match="space create"):
        await house.switch.switch(house.tenant)
    assert (await house.switch.fill(house.tenant)).lacking == 0


async def test_a_model_that_is_late_is_asked_for_less_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.space_filler.BATCH", 4)
    await house.remember("ada", *(f"I keep thing number {number} of {number * 7}" for number in range(40)))
    await house.switch.create(house.tenant, ENDPOINT)
    house.new.is_narrow = True
    assert (await house.switch.fill(house.tenant)).lacking == 0
    await house.switch.drop(house.tenant)
    await house.switch.create(house.tenant, ENDPOINT)
    house.new.is_down = True
    with pytest.raises(ModelUnavailable, match="switched off"):
        await house.switch.fill(house.tenant)


async def test_a_model_that_was_replaced_under_its_name_is_noticed(house: House) -> None:
    await house.remember("ada", *(f"I keep thing number {number} of {number * 7}" for number in range(9)))
    await house.switch.create(house.tenant, ENDPOINT)
    await house.switch.fill(house.tenant)
    house.new.is_another = True
    seen = await house.switch.verify(house.tenant)
    assert (seen.missing, seen.new_drift.sampled, seen.new_drift.changed) == (0, 9, 9)
    assert (seen.serving_drift.changed, seen.is_good) == (0, False)


async def test_the_database_refuses_vectors_of_another_space(house: House) -> None:
    await house.remember("ada", "I like tea")
    await house.switched()
    new, old = (await house.one.spaces.of(house.tenant)).of_role("serving", "kept")
    ask = "SELECT in_space('[1,2,3]'::vector, :tenant, :number, 'serving')"
    with pytest.raises(StaleSpace, match=r"is not serving for this tenant"):
        async with house.one.database.begin(house.tenant) as connection:
            await connection.execute(text(ask), {"tenant": house.tenant, "number": old.number})
    compared = f"SELECT a.embedding <=> b.embedding FROM {new.memory_table} a, {old.memory_table} b"
    with pytest.raises(DBAPIError, match="different halfvec dimensions"):
        async with house.one.database.begin(house.tenant) as connection:
            await connection.execute(text(compared))
    insert = f"INSERT INTO {new.memory_table} SELECT * FROM {old.memory_table} WHERE tenant_id = :tenant"
    with pytest.raises(DBAPIError, match="expected 64 dimensions, not 384"):
        async with house.one.database.begin(house.tenant) as connection:
            await connection.execute(text(insert), {"tenant": house.tenant})


class SameSize(FakeEmbedder):
    """Another model whose vectors have as many dimensions as those of the space before."""

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace("same-size", "0", 384)


async def test_vectors_of_two_spaces_of_one_dimension_are_not_mixed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types tell them apart no more, so this rests on the statements: each passes its vector through `in_space` with
    the number of the space that it was made in, and finds tables of that number only. The database refuses whoever
    does not know of the switch, to search and to write. It does not see it where a statement names another space than
    its vector is of; no statement of the service can, for the number comes with the vector (`Embedded`)."""
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: SameSize("same-size"))
    one, other = (build_services(house.one.settings, house.one.database, house.one.embedder) for _ in range(2))
    house.one, house.other, house.switch = one, other, build_switch(one.database, one.spaces)
    await house.remember("ada", "I like tea", "I like boats")
    old = (await other.spaces.of(house.tenant)).serving
    stale = await other.spaces.embed_in(old, ["I like tea"])
    await house.switched()
    new = (await one.spaces.of(house.tenant)).serving
    assert new.column_type == old.column_type

    ask = f"SELECT in_space(CAST(:vector AS text)::vector, :tenant, {old.number}, 'serving')"
    with pytest.raises(StaleSpace, match="is not serving for this tenant"):
        async with other.database.begin(house.tenant) as connection:
            await connection.execute(text(ask), {"vector": vector_literal(stale.vectors[0]), "tenant": house.tenant})
    item = [("ada", uuid4())]
    with pytest.raises(StaleSpace, match="is not serving for this tenant"):
        async with other.database.begin(house.tenant) as connection:
            await SpaceStore().write(connection, house.tenant, old, "memory", item, stale.vectors, "serving")
    assert await house.found("ada", "I like tea", other) == (new.id, ["I like tea", "I like boats"])
    ids = await house.remember("ada", "I like snow", services=other)
    again = (await SameSize("same-size").embed(["I like snow"]))[0]
    async with one.database.begin(house.tenant) as connection:
        items, vectors = await SpaceStore().vectors_of(connection, house.tenant, new, "ada")
    assert cosine(vectors[items.index(ids[0])], again) > 0.999, "it is the new model's"


async def test_what_cannot_be_changed_to_is_refused(house: House) -> None:
    await house.remember("ada", "I like tea")
    with pytest.raises(NotFound, match="space create"):
        await house.switch.fill(house.tenant)
    await house.switched()
    with pytest.raises(InvalidInput, match="serves already"):
        await house.switch.create(house.tenant, ENDPOINT)
    with pytest.raises(InvalidInput, match="serves already"):
        await house.switch.plan(house.tenant, ENDPOINT)
    house.new.is_down = True
    with pytest.raises(ModelUnavailable):
        await house.switch.plan(house.tenant, "http://third.example")
