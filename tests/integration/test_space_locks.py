"""Making and giving up a space while others write: nobody waits for more than moments, and whoever is killed on the
way leaves what the same call finishes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.deps import Services
from app.domain.errors import NotFound, NotReady, StaleSpace
from app.domain.memory import MemoryType
from app.domain.spaces import StoredSpace
from app.services.ranking import SearchRequest
from app.services.space_switch import SpaceSwitch
from app.settings import Settings
from app.store.brief import WAIT
from app.store.engine import Database
from app.store.space_drops import DropStore
from app.store.spaces import SpaceStore
from app.wiring import build_services, build_switch
from tests.integration.conftest import create_tenant, facts
from tests.served import Addresses, Served

OLD, NEW = "http://old.example/embed", "http://new.example/embed"

MOMENT_S = 1.0
"""What nobody waits longer for, on the slowest machine; who waits for a lock here waits for HELD_S."""

HELD_S = 2.5
"""How long a transaction of somebody else's lasts."""

LOCKS = text("""
SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND (c.relname ~ '^(memories|users)(_p\\d\\d)?$')
""")
SHARED_ROW_EXCLUSIVE_OR_MORE = {"ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}


class House:
    """Two tenants in spaces of their own, on one database."""

    def __init__(self, services: Services, tenant: str, other: str) -> None:
        self.services, self.database, self.tenant, self.other = services, services.database, tenant, other
        self.switch: SpaceSwitch = build_switch(services.database, services.spaces)

    async def remember(self, *said: str, tenant: str | None = None) -> None:
        await self.services.memories.add(tenant or self.tenant, "ada", facts(*said, kind=MemoryType.HISTORY))

    async def kept(self, *tenants: str) -> StoredSpace:
        """Both tenants (or one) were switched; the space before, which is kept."""
        for tenant in tenants:
            await self.remember(*(f"I keep thing {number} of {number * 7}" for number in range(30)), tenant=tenant)
            await self.switch.create(tenant, NEW)
            await self.switch.fill(tenant)
            await self.switch.switch(tenant)
        return (await self.services.spaces.of(self.tenant)).of_role("kept")[0]

    async def count(self, query: str, tenant: str | None = None) -> int:
        async with self.database.begin(tenant or self.tenant) as connection:
            return (await connection.execute(text(query))).scalar_one()

    async def tables(self, space: StoredSpace) -> int:
        """How many of a space's tables and partitions there are."""
        return await self.count(
            f"SELECT count(*) FROM pg_class WHERE relname ~ '^(memory|input)_vectors_{space.number}(_p\\d\\d)?$'"
        )

    async def roles(self) -> list[str]:
        return [one.role for one in await self.switch.status(self.tenant)]


@pytest.fixture
async def house(
    settings: Settings, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    addresses = Addresses({OLD: Served(f"old-{tenant}"), NEW: Served(f"new-{tenant}")})
    monkeypatch.setattr("app.wiring.HttpEmbedder", addresses.open)
    own = settings.model_copy(update={"embed_endpoint": OLD})
    services = build_services(own, database, addresses[OLD])
    await create_tenant(database, f"{tenant}-other")
    yield House(services, tenant, f"{tenant}-other")
    await services.afterwards.aclose()


async def slowest(work: Callable[[], Awaitable[Any]], until: asyncio.Future[Any]) -> float:
    """Do something again and again until a task is over; how long the slowest time took, seconds."""
    slowest_s = 0.0
    while not until.done():
        began = time.monotonic()
        await work()
        slowest_s = max(slowest_s, time.monotonic() - began)
        await asyncio.sleep(0.01)
    return slowest_s


@asynccontextmanager
async def held(house: House, tenant: str, *statements: str) -> AsyncIterator[AsyncConnection]:
    """A transaction of a tenant that did something and is not over."""
    async with house.database.begin(tenant) as connection:
        for statement in statements:
            await connection.execute(text(statement))
        yield connection


async def test_nobody_waits_for_a_creation_that_waits(house: House) -> None:
    """Somebody's long write holds the memories: the foreign keys wait for it, and nobody waits behind them."""
    await house.remember("I like tea")
    write = "UPDATE memories SET confidence = confidence"
    async with held(house, house.tenant, "LOCK TABLE memories, users IN ROW EXCLUSIVE MODE", write):
        making = asyncio.create_task(house.switch.create(house.tenant, NEW))
        ending = asyncio.create_task(asyncio.sleep(HELD_S))
        numbers = iter(range(1000))
        took_s = await slowest(lambda: house.remember(f"{next(numbers)} birds came", tenant=house.other), ending)
        assert not making.done()
    assert (await making).role == "filling"
    assert took_s < MOMENT_S


async def test_making_the_tables_takes_no_lock_that_others_wait_for(house: House) -> None:
    """What takes long: only the foreign keys lock memories and users, in transactions of their own."""
    await house.remember("I like tea")
    space = (await house.services.spaces.of(house.tenant)).serving.space
    async with house.database.begin(house.tenant) as connection:
        made = await SpaceStore().register(
            connection, type(space)(f"{space.model}-2", "0", 384), storage="halfvec", endpoint=None
        )
        assert not {mode for _, mode in await connection.execute(LOCKS)} & SHARED_ROW_EXCLUSIVE_OR_MORE
        assert await SpaceStore().tie(connection, made)
        assert {mode for _, mode in await connection.execute(LOCKS)} & SHARED_ROW_EXCLUSIVE_OR_MORE
        await connection.rollback()


async def test_a_creation_that_was_broken_off_goes_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the tables were made: the next one ties them, and an erased memory takes its vectors along."""
    await house.remember("I like tea")

    async def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SpaceStore, "tie", killed)
        with pytest.raises(KeyboardInterrupt):
            await house.switch.create(house.tenant, NEW)
    made = await house.switch.create(house.tenant, NEW)
    await house.switch.fill(house.tenant)
    assert await house.count(f"SELECT count(*) FROM {made.space.memory_table}") == 1
    await house.services.memories.delete(house.tenant, "ada")
    assert await house.count(f"SELECT count(*) FROM {made.space.memory_table}") == 0


async def test_writers_do_not_wait_until_vectors_are_deleted(house: House) -> None:
    """Two tenants share the space, so one's vectors are deleted; somebody holds one of them, and that takes a while."""
    space = await house.kept(house.tenant, house.other)
    hold = f"SELECT 1 FROM {space.memory_table} WHERE tenant_id = '{house.tenant}' LIMIT 1 FOR UPDATE"
    async with held(house, house.tenant, hold):
        dropping = asyncio.create_task(house.switch.drop(house.tenant))
        ending = asyncio.create_task(asyncio.sleep(HELD_S))
        numbers = iter(range(1000))
        took_s = await slowest(lambda: house.remember(f"{next(numbers)} birds came"), ending)
        assert not dropping.done()
    await dropping
    assert took_s < MOMENT_S
    assert await house.count(f"SELECT count(*) FROM {space.memory_table}") == 0
    assert await house.count(f"SELECT count(*) FROM {space.memory_table}", house.other) == 30, "of somebody else"
    assert await house.roles() == ["serving"]


async def test_nobody_waits_behind_tables_that_cannot_be_dropped_yet(house: House) -> None:
    """Somebody reads memories for long, as an export does: searches and writes go on beside it."""
    space = await house.kept(house.tenant)
    async with held(house, house.other, "SELECT count(*) FROM memories"):
        dropping = asyncio.create_task(house.switch.drop(house.tenant))
        ending = asyncio.create_task(asyncio.sleep(HELD_S))

        async def search() -> None:
            await house.services.ranking.search(house.tenant, "ada", SearchRequest("thing"))

        took_s = await slowest(search, ending)
        assert not dropping.done()
    await dropping
    assert took_s < MOMENT_S
    assert await house.tables(space) == 0


async def test_dropping_partitions_takes_no_lock_that_others_wait_for(house: House) -> None:
    """What takes long; each of the two tables then locks what its foreign key leads to, and nothing beside that."""
    space, drops = await house.kept(house.tenant), DropStore()
    for kind, owner in (("memory", "memories"), ("input", "users")):
        async with house.database.begin(house.tenant) as connection:
            await drops.drop_partitions(connection, space, kind)
            assert not {mode for _, mode in await connection.execute(LOCKS)} & SHARED_ROW_EXCLUSIVE_OR_MORE
            await drops.drop_table(connection, space, kind)
            locked = [name for name, mode in await connection.execute(LOCKS) if mode in SHARED_ROW_EXCLUSIVE_OR_MORE]
            assert {name.partition("_")[0] for name in locked} == {owner}
            await connection.rollback()


@pytest.mark.parametrize("step", ["forget_notes", "delete_part", "retire", "drop_partitions", "drop_table", "end_use"])
@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_drop_that_was_killed_is_finished_by_the_next_one(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str, is_shared: bool
) -> None:
    """After any step, and as often as it likes; until then nothing of it is used, and `status` shows what is left."""
    space = await house.kept(house.tenant, *([house.other] if is_shared else []))
    monkeypatch.setattr("app.store.space_drops.VECTORS", 4)
    done, real = 0, getattr(DropStore, step)

    async def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        done += 1
        if done > 1 or step not in {"delete_part", "drop_table"}:
            raise KeyboardInterrupt
        return await real(*arguments, **named)

    is_killed = step not in {"drop_partitions", "drop_table"} if is_shared else step != "delete_part"
    with monkeypatch.context() as patched:
        patched.setattr(DropStore, step, killed)
        if is_killed:
            with pytest.raises(KeyboardInterrupt):
                await house.switch.drop(house.tenant)
    if is_killed:
        assert await house.roles() == ["serving", "dropped"]
        await house.remember("I like snow")
        assert [one.role for one in await house.switch.status(house.tenant)] == ["serving", "dropped"]
    heard: list[tuple[int, int]] = []
    assert (await house.switch.drop(house.tenant, lambda *told: heard.append(told))).number == space.number
    if is_shared and step != "end_use":  # then all vectors are gone
        assert heard[-1][0] == heard[-1][1] > 0
    assert heard == sorted(heard)
    assert bool(heard) is is_shared
    assert await house.roles() == ["serving"]
    assert (await house.tables(space) > 0) is is_shared
    if is_shared:
        assert await house.count(f"SELECT count(*) FROM {space.memory_table}") == 0
        await house.switch.drop(house.other)
    assert await house.tables(space) == 0
    with pytest.raises(NotFound, match="space create"):
        await house.switch.drop(house.tenant)


async def test_nothing_is_written_into_a_space_that_is_dropped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filling that began before ends; the database refuses what it has embedded. Nor is the space created anew while
    something of it is left, which nobody keeps up."""
    space = await house.kept(house.tenant)

    async def killed(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DropStore, "retire", killed)
        with pytest.raises(KeyboardInterrupt):
            await house.switch.drop(house.tenant)
    refused = text(f"SELECT in_space('[1]'::vector, '{house.tenant}', {space.number}, NULL)")
    with pytest.raises(StaleSpace, match="is not used for this tenant"):
        async with house.database.begin(house.tenant) as connection:
            await connection.execute(refused)
    assert await house.switch.fill_slice(house.tenant, space.number, 1.0, None, is_noted=False), "nothing to do"
    with pytest.raises(NotReady, match="still being deleted"):
        await house.switch.create(house.tenant, OLD)
    await house.switch.drop(house.tenant)
    assert (await house.switch.create(house.tenant, OLD)).role == "filling"


async def test_searches_and_writes_go_on_while_tables_go(house: House) -> None:
    """No deadlock: whoever looks at users and then at memories never meets somebody who holds the one and wants the
    other; and so the tables go at once, however busy it is."""
    space = await house.kept(house.tenant)
    numbers = iter(range(10_000))

    async def write() -> None:
        await house.remember(f"{next(numbers)} birds came")

    async def search() -> None:
        await house.services.ranking.search(house.tenant, "ada", SearchRequest("thing"))

    dropping = asyncio.create_task(house.switch.drop(house.tenant))
    began = time.monotonic()
    took = await asyncio.gather(*(slowest(work, dropping) for work in (write, search, write, search)))
    await dropping
    assert max(took) < MOMENT_S
    assert time.monotonic() - began < 5
    assert await house.tables(space) == 0


async def test_a_space_that_is_being_dropped_is_made_anew_beside_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is free as soon as nobody may begin to use its tables; another tenant begins in new ones."""
    space = await house.kept(house.tenant)

    async def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DropStore, "drop_table", killed)
        with pytest.raises(KeyboardInterrupt):
            await house.switch.drop(house.tenant)
    await house.remember("I like tea", tenant=house.other)
    made = (await house.services.spaces.of(house.other)).serving
    assert (made.id, made.number != space.number) == (space.id, True)
    async with house.database.begin(house.other) as connection:
        with pytest.raises(StaleSpace, match="given up"):
            await SpaceStore().set_role(connection, house.other, space.number, "filling")
    await house.switch.drop(house.tenant)
    assert await house.tables(space) == 0
    assert await house.tables(made) > 0


async def test_two_may_drop_at_once(house: House) -> None:
    space = await house.kept(house.tenant)
    await asyncio.gather(house.switch.drop(house.tenant), house.switch.drop(house.tenant))
    assert await house.tables(space) == 0


async def test_a_process_whose_own_space_was_dropped_makes_it_anew(house: House) -> None:
    """The last tenant that used it gave it up; a tenant that begins later begins there all the same."""
    space = await house.kept(house.tenant)
    await house.switch.drop(house.tenant)
    assert await house.tables(space) == 0
    await house.remember("I like tea", tenant=house.other)
    made = (await house.services.spaces.of(house.other)).serving
    assert made.space == space.space
    assert made.number != space.number


async def test_what_is_waited_for_is_undone_and_tried_again(house: House) -> None:
    """A lock that is not to be had within WAIT: the transaction is over, and another one comes later."""
    tried = 0

    async def work(connection: AsyncConnection) -> str:
        nonlocal tried
        tried += 1
        await connection.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        return "done"

    from app.store.brief import briefly

    assert "100ms" in str(WAIT)
    async with held(house, house.other, "LOCK TABLE users IN ROW EXCLUSIVE MODE"):
        waiting = asyncio.create_task(briefly(house.database, house.tenant, work))
        await asyncio.sleep(0.5)
        assert not waiting.done()
    assert await waiting == "done"
    assert tried > 1
