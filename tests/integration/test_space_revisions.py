"""A change of embedding space by Alembic: written, up, filled, up again, and all the way down, with nothing lost."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import asyncpg
import numpy as np
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import InvalidInput, NotFilled, NotReady
from app.domain.memory import MemoryType
from app.services.ranking import SearchRequest
from app.services.space_switch import SpaceSwitch
from app.settings import Settings
from app.store.engine import MIGRATIONS, Database, migrate, prepare_database, run_alembic
from app.store.space_revision_files import write_revisions
from app.store.space_revisions import row_of
from app.wiring import build_services, build_switch
from benchmarks.space_switch.revisions import downgrade
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
        await run_alembic(opened, lambda config: command.upgrade(config, "head"), folder)
    assert await space_of("acme", "the boat of acme is blue") == before.id
    for tenant in ("acme", "zoo"):
        await switch.fill(tenant)
    await remember("zoo", "the lamp is on the table")
    await run_alembic(opened, lambda config: command.upgrade(config, "head"), folder)
    assert await space_of("acme", "the boat of acme is blue") == new.space.id
    assert await space_of("zoo", "the lamp is on the table") == new.space.id
    await remember("zoo", "the cat sleeps")

    await run_alembic(opened, lambda config: command.downgrade(config, "-1"), folder)
    assert await space_of("zoo", "the cat sleeps") == before.id
    await run_alembic(opened, lambda config: command.upgrade(config, "head"), folder)
    with pytest.raises(InvalidInput, match="--endpoint"):
        await switch.revisions("acme", None, is_contract=False, migrations=folder)
    await switch.revisions("acme", None, is_contract=True, migrations=folder)
    await run_alembic(opened, lambda config: command.upgrade(config, "head"), folder)
    assert len(await switch.status("zoo")) == 1, "the old one is given up"
    await remember("zoo", "the dog barks")

    await run_alembic(opened, lambda config: command.downgrade(config, "-1"), folder)
    with pytest.raises(NotFilled, match="space fill"):
        await run_alembic(opened, lambda config: command.downgrade(config, "-1"), folder)
    for tenant in ("acme", "zoo"):
        await switch.fill(tenant)
    await run_alembic(opened, lambda config: command.downgrade(config, "-2"), folder)
    for said in ("the boat of zoo is blue", "the lamp is on the table", "the cat sleeps", "the dog barks"):
        assert await space_of("zoo", said) == before.id
    assert [one.role for one in await switch.status("zoo")] == ["serving"]


async def test_people_go_on_while_alembic_goes_up_and_down(
    opened: Database, changing: tuple[Services, SpaceSwitch, Path]
) -> None:
    """Whoever writes and searches meanwhile notices nothing: what was told is found, each time in one space whole."""
    services, switch, folder = changing
    kept = ["the boat is blue"]
    asked: list[str] = []
    is_over = asyncio.Event()

    async def write() -> None:
        while not is_over.is_set():
            said = f"parcel {len(kept)} of {len(kept) * 37} lies on shelf {len(kept) % 11}"
            await services.memories.add("acme", "ada", facts(said, kind=MemoryType.HISTORY))
            kept.append(said)

    async def search() -> None:
        while not is_over.is_set():
            said = kept[len(asked) % len(kept)]
            found = await services.ranking.search("acme", "ada", SearchRequest(said))
            assert (found.ranked[0].memory.content, found.is_degraded) == (said, False)
            assert found.ranked[0].cosine > 0.999
            asked.append(found.space)

    people = [asyncio.create_task(write()), asyncio.create_task(search())]
    await migrate(opened, migrations=folder)
    await switch.fill("acme")
    for _ in range(3):
        for way in (command.upgrade, command.downgrade):
            to = "head" if way is command.upgrade else "-1"
            await run_alembic(opened, partial(way, revision=to), folder)
            await asyncio.sleep(0.2)
    is_over.set()
    await asyncio.gather(*people)

    before = services.embedder.space.id
    assert set(asked) == {before, "new@0:64:mean:l2"}
    assert len([1 for one, other in pairwise(asked) if one != other]) >= 5
    for said in kept:
        found = await services.ranking.search("acme", "ada", SearchRequest(said))
        assert (found.space, found.ranked[0].memory.content) == (before, said)


NEXT = '''"""What the next release of the service makes."""

from alembic import op

revision = "made_up_next"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make a table."""
    op.execute("CREATE TABLE next_release (tenant_id text)")


def downgrade() -> None:
    """Take it back."""
    op.execute("DROP TABLE next_release")
