"""Users with very many memories: searched in a graph of their own, made while they write, gone when they are."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.memory import Draft, MemoryType
from app.domain.spaces import StoredSpace
from app.services.jobs.graphs import GRAPH, GraphPayload
from app.services.jobs.queue import new_job
from app.services.jobs.run import JobHandler
from app.services.memories import MemoryService
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.store.memories import MemoryStore, SearchFilter
from app.store.memory_search import GRAPH_SETTINGS, by_graph, exact
from app.store.spaces import SpaceStore
from app.wiring import build_services
from tests.fakes import FakeEmbedder
from tests.integration.conftest import facts
from tests.jobs import is_empty, queue_of, until, working

LIMIT = 200
USER = "collector"
ARM = 20


@dataclass
class House:
    """Services under which users are large from LIMIT memories on, and a tenant."""

    services: Services
    memories: MemoryService
    tenant: str
    random: Random

    async def tell(self, count: int, user: str = USER) -> list[Any]:
        """Sentences that nobody has said before; nothing replaces anything."""
        said = [" ".join(self.random.choices(WORDS, k=6)) + f" n{self.random.getrandbits(40)}" for _ in range(count)]
        added = await self.memories.add(self.tenant, user, facts(*said, kind=MemoryType.HISTORY))
        return list(added.ids)

    async def build(self) -> None:
        """Let a worker do the jobs that wait."""
        queue = queue_of(self.services.database)
        async with working(self.services.database, JobHandler(GRAPH, self.memories.graphs.handle)):
            await until(lambda: is_empty(queue, GRAPH.name))

    async def one(self, query: str) -> Any:
        """A value of the tenant's."""
        async with self.services.database.begin(self.tenant) as connection:
            return (await connection.execute(text(query))).scalar_one()

    async def graph(self, user: str = USER) -> int:
        return await self.one(f"SELECT graph FROM users WHERE user_id = '{user}'")

    async def space(self) -> StoredSpace:
        return (await self.services.spaces.of(self.tenant)).serving

    async def arguments(self, query: str, user: str = USER) -> tuple[Any, ...]:
        vector = (await self.services.embedder.embed([query]))[0].tolist()
        now = self.services.ranking.clock.now()
        return (vector, query, self.tenant, user, now, None, None, [], ARM)

    async def both(self, query: str, user: str = USER) -> tuple[list[Any], list[Any]]:
        """What the exact search finds, and what the graph finds."""
        space, arguments = await self.space(), await self.arguments(query, user)
        async with self.services.database.transact(self.tenant) as statements:
            exactly = await statements.fetch(exact(space, "serving"), *arguments)
            await statements.execute(GRAPH_SETTINGS)
            return exactly, await statements.fetch(by_graph(space, await self.graph(user)), *arguments)

    async def check(self, user: str = USER, queries: int = 40) -> None:
        """The graph finds what comparing everything finds, by vector and by words, and holds each memory once."""
        found = wanted = 0
        for _ in range(queries):
            exactly, quickly = await self.both(" ".join(self.random.choices(WORDS, k=3)), user)
            nearest = sorted(exactly, key=lambda row: -row["cosine"])[:10]
            wanted += len(nearest)
            found += len({row["memory_id"] for row in nearest} & {row["memory_id"] for row in quickly})
            worded = [sorted((row["lexical"] for row in rows), reverse=True)[:ARM] for rows in (exactly, quickly)]
            assert worded[1] == pytest.approx(worded[0], abs=0.05)  # which counts words of what is over, too
        assert found >= 0.99 * wanted
        space = await self.space()
        own = f"user_id = '{user}'"
        assert await self.one(f"SELECT count(*) FROM memories WHERE {own}") == await self.one(
            f"SELECT memories FROM users WHERE {own}"
        )
        assert not await self.one(
            f"SELECT count(*) FROM {space.memory_table} v JOIN users u USING (tenant_id, user_id) "
            f"WHERE {own} AND v.graph <> u.graph"
        )
        terms = (
            "SELECT tenant_id, user_id, unnest(terms) AS term, memory_id, place, cardinality(terms)::smallint AS words "
            "FROM memories"
        )
        for more, less in ((terms, "TABLE memory_words"), ("TABLE memory_words", terms)):
            assert not await self.one(
                f"SELECT count(*) FROM (SELECT * FROM ({more}) a EXCEPT ALL SELECT * FROM ({less}) b) d WHERE {own}"
            )


WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture
async def house(settings: Settings, database: Database, tenant: str) -> House:
    services = build_services(settings, database, FakeEmbedder("large"))
    memories = replace(services.memories, graphs=replace(services.memories.graphs, limit=LIMIT))
    return House(services, memories, tenant, Random(3))


async def test_a_user_becomes_large_while_writing(house: House) -> None:
    """The write that passes the limit adds the job, once. While the graph is made memories come, change and go; nothing
    is lost, nothing is there twice, and so it stays afterwards."""
    queue = queue_of(house.services.database)
    await house.tell(LIMIT)
    assert await queue.find(kind=GRAPH.name, tenant_id=house.tenant) == []
    ids = await house.tell(60)
    await house.tell(1)
    assert [job.payload for job in await queue.find(kind=GRAPH.name, tenant_id=house.tenant)] == [
        {"tenant_id": house.tenant, "user_id": USER}
    ]
    is_built = asyncio.Event()

    async def write() -> None:
        while not is_built.is_set():
            ids.extend(await house.tell(3))
            await house.memories.update(house.tenant, ids.pop(), {"content": f"w1 w2 changed {len(ids)}"})
            await house.memories.delete_one(house.tenant, ids.pop())

    writer = asyncio.create_task(write())
    await house.build()
    is_built.set()
    await writer
    assert await house.graph() > 0
    await house.check()
    await house.tell(40)
    await house.memories.update(house.tenant, ids.pop(), {"content": "w3 w4 said anew"})
    await house.memories.update(house.tenant, ids[-1], {"confidence": 0.1})
    await house.memories.delete_one(house.tenant, ids.pop())
    await house.check()


async def test_searches_take_the_graph_once_they_know_of_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first search of a process is exact and learns of the graph; the next ones take it, with a plan that is the
    same for all users and uses its index."""
    await house.tell(LIMIT + 30)
    await house.build()
    database, space, number = house.services.database, await house.space(), await house.graph()
    store, arguments = MemoryStore(), await house.arguments("w1 w2")
    asked: dict[str, Any] = {"vector": (await house.services.embedder.embed(["w1 w2"]))[0], "space": space}
    where = SearchFilter(house.services.ranking.clock.now())
    async with database.transact(house.tenant) as statements:
        sent: list[str] = []
        fetch = statements.fetch

        async def noting(sql: str, *arguments: Any) -> Any:
            sent.append(sql)
            return await fetch(sql, *arguments)

        monkeypatch.setattr(statements, "fetch", noting)
        first, second = [
            await store.candidates(statements, house.tenant, USER, words="w1 w2", arm=ARM, where=where, **asked)
            for _ in range(2)
        ]
        assert sent == [exact(space, "serving"), by_graph(space, number)]
        assert len({one.memory.memory_id for one in first} ^ {one.memory.memory_id for one in second}) <= 2
        few = SearchFilter(where.at, tags=["nothing has this"])
        await store.candidates(statements, house.tenant, USER, words="w1", arm=ARM, where=few, **asked)
        assert sent[2:] == [by_graph(space, number), exact(space, "serving")]
        prepared = await fetch(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = ANY($1::text[])",
            sent[:2],
        )
        assert prepared
        assert all(row["generic_plans"] > 0 == row["custom_plans"] for row in prepared)
        await statements.execute(GRAPH_SETTINGS)
        types = "float4[], text, text, text, timestamptz, text[], text[], text[], int"
        await statements.execute(f"PREPARE asked ({types}) AS {by_graph(space, number)}")
        values = ", ".join(map(literal, arguments))
        plan = "\n".join(row[0] for row in await fetch(f"EXPLAIN EXECUTE asked ({values})"))
        await statements.execute("DEALLOCATE asked")
    assert f"_graph_{number}" in plan or "embedding_idx" in plan
    assert "<=>" in plan
    assert "Order By" in plan


def literal(value: Any) -> str:
    """A value as SQL has it."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(map(str, value)) + "}'"
    return str(value) if isinstance(value, int) else f"'{value}'"


