"""Migrations up and down, and the same service on the embedded database and on an outside one."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.calibration import MODEL_PRIOR, Calibration
from app.domain.errors import NotFound
from app.domain.facet_evidence import FacetPrior, believed
from app.domain.persona import DEFAULT_FACETS, Facet
from app.services.feedback import Feedback
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.calibrations import CalibrationStore
from app.store.engine import Database, migrate, prepare_database, run_alembic
from app.store.space_tables import MADE_HERE, is_of_the_code
from app.store.tables import metadata
from app.store.users import UserStore
from app.wiring import build_services
from tests.integration.conftest import choose, create_tenant, facts
from tests.servers import TcpServer

ROWS_ARE_CLOSED = text(
    "SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class "
    "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'"
)


async def new_database(database: Database, tcp_server: TcpServer, where: str) -> str:
    """The URL of an empty database with pgvector, embedded or outside."""
    if where == "outside":
        await tcp_server.execute("postgres", "DROP DATABASE IF EXISTS updown", "CREATE DATABASE updown OWNER ordinary")
        await tcp_server.execute("updown", "CREATE EXTENSION vector")
        return tcp_server.url("ordinary", "updown")
    superuser = await asyncpg.connect(database.server.url.replace("+asyncpg", ""))
    await superuser.execute("DROP DATABASE IF EXISTS updown")
    await superuser.execute("CREATE DATABASE updown")
    await superuser.close()
    return database.server.url.replace("/postgres?", "/updown?")


def differences(connection: Connection) -> list[Any]:
    """How the tables differ from what the code says they are."""
    opts = {"compare_type": True, "compare_server_default": True, "include_object": is_of_the_code}
    context = MigrationContext.configure(connection, opts=opts)
    return compare_metadata(context, metadata)


@pytest.mark.parametrize("where", ["embedded", "outside"])
async def test_up_down_and_up_again(database: Database, tcp_server: TcpServer, tenant: str, where: str) -> None:
    """Down leaves nothing but the version table, up again makes what the code expects, with every table closed
    by row-level security."""
    url = await new_database(database, tcp_server, where)
    await migrate(url)
    opened = Database(await prepare_database(url), pool_size=1)
    async with opened.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        first = sorted((await connection.execute(ROWS_ARE_CLOSED)).all())
    assert {name for name, _ in first if not MADE_HERE.fullmatch(name)} == set(metadata.tables)
    assert all(is_closed for _, is_closed in first)
    await create_tenant(opened, tenant)
    await run_alembic(opened, lambda config: command.downgrade(config, "base"))
    async with opened.engine.connect() as connection:
        assert (await connection.execute(ROWS_ARE_CLOSED)).all() == []
    await migrate(opened)
    await migrate(opened)
    async with opened.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert sorted((await connection.execute(ROWS_ARE_CLOSED)).all()) == first
    await opened.aclose()


@pytest.mark.parametrize("where", ["embedded", "outside"])
async def test_what_was_calibrated_survives_the_change_to_sources(
    database: Database, tcp_server: TcpServer, tenant: str, where: str
) -> None:
    """A fit of the first release becomes the local source's, with its slope as the weight, and back; fits of
    language models are dropped on the way down."""
    opened = Database(await prepare_database(await new_database(database, tcp_server, where)), pool_size=1)
    await run_alembic(opened, lambda config: command.upgrade(config, "0001"))
    await create_tenant(opened, tenant)
    async with opened.begin(tenant) as connection:
        await connection.execute(
            text("INSERT INTO calibrations VALUES (:tenant, 3, 1.7, 0.2, 40, now())"), {"tenant": tenant}
        )
    await run_alembic(opened, lambda config: command.upgrade(config, "head"))
    async with opened.begin(tenant) as connection:
        held = await CalibrationStore().calibration(connection, tenant, "local")
        assert held == Calibration({"score": 1.7}, 0.2, 3, 40)
        other = replace(MODEL_PRIOR, version=1)
        await CalibrationStore().save(connection, tenant, "vllm", other, datetime.now(UTC))
        assert await CalibrationStore().calibration(connection, tenant, "vllm") == other
    await run_alembic(opened, lambda config: command.downgrade(config, "0001"))
    async with opened.begin(tenant) as connection:
        rows = (await connection.execute(text("SELECT version, slope, none_score FROM calibrations"))).all()
    assert rows == [(3, 1.7, 0.2)]
    await opened.aclose()


async def test_what_was_believed_of_facets_survives_the_change_to_posteriors(
    database: Database, tcp_server: TcpServer, tenant: str
) -> None:
    """A Beta's mean and variance become what is believed, in any tenant, and back; what the user said last stays what
    the user said; facets of which nothing was known are left out."""
    opened = Database(await prepare_database(await new_database(database, tcp_server, "embedded")), pool_size=1)
    await run_alembic(opened, lambda config: command.upgrade(config, "0017"))
    await create_tenant(opened, tenant)
    held = {
        "concise": {"value": 0.8, "strength": 7.0},
        "formal": {"value": 1.0, "strength": 20.0},
        "code_first": {"value": 0.5, "strength": 2.0},
        "step_by_step": {"value": 0.9, "strength": 22.0},
    }
    now = datetime(2026, 1, 10, tzinfo=UTC)
    async with opened.begin(tenant) as connection:
        for user, facets in (("ada", held), ("bob", {})):
            await connection.execute(
                text(
                    "INSERT INTO users (tenant_id, user_id, facets, created_at, updated_at) "
                    "VALUES (:tenant, :user, :facets, :now, :now)"
                ),
                {"tenant": tenant, "user": user, "facets": orjson.dumps(facets).decode(), "now": now},
            )
        for version, facet, reason in (
            (1, "step_by_step", "correction"),
            (2, "formal", "correction"),
            (3, "formal", "feedback"),
        ):
            await connection.execute(
                text(
                    "INSERT INTO facet_changes VALUES "
                    "(:tenant, gen_random_uuid(), 'ada', :facet, 0.5, 0.9, 0.1, :reason, NULL, :version, :now)"
                ),
                {"tenant": tenant, "facet": facet, "reason": reason, "version": version, "now": now},
            )
    await run_alembic(opened, lambda config: command.upgrade(config, "0020"))
    async with opened.begin(tenant) as connection:
        ada = await UserStore().persona(connection, tenant, "ada")
        bob = await UserStore().persona(connection, tenant, "bob")
    assert ada is not None
    assert bob is not None
    assert bob.facets == {name: Facet(name) for name in DEFAULT_FACETS}
    concise, formal, told = (ada.facets[name] for name in ("concise", "formal", "step_by_step"))
    assert (concise.value, concise.variance, concise.evidence) == (0.8, pytest.approx(1 / 42), 5)
    assert (formal.value, formal.variance, formal.told_at) == (1.0, pytest.approx(1 / 120), None)
    assert (told.value, told.told_at, told.carried) == (0.9, now, None)
    assert ada.facets["code_first"] == Facet("code_first")
    again = believed(ada.facets, [], FacetPrior(), now, 180.0)
    assert {name: facet.value for name, facet in again.items()} == pytest.approx(
        {name: facet.value for name, facet in ada.facets.items()}
    )
    assert again["concise"].variance == pytest.approx(concise.variance)
    await run_alembic(opened, lambda config: command.downgrade(config, "0017"))
    async with opened.begin(tenant) as connection:
        back = (await connection.execute(text("SELECT facets FROM users WHERE user_id = 'ada'"))).scalar_one()
    del held["code_first"]
    assert back == {name: pytest.approx(facet) for name, facet in held.items()}
    await opened.aclose()


async def test_the_sessions_database_is_what_the_code_expects(database: Database) -> None:
    """No model drift on the embedded server."""
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.fixture
async def outside(tcp_database_url: str) -> AsyncIterator[Database]:
    """The outside database as the ordinary role that owns it, migrated; empty again afterwards."""
    await migrate(tcp_database_url)
    opened = Database(await prepare_database(tcp_database_url), pool_size=4)
    yield opened
    await run_alembic(opened, lambda config: command.downgrade(config, "base"))
    async with opened.engine.begin() as connection:
        await connection.execute(text("DROP TABLE alembic_version"))
    await opened.aclose()


async def test_the_whole_path_on_an_outside_database(
    outside: Database, embedder: OnnxEmbedder, settings: Settings, tcp_database_url: str, tenant: str
) -> None:
    """Over TCP, as a role without powers: remember, hypothesize, execute, give feedback, search, export, erase;
    and the tenants are as apart as on the embedded one."""
    assert outside.prepared.role is None
    services = build_services(settings.model_copy(update={"database_url": tcp_database_url}), outside, embedder)
    for name in (tenant, f"{tenant}-other"):
        await create_tenant(outside, name)
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    made, executed = await choose(services, tenant, "ada", "deploy my app")
    assert "Python" in made.hypotheses[0].question
    assert "in Python" in executed.prompt.text
    deltas = await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, comment="too long"))
    assert deltas["concise"] > 0
    found = await services.ranking.search(tenant, "ada", SearchRequest("cloud"))
    assert {item.memory.type for item in found.ranked} == {"PREFERENCE", "GOAL"}
    with pytest.raises(NotFound):
        await services.ranking.search(f"{tenant}-other", "ada", SearchRequest("cloud"))
    async with outside.begin(f"{tenant}-other") as connection:
        assert (await connection.execute(text("SELECT count(*) FROM memories"))).scalar_one() == 0
    key = await services.keys.create(tenant, "", ["user"])
    assert await services.keys.authenticate(key.secret)
    lines = [line async for line in services.transfer.export(tenant, "ada")]
    await services.transfer.erase(tenant, "ada")
    await services.transfer.import_(tenant, lines)
    assert [line async for line in services.transfer.export(tenant, "ada")] == lines