'''


def newest() -> str:
    """The service's own newest revision."""
    (head,) = ScriptDirectory(str(MIGRATIONS)).get_heads()
    return head


async def revisions_in(database: Database) -> set[str]:
    async with database.engine.connect() as connection:
        return set((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars())


async def has_next_release(database: Database) -> bool:
    async with database.engine.connect() as connection:
        return (await connection.execute(text("SELECT to_regclass('next_release') IS NOT NULL"))).scalar_one()


@pytest.fixture
async def changing(
    settings: Settings, opened: Database, embedder: OnnxEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Services, SpaceSwitch, Path]:
    """A tenant with a memory, for whom a change of space was written as revisions, in a folder with the service's."""
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: NewEmbedder("new"))
    services = build_services(settings, opened, embedder)
    switch = build_switch(opened, services.spaces)
    await create_tenant(opened, "acme")
    await services.memories.add("acme", "ada", facts("the boat is blue", kind=MemoryType.HISTORY))
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    await switch.revisions("acme", ENDPOINT, is_contract=False, migrations=folder)
    return services, switch, folder


@pytest.mark.parametrize("is_merged", [False, True])
async def test_the_next_release_starts_beside_a_change_that_somebody_made(
    opened: Database, changing: tuple[Services, SpaceSwitch, Path], is_merged: bool
) -> None:
    """Its revision and theirs stand on the same one. The service's own start brings both; merged or not."""
    services, switch, folder = changing
    await migrate(opened, migrations=folder)
    await switch.fill("acme")
    await migrate(opened, migrations=folder)
    (switched,) = await revisions_in(opened)
    assert switched.endswith("_switch")

    (folder / "versions" / "made_up_next.py").write_text(NEXT.format(before=newest()))
    if is_merged:
        await run_alembic(opened, lambda config: command.merge(config, "heads", "both", rev_id="both"), folder)
    await migrate(opened, migrations=folder)
    await migrate(opened, migrations=folder)
    assert await has_next_release(opened)
    assert await revisions_in(opened) == ({"both"} if is_merged else {"made_up_next", switched})
    found = await services.ranking.search("acme", "ada", SearchRequest("the boat is blue"))
    assert (found.space, found.is_degraded) == ("new@0:64:mean:l2", False)

    if not is_merged:
        with pytest.raises(InvalidInput, match="alembic merge"):
            await switch.revisions("acme", None, is_contract=True, migrations=folder)
        return
    await switch.revisions("acme", None, is_contract=True, migrations=folder)
    await migrate(opened, migrations=folder)
    assert [one.role for one in await switch.status("acme")] == ["serving"]


@pytest.mark.parametrize("is_merged", [False, True])
async def test_a_change_that_waits_does_not_hold_up_the_next_release(
    opened: Database, changing: tuple[Services, SpaceSwitch, Path], is_merged: bool
) -> None:
    """The space is not filled yet: `switch`, and what builds on it, is left for the next start, and nothing else."""
    services, switch, folder = changing
    (folder / "versions" / "made_up_next.py").write_text(NEXT.format(before=newest()))
    if is_merged:
        await run_alembic(opened, lambda config: command.merge(config, "heads", "both", rev_id="both"), folder)
    await migrate(opened, migrations=folder)
    assert await has_next_release(opened)
    assert {revision.rpartition("_")[2] for revision in await revisions_in(opened)} == {"expand", "next"}
    found = await services.ranking.search("acme", "ada", SearchRequest("the boat is blue"))
    assert (found.space, found.is_degraded) == (services.embedder.space.id, False)
    await switch.fill("acme")
    await migrate(opened, migrations=folder)
    assert [one.space.space.model for one in await switch.status("acme")] == ["new", "all-MiniLM-L6-v2"]


async def test_revisions_change_every_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    """So `--all` says nothing, and is refused instead of being passed over."""
    from app.commands.space import plan

    with pytest.raises(InvalidInput, match="every tenant: leave --all out"):
        plan(endpoint=ENDPOINT, revisions=True, is_all=True)


@pytest.mark.parametrize("step", ["_end_use", "table_statements", "_forget"])
async def test_a_contract_that_was_broken_off_goes_on(
    step: str, opened: Database, changing: tuple[Services, SpaceSwitch, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, switch, folder = changing
    await migrate(opened, migrations=folder)
    await switch.fill("acme")
    await migrate(opened, migrations=folder)
    await switch.revisions("acme", None, is_contract=True, migrations=folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"app.store.space_revisions.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            await migrate(opened, migrations=folder)
    left = [one.role for one in await switch.status("acme")]
    assert left == ["serving", "kept" if step == "_end_use" else "dropped"]
    await migrate(opened, migrations=folder)
    assert [one.role for one in await switch.status("acme")] == ["serving"]


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
        await run_alembic(opened, lambda config: command.upgrade(config, "head"), folder)


async def test_a_change_made_by_command_goes_back_by_alembic_and_the_command_goes_on(
    settings: Settings, opened: Database, embedder: OnnxEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the benchmark of a change does it: nothing is lost, and the database names the package's newest revision."""
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: NewEmbedder("new"))
    services = build_services(settings, opened, embedder)
    switch = build_switch(opened, services.spaces)
    await create_tenant(opened, "acme")
    newest = await revisions_in(opened)
    await services.memories.add("acme", "ada", facts("the boat is blue", kind=MemoryType.HISTORY))
    await switch.create("acme", ENDPOINT)
    await switch.fill("acme")
    await switch.switch("acme")
    await services.memories.add("acme", "ada", facts("the cat sleeps", kind=MemoryType.HISTORY))
    spaces = await services.spaces.of("acme")
    assert spaces.serving.space == NewEmbedder("new").space

    await downgrade(opened, tmp_path / "migrations", spaces.others[0][0], spaces.serving, partial(switch.fill, "acme"))
    found = await services.ranking.search("acme", "ada", SearchRequest("the cat sleeps"))
    assert (found.space, found.ranked[0].memory.content) == (embedder.space.id, "the cat sleeps")
    assert await revisions_in(opened) == newest
    await migrate(opened)
    assert (await switch.verify("acme")).missing == 0
    await switch.switch("acme")