async def test_who_is_erased_and_comes_back_is_an_ordinary_user(house: House) -> None:
    """Words and number go with the user; whoever remembers the graph finds everything all the same."""
    await house.tell(LIMIT + 10)
    await house.build()
    for _ in range(2):
        await house.services.ranking.search(house.tenant, USER, SearchRequest("w1"))
    await house.services.transfer.erase(house.tenant, USER)
    for table in ("memory_words", "user_graphs"):
        assert await house.one(f"SELECT count(*) FROM {table}") == 0
    await house.tell(5)
    found = await house.services.ranking.search(house.tenant, USER, SearchRequest("w1 w2", limit=20))
    assert len(found.ranked) == 5
    assert await house.graph() == 0


async def test_each_large_user_has_a_graph_of_its_own(house: House, other_tenant: str) -> None:
    """Nobody shares a number in a partition, not with another tenant either; who gets none is searched exactly."""
    graphs, database = house.memories.graphs, house.services.database
    users = [f"user-{number}" for number in range(30)]
    for tenant in (house.tenant, other_tenant):
        for user in users:
            async with database.begin(tenant) as connection:
                await house.services.memories.users.ensure(connection, tenant, user, house.services.ranking.clock.now())
                await graphs.graphs.take(connection, tenant, user)
    rows: list[Any] = []
    for tenant in (house.tenant, other_tenant):
        async with database.begin(tenant) as connection:
            rows += list(await connection.execute(text("SELECT part, number FROM user_graphs")))
    assert len({tuple(row) for row in rows}) == len(rows) >= 40
    assert {row.number for row in rows} <= set(range(1, 9))


async def test_an_import_leads_to_a_graph(house: House, other_tenant: str) -> None:
    """What is imported is counted, and a user who is large by it gets the job; the export says nothing of graphs."""
    await house.tell(LIMIT + 50)
    await house.build()
    lines = [line async for line in house.services.transfer.export(house.tenant, USER)]
    assert not any(b'"graph"' in line or b'"writes"' in line for line in lines)
    there = House(house.services, house.memories, other_tenant, house.random)
    transfer = replace(house.services.transfer, graphs=house.memories.graphs)
    await transfer.import_(other_tenant, lines)
    assert await there.one("SELECT memories FROM users") == LIMIT + 50
    await there.build()
    assert await there.graph() > 0
    await there.check(queries=10)
    assert [line async for line in house.services.transfer.export(other_tenant, USER)] == lines


