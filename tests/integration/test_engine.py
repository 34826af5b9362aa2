"""Connections are bound to a tenant and cannot bypass row-level security, whoever logs in."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.domain.errors import StoreUnavailable
from app.store.engine import (
    SERVICE_ROLE,
    Database,
    DatabaseUnsuitable,
    describe,
    migrate,
    prepare_database,
)
from tests.servers import TcpServer

WHO = "SELECT current_user, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
NOTES = """
CREATE TABLE IF NOT EXISTS test_notes (tenant_id text NOT NULL, note text NOT NULL, UNIQUE (tenant_id, note));
ALTER TABLE test_notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE test_notes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own ON test_notes;
CREATE POLICY own ON test_notes USING (tenant_id = current_setting('app.tenant_id', true))
"""


@pytest.fixture(scope="module", params=["embedded", "outside ordinary role", "outside superuser"])
async def notes(request: pytest.FixtureRequest, database: Database, tcp_server: TcpServer) -> AsyncIterator[Database]:
    """A database with a table of notes, as each kind of login finds it; the pool has one connection."""
    url = {
        "embedded": database.prepared.url,
        "outside ordinary role": tcp_server.url("ordinary", "embed"),
        "outside superuser": tcp_server.url("postgres", "postgres"),
    }[request.param]
    opened = Database(await prepare_database(url), pool_size=1)
    async with opened.engine.begin() as connection:
        for statement in NOTES.split(";"):
            await connection.execute(text(statement))
    yield opened
    async with opened.engine.begin() as connection:
        await connection.execute(text("DROP TABLE test_notes"))
    await opened.aclose()


async def add(database: Database, tenant: str, note: str) -> None:
    async with database.begin(tenant) as connection:
        await connection.execute(
            text("INSERT INTO test_notes VALUES (:tenant, :note)"), {"tenant": tenant, "note": note}
        )


async def read(database: Database, tenant: str) -> list[str]:
    async with database.begin(tenant) as connection:
        return list((await connection.execute(text("SELECT note FROM test_notes ORDER BY note"))).scalars())


async def test_no_connection_can_bypass_row_level_security(notes: Database) -> None:
    async with notes.engine.connect() as pooled:
        user, can_bypass = (await pooled.execute(text(WHO))).one()
        assert not can_bypass
        assert user == (SERVICE_ROLE if "ordinary" not in notes.prepared.url else "ordinary")
    async with notes.migrating() as migrating:
        assert (await migrating.execute(text(WHO))).one() == (user, False)


async def test_the_embedded_servers_connections_cannot_go_back_to_the_superuser(database: Database) -> None:
    """They did not come from it: what undoes a set role leaves them who they are."""
    async with database.engine.connect() as pooled:
        for statement in ("RESET ROLE", "SET ROLE none", "RESET SESSION AUTHORIZATION"):
            await pooled.execute(text(statement))
            assert (await pooled.execute(text(WHO))).one() == (SERVICE_ROLE, False)


async def test_a_tenant_sees_its_own_rows_only(notes: Database, tenant: str) -> None:
    await add(notes, tenant, "mine")
    assert await read(notes, tenant) == ["mine"]
    assert await read(notes, tenant + "-other") == []
    with pytest.raises(DBAPIError, match="row-level security"):
        async with notes.begin(tenant) as connection:
            await connection.execute(text("INSERT INTO test_notes VALUES ('someone else', 'theirs')"))


async def test_the_tenant_does_not_stay_on_the_pooled_connection(notes: Database, tenant: str) -> None:
    await add(notes, tenant, "mine")
    await read(notes, tenant)
    async with notes.engine.connect() as plain:
        assert (await plain.execute(text("SELECT count(*) FROM test_notes"))).scalar_one() == 0
    async with notes.begin_authentication() as authenticating:
        assert (await authenticating.execute(text("SELECT count(*) FROM test_notes"))).scalar_one() == 0
        purpose = text("SELECT current_setting('app.purpose', true)")
        assert (await authenticating.execute(purpose)).scalar_one() == "authenticate"
    async with notes.begin(tenant) as connection:
        assert (await connection.execute(purpose)).scalar_one() in (None, "")


async def test_an_exception_undoes_the_transaction(notes: Database, tenant: str) -> None:
    async def fail() -> None:
        async with notes.begin(tenant) as connection:
            await connection.execute(text("INSERT INTO test_notes VALUES (:tenant, 'half done')"), {"tenant": tenant})
            raise LookupError("the caller's own")

    with pytest.raises(LookupError):
        await fail()
    assert await read(notes, tenant) == []
    await add(notes, tenant, "once")
    with pytest.raises(IntegrityError):
        await add(notes, tenant, "once")
    assert await read(notes, tenant) == ["once"]


async def test_a_cancelled_transaction_is_undone_and_frees_its_connection(notes: Database, tenant: str) -> None:
    async def hang() -> None:
        async with notes.begin(tenant) as connection:
            await connection.execute(text("INSERT INTO test_notes VALUES (:tenant, 'cancelled')"), {"tenant": tenant})
            await connection.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(hang())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await read(notes, tenant) == []


async def test_migrating_twice_at_once_is_migrating_once(tcp_server: TcpServer) -> None:
    await tcp_server.execute("postgres", "DROP DATABASE IF EXISTS migrated", "CREATE DATABASE migrated OWNER ordinary")
    await tcp_server.execute("migrated", "CREATE EXTENSION vector")
    url = tcp_server.url("ordinary", "migrated")
    await asyncio.gather(migrate(url), migrate(url))
    opened = Database(await prepare_database(url), pool_size=1)
    async with opened.engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM alembic_version"))).scalar_one() == 1
        unforced = text(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' "
            "AND relname <> 'alembic_version' AND NOT (relrowsecurity AND relforcerowsecurity)"
        )
        assert list((await connection.execute(unforced)).scalars()) == []
    await opened.aclose()


async def test_a_missing_extension_is_the_admins_to_create(tcp_server: TcpServer) -> None:
    await tcp_server.execute("postgres", "DROP DATABASE IF EXISTS bare", "CREATE DATABASE bare OWNER ordinary")
    statement = 'run as a superuser in database "bare": CREATE EXTENSION IF NOT EXISTS vector;'
    with pytest.raises(DatabaseUnsuitable, match=statement) as caught:
        await prepare_database(tcp_server.url("ordinary", "bare"))
    assert "\n" not in str(caught.value)
    prepared = await prepare_database(tcp_server.url("postgres", "bare"))
    assert prepared.role == SERVICE_ROLE
    assert (await prepare_database(tcp_server.url("ordinary", "bare"))).role is None


async def test_a_login_that_bypasses_and_may_not_create_roles_gets_the_statements(tcp_server: TcpServer) -> None:
    await tcp_server.execute(
        "embed",
        "DROP ROLE IF EXISTS wide",
        "CREATE ROLE wide LOGIN BYPASSRLS PASSWORD 'a pass/word@with:odd?parts'",
    )
    with pytest.raises(DatabaseUnsuitable, match='GRANT embed_service TO "wide"'):
        await prepare_database(tcp_server.url("wide", "embed"))


async def test_a_service_role_made_powerful_is_refused(tcp_server: TcpServer) -> None:
    url = tcp_server.url("postgres", "embed")
    await prepare_database(url)
    await tcp_server.execute("embed", f"ALTER ROLE {SERVICE_ROLE} BYPASSRLS")
    try:
        with pytest.raises(DatabaseUnsuitable, match=f'ALTER ROLE "{SERVICE_ROLE}" NOSUPERUSER NOBYPASSRLS'):
            await prepare_database(url)
    finally:
        await tcp_server.execute("embed", f"ALTER ROLE {SERVICE_ROLE} NOBYPASSRLS")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
async def test_every_form_of_url_is_understood(tcp_database_url: str, scheme: str) -> None:
    prepared = await prepare_database(tcp_database_url.replace("postgresql", scheme))
    assert prepared.server_version >= 15


async def test_an_unreachable_database_is_named_without_its_password(tcp_server: TcpServer) -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/") as caught:
        await prepare_database("postgresql://user:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)
    wrong = tcp_server.url("ordinary", "embed").replace("odd", "wrong")
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        await prepare_database(wrong)
    assert "wrong" not in str(caught.value)
    assert describe("postgresql://a:b@h/n?sslmode=require") == "postgresql://a@h/n?sslmode=require"


async def test_json_and_vectors_travel(notes: Database, tenant: str) -> None:
    async with notes.begin(tenant) as connection:
        row = (await connection.execute(text("""SELECT '{"a": [1, "é"]}'::jsonb, '[1,2]'::vector::text"""))).one()
    assert tuple(row) == ({"a": [1, "é"]}, "[1,2]")


async def test_a_busy_pool_and_a_lost_server_are_unavailable(
    notes: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes.engine.pool, "_timeout", 0.05)
    async with notes.begin(tenant):
        with pytest.raises(StoreUnavailable, match="all 1 database connections were busy"):
            await notes.ping()
    await notes.ping()

    async def lose() -> None:
        async with notes.begin(tenant) as connection:
            raw = await connection.get_raw_connection()
            raw.driver_connection.terminate()
            await connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable, match="lost in a transaction"):
        await lose()
    await notes.ping()


@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_connection_that_lost_its_way_is_unavailable(
    notes: Database, tenant: str, monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    async def lose(*_: object, **__: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 8; another operation (2) is in progress")

    async def ask() -> None:
        if is_plain:
            async with notes.transact(tenant) as statements:
                with monkeypatch.context() as patch:
                    patch.setattr(asyncpg.Connection, "fetch", lose)
                    await statements.fetch("SELECT 1")
        else:
            async with notes.begin(tenant) as connection:
                with monkeypatch.context() as patch:
                    patch.setattr(asyncpg.Connection, "prepare", lose)
                    await connection.execute(text("SELECT 'never prepared before'"))

    with pytest.raises(StoreUnavailable, match=r"lost in a transaction.*another operation"):
        await ask()
    await notes.ping()


async def test_the_next_transaction_waits_for_a_killed_server_to_come_back(database: Database, tenant: str) -> None:
    assert database.server is not None
    killed = database.server.pid
    assert killed is not None
    await database.ping()
    os.kill(killed, signal.SIGKILL)
    await asyncio.sleep(0.1)  # its children notice
    async with database.begin(tenant) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    assert database.server.pid != killed
