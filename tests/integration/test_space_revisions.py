"""A change of embedding space by Alembic: written, up, filled, up again, and all the way down, with nothing lost."""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import asyncpg
import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import InvalidInput, NotFilled, NotReady
from app.domain.memory import MemoryType
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import MIGRATIONS, Database, migrate, prepare_database
from app.store.space_revision_files import write_revisions
from app.store.space_revisions import row_of
from app.wiring import build_services, build_switch
from tests.fakes import FakeEmbedder
from tests.integration.conftest import create_tenant, facts

ENDPOINT = "http://new.example/embed"


class NewEmbedder(FakeEmbedder):
    """A space of 64 dimensions."""

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace("new", "0", 64)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = (await super().embed(texts))[:, :64]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
async def opened(database: Database) -> AsyncIterator[Database]:
    """A database of its own, at the newest revision."""
    assert database.server is not None
    superuser = await asyncpg.connect(database.server.url.replace("+asyncpg", ""))
    await superuser.execute("DROP DATABASE IF EXISTS revisions WITH (FORCE)")
    await superuser.execute("CREATE DATABASE revisions")
    await superuser.close()
    url = database.server.url.replace("/postgres?", "/revisions?")
    await migrate(url)
    made = Database(await prepare_database(url), pool_size=3)
    yield made
    await made.engine.dispose()


async def run(database: Database, folder: Path, step: Callable[[Config], None]) -> None:
    """An Alembic command with the revisions of a folder."""

    def on(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(folder))
        config.attributes["connection"] = connection
        step(config)

    async with database.migrating() as connection:
        await connection.run_sync(on)


async def test_up_and_down_lose_nothing(
    settings: Settings,
    opened: Database,
    embedder: OnnxEmbedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = NewEmbedder("new")
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: new)
    services = build_services(settings, opened, embedder)
    switch = build_switch(opened, services.spaces)
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))

    async def remember(tenant: str, text: str) -> None:
        await services.memories.add(tenant, "ada", facts(text, kind=MemoryType.HISTORY))

    async def space_of(tenant: str, text: str) -> str:
        """The space that answers, having found the text first."""
        found = await services.ranking.search(tenant, "ada", SearchRequest(text))
        assert found.ranked[0].memory.content == text
        return found.space

    for tenant in ("acme", "zoo"):
        await create_tenant(opened, tenant)
        await remember(tenant, f"the boat of {tenant} is blue")
    before = embedder.space
    files = await switch.revisions("acme", ENDPOINT, is_contract=False, migrations=folder)
    assert [path.name.split("_", 1)[1] for path in files] == ["expand_new.py", "switch_new.py"]

    with pytest.raises(NotFilled, match="1 items of acme have no vector in new@0:64:mean:l2 yet"):
        await run(opened, folder, lambda config: command.upgrade(config, "head"))
    assert await space_of("acme", "the boat of acme is blue") == before.id
    for tenant in ("acme", "zoo"):
        await switch.fill(tenant)
    await remember("zoo", "the lamp is on the table")
    await run(opened, folder, lambda config: command.upgrade(config, "head"))
    assert await space_of("acme", "the boat of acme is blue") == new.space.id
    assert await space_of("zoo", "the lamp is on the table") == new.space.id
    await remember("zoo", "the cat sleeps")

    await run(opened, folder, lambda config: command.downgrade(config, "-1"))
    assert await space_of("zoo", "the cat sleeps") == before.id
    await run(opened, folder, lambda config: command.upgrade(config, "head"))
    with pytest.raises(InvalidInput, match="--endpoint"):
        await switch.revisions("acme", None, is_contract=False, migrations=folder)
    await switch.revisions("acme", None, is_contract=True, migrations=folder)
    await run(opened, folder, lambda config: command.upgrade(config, "head"))
    assert len(await switch.status("zoo")) == 1, "the old one is given up"
    await remember("zoo", "the dog barks")

    await run(opened, folder, lambda config: command.downgrade(config, "-1"))
    with pytest.raises(NotFilled, match="space fill"):
        await run(opened, folder, lambda config: command.downgrade(config, "-1"))
    for tenant in ("acme", "zoo"):
        await switch.fill(tenant)
    await run(opened, folder, lambda config: command.downgrade(config, "-2"))
    for text in ("the boat of zoo is blue", "the lamp is on the table", "the cat sleeps", "the dog barks"):
        assert await space_of("zoo", text) == before.id
    assert [one.role for one in await switch.status("zoo")] == ["serving"]


async def test_what_serves_is_not_dropped(
    settings: Settings, opened: Database, embedder: OnnxEmbedder, tmp_path: Path
) -> None:
    services = build_services(settings, opened, embedder)
    await create_tenant(opened, "acme")
    await services.memories.add("acme", "ada", facts("I like tea"))
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    row = row_of(embedder.space, "vector", None)
    write_revisions(row, row, contract=True, migrations=folder)
    with pytest.raises(NotReady, match="is serving for acme"):
        await run(opened, folder, lambda config: command.upgrade(config, "head"))
