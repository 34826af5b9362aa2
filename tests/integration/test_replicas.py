"""Searches on a read replica: a real standby, which can be made to stay behind."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.memory import Draft, MemoryType
from app.services.memories import Added
from app.services.ranking import SearchRequest
from app.services.replicas import READS
from app.settings import Settings
from app.store.engine import Database, open_database
from app.wiring import build_services
from tests.integration.conftest import create_tenant
from tests.jobs import until
from tests.servers import TcpServer, open_folder, start_replica, start_tcp_server

USER = "reads-here"


@pytest.fixture(scope="module")
async def primary() -> AsyncIterator[TcpServer]:
    """A server of these tests' own: they pause what replays it."""
    with open_folder() as folder:
        server = await start_tcp_server(folder)
        yield server
        server.stop()


@pytest.fixture(scope="module")
async def database(primary: TcpServer) -> AsyncIterator[Database]:
    opened = await open_database(Settings(_env_file=None, database_url=primary.url("ordinary", "embed")))
    yield opened
    await opened.aclose()


@pytest.fixture
async def standby(primary: TcpServer, database: Database) -> AsyncIterator[TcpServer]:
    """A standby of the database with its tables."""
    with open_folder() as folder:
        server = await start_replica(folder, primary)
        yield server
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
async def services(
    settings: Settings, database: Database, standby: TcpServer, embedder: OnnxEmbedder, tenant: str
) -> AsyncIterator[Services]:
    await create_tenant(database, tenant)
    url = standby.url("ordinary", "embed")
    built = build_services(settings.model_copy(update={"database_replica_url": url}), database, embedder)
    yield built
    await built.ranking.reads.aclose()


def counted(outcome: str) -> float:
    return READS.labels(outcome)._value.get()


async def found(services: Services, tenant: str, query: str) -> list[str]:
    """What a search finds, and that it is the search under test."""
    result = await services.ranking.search(tenant, USER, SearchRequest(query))
    return [item.memory.content for item in result.ranked]


async def add(services: Services, tenant: str, content: str) -> Added:
    return await services.memories.add(tenant, USER, [Draft(MemoryType.PREFERENCE, content)])


async def caught_up(primary: TcpServer, standby: TcpServer) -> None:
    """Wait until the standby has replayed what the primary has written."""

    async def lag() -> bool:
        one = await asyncpg.connect(primary.url("postgres", "embed"))
        other = await asyncpg.connect(standby.url("postgres", "embed"))
        try:
            written = await one.fetchval("SELECT pg_current_wal_lsn()")
            return await other.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", written)
        finally:
            await one.close()
            await other.close()

    await until(lag)


async def test_a_replica_that_is_not_behind_answers(
    services: Services, primary: TcpServer, standby: TcpServer, tenant: str
) -> None:
    await add(services, tenant, "I like tea")
    await caught_up(primary, standby)
    before = counted("replica")
    assert await found(services, tenant, "what do I drink?") == ["I like tea"]
    assert counted("replica") == before + 1


async def test_who_just_wrote_finds_it_whatever_the_replica_knows(
    services: Services, primary: TcpServer, standby: TcpServer, tenant: str
) -> None:
    """What was added, changed and forgotten while the replica stands still is as the database has it."""
    await add(services, tenant, "I like tea")
    changed = await add(services, tenant, "My editor is vim")
    await caught_up(primary, standby)
    await standby.execute("postgres", "SELECT pg_wal_replay_pause()")
    before = counted("behind")
    await add(services, tenant, "I play the cello")
    assert "I play the cello" in await found(services, tenant, "what instrument do I play?")
    await services.memories.delete_one(tenant, changed.ids[0])
    assert set(await found(services, tenant, "my editor and my instrument")) == {"I like tea", "I play the cello"}
    await services.transfer.erase(tenant, USER)
    await add(services, tenant, "I am somebody new")
    assert await found(services, tenant, "tea, editor, cello") == ["I am somebody new"]
    assert counted("behind") == before + 3
    await standby.execute("postgres", "SELECT pg_wal_replay_resume()")


async def test_other_users_go_on_reading_there(
    services: Services, primary: TcpServer, standby: TcpServer, tenant: str
) -> None:
    """A write makes the replica old for its user only."""
    await add(services, tenant, "I like tea")
    await caught_up(primary, standby)
    await standby.execute("postgres", "SELECT pg_wal_replay_pause()")
    await services.memories.add(tenant, "somebody else", [Draft(MemoryType.GOAL, "I want a boat")])
    before = counted("replica")
    assert await found(services, tenant, "what do I drink?") == ["I like tea"]
    assert counted("replica") == before + 1
    await standby.execute("postgres", "SELECT pg_wal_replay_resume()")


async def test_a_dead_replica_costs_no_answer(
    services: Services, primary: TcpServer, standby: TcpServer, tenant: str
) -> None:
    await add(services, tenant, "I like tea")
    await caught_up(primary, standby)
    standby.stop()
    failed, resting = counted("failed"), counted("resting")
    for _ in range(3):
        assert await found(services, tenant, "what do I drink?") == ["I like tea"]
    assert (counted("failed"), counted("resting")) == (failed + 1, resting + 2)


async def test_a_replica_whose_login_bypasses_row_level_security_is_not_read(
    settings: Settings, database: Database, standby: TcpServer, embedder: OnnxEmbedder, tenant: str
) -> None:
    await create_tenant(database, tenant)
    assert database.prepared.role is None
    url = standby.url("postgres", "embed")
    services = build_services(settings.model_copy(update={"database_replica_url": url}), database, embedder)
    await add(services, tenant, "I like tea")
    failed = counted("failed")
    assert await found(services, tenant, "what do I drink?") == ["I like tea"]
    assert counted("failed") == failed + 1
    await services.ranking.reads.aclose()