async def test_whoever_was_not_noticed_is_found_by_the_hour(house: House) -> None:
    """Also users who were large before there were graphs, or whose memories something else wrote."""
    await house.services.memories.add(house.tenant, USER, facts("w1 one", "w2 two", kind=MemoryType.HISTORY))
    small = replace(house.memories, graphs=replace(house.memories.graphs, limit=1))
    queue = queue_of(house.services.database)
    async with house.services.database.begin(house.tenant) as connection:
        await queue.add(connection, new_job(GRAPH, GraphPayload(tenant_id=house.tenant), key="recurring"))
    await replace(house, memories=small).build()
    assert await house.graph() > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda house, ids: house.tell(1),
        lambda house, ids: house.memories.update(house.tenant, ids[0], {"confidence": 0.2}),
        lambda house, ids: house.memories.update(house.tenant, ids[0], {"content": "w9"}),
        lambda house, ids: house.memories.delete_one(house.tenant, ids[0]),
        lambda house, ids: house.memories.delete(house.tenant, USER, MemoryType.HISTORY),
    ],
)
async def test_writes_counts_the_transactions_that_change_what_is_found(
    house: House, change: Callable[[House, list[Any]], Any]
) -> None:
    """Of this user, and of no other."""
    ids = await house.tell(3)
    await house.tell(1, "neighbour")
    before = await house.one(f"SELECT writes FROM users WHERE user_id = '{USER}'")
    neighbour = await house.one("SELECT writes FROM users WHERE user_id = 'neighbour'")
    await change(house, ids)
    assert await house.one(f"SELECT writes FROM users WHERE user_id = '{USER}'") > before
    assert await house.one("SELECT writes FROM users WHERE user_id = 'neighbour'") == neighbour
    assert await house.one("SELECT sum(memories) FROM users") == await house.one("SELECT count(*) FROM memories")


@pytest.mark.parametrize(("role", "is_counted"), [("serving", True), ("filling", False)])
async def test_vectors_that_come_later_count_where_they_are_searched(house: House, role: str, is_counted: bool) -> None:
    """A fill of the space that serves changes what is found; of one that does not, nothing."""
    ids = await house.tell(2)
    space, store = await house.space(), SpaceStore()
    async with house.services.database.begin(house.tenant) as connection:
        await store.forget(connection, house.tenant, space, ids[0])
        await store.set_role(connection, house.tenant, space.number, role)
    before = await house.one("SELECT writes FROM users")
    vectors = await house.services.embedder.embed(["w1"])
    async with house.services.database.begin(house.tenant) as connection:
        await store.write(connection, house.tenant, space, "memory", [(USER, ids[0])], vectors)
    assert (await house.one("SELECT writes FROM users") > before) is is_counted


async def test_the_nearest_of_a_large_user_are_found_by_graph(house: House) -> None:
    """What a change of space is verified with sees what searches see."""
    await house.tell(LIMIT + 20)
    await house.build()
    space, store = await house.space(), SpaceStore()
    vector = (await house.services.embedder.embed(["w1 w2 w3"]))[0]
    async with house.services.database.begin(house.tenant) as connection:
        found = await store.nearest(connection, house.tenant, space, USER, vector, 10)
        ids, vectors = await store.vectors_of(connection, house.tenant, space, USER)
        await connection.execute(text(f"UPDATE {space.memory_table} SET graph = 0"))
        assert await store.nearest(connection, house.tenant, space, USER, vector, 10) == []
    best = sorted(zip(-(vectors @ vector), ids, strict=True))[:10]
    assert len({memory_id for _, memory_id in best} & set(found)) >= 9


@pytest.mark.parametrize("is_large", [False, True])
async def test_what_was_told_at_the_time_asked_for_is_read(house: House, is_large: bool) -> None:
    """However many others have more of the query's words: what was told on that day is found."""
    await house.tell(LIMIT + 20 if is_large else 100)
    if is_large:
        await house.build()
    day = datetime(2023, 5, 3, 12, tzinfo=UTC)
    told = Draft(MemoryType.HISTORY, "An otter crossed the road", valid_from=day)
    near = [Draft(MemoryType.HISTORY, f"It happened to w{n} and w{n + 1}, number {n}") for n in range(70)]
    added = await house.memories.add(house.tenant, USER, [told, *near])
    request = SearchRequest("What happened on 3 May 2023?", 20)
    for _ in range(2):  # the first search of a process learns of the graph
        found = await house.services.ranking.search(house.tenant, USER, request)
        assert added.ids[0] in [item.memory.memory_id for item in found.ranked]
    other = replace(request, query="What happened on 3 May 2022?")
    found = await house.services.ranking.search(house.tenant, USER, other)
    assert added.ids[0] not in [item.memory.memory_id for item in found.ranked]
