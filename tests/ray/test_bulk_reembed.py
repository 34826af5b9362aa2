"""Re-embedding on Ray: on one machine, and on two nodes of which one is killed half-way; every item exactly once."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from app.clients.embeddings import minilm
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.memory import Draft, MemoryType
from app.domain.spaces import StoredSpace
from app.ports import Embedder
from app.services.space_filler import SpaceFiller
from app.settings import Settings
from app.store.engine import Database
from app.store.space_fills import FillStore
from app.store.spaces import SpaceStore
from app.store.tenants import TenantStore
from app.wiring import build_services, build_switch
from benchmarks.ray_serve.cluster import local_cluster
from bulk.backlog import cut
from bulk.steps import Embedding, Job, Writing, read_tasks
from tests.embedding_server import MODEL, embedding_server
from tests.fakes import FakeEmbedder

ROOT = Path(__file__).parents[2]
USERS = ("ada", "bob", "cyd")

pytestmark = pytest.mark.timeout(600)


class House:
    """A tenant with memories in one space, and another space that is being filled."""

    def __init__(self, database: Database, folder: Path, tenant: str, serving: Embedder) -> None:
        settings = Settings(_env_file=None, data_dir=folder, database_url=None, embed_endpoint="http://old.example")
        self.services = build_services(settings, database, serving)
        self.switch = build_switch(database, self.services.spaces)
        self.database, self.folder, self.tenant = database, folder, tenant

    async def remember(self, *said: str) -> None:
        for user, own in zip(USERS, (said[place :: len(USERS)] for place in range(len(USERS))), strict=True):
            drafts = [Draft(MemoryType.HISTORY, each) for each in own]
            if drafts:
                await self.services.memories.add(self.tenant, user, drafts)

    async def begin_to_fill_own(self) -> StoredSpace:
        """Have the built-in model's space be filled."""
        async with self.database.begin(self.tenant) as connection:
            space = await SpaceStore().register(connection, minilm.SPACE, storage="vector", endpoint=None)
            while await SpaceStore().tie(connection, space):
                pass
            await SpaceStore().set_role(connection, self.tenant, space.number, "filling")
        return space

    async def rows(self, query: str) -> list[Any]:
        async with self.database.begin(self.tenant) as connection:
            return list(await connection.execute(text(query), {"tenant": self.tenant}))

    async def count(self, table: str) -> int:
        return (await self.rows(f"SELECT count(*) FROM {table} WHERE tenant_id = :tenant"))[0][0]

    async def assert_whole(self, space: StoredSpace, embedder: Embedder) -> int:
        """Every memory has one vector in a space, the embedder's own, and nothing is noted; how many there are."""
        found = await self.rows(
            "SELECT m.content, v.embedding::text FROM memories m "
            f"LEFT JOIN {space.memory_table} v USING (tenant_id, user_id, memory_id) WHERE m.tenant_id = :tenant"
        )
        assert all(vector for _, vector in found)
        assert await self.count(space.memory_table) == len(found) == await self.count("memories")
        made = await embedder.embed([content for content, _ in found])
        stored = np.array([json.loads(vector) for _, vector in found], np.float32)
        assert float((made * stored).sum(axis=1).min()) > 0.9999
        assert await self.count("space_backlog") == 0
        return len(found)

    async def reembed(self, *flags: str, **variables: str) -> asyncio.subprocess.Process:
        """`python -m bulk reembed`, begun."""
        kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        own = {"DATA_DIR": str(self.folder), "LOG_DIR": str(self.folder / "logs"), "PYTHONPATH": str(ROOT)}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bulk", "reembed", "--tenant", self.tenant, "--shard", "16", "--json", *flags),
            cwd=self.folder,
            env={**kept, **own, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


async def document(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What it printed, when it has ended well."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out)


@pytest.fixture
async def house(database: Database, embedded_dir: Path, tenant: str) -> House:
    async with database.begin(tenant) as connection:
        await TenantStore().ensure(connection, tenant)
    return House(database, embedded_dir, tenant, FakeEmbedder("old"))


@pytest.fixture(scope="module")
async def embedder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OnnxEmbedder]:
    loaded = OnnxEmbedder.load(tmp_path_factory.mktemp("models"))
    yield loaded
    await loaded.aclose()


def said(count: int) -> Sequence[str]:
    return [
        f"On day {number} we walked {number * 7 % 31} miles along the coast and slept in a barn"
        for number in range(count)
    ]


async def test_a_shard_that_comes_twice_is_written_once(house: House, embedder: OnnxEmbedder) -> None:
    await house.remember(*said(30))
    space = await house.begin_to_fill_own()
    filler = SpaceFiller(house.database, house.services.spaces, SpaceStore(), FillStore())
    assert await filler.note(house.tenant, space) == 30
    async with house.database.begin(house.tenant) as connection:
        shards = await cut(connection, house.tenant, space.number, 8)
    settings = Settings(_env_file=None, data_dir=house.folder, database_url=None)
    job = Job(house.tenant, space, settings, house.database.prepared)

    def work() -> list[int]:
        rows = [row for task in read_tasks(job, shards) for block in task() for row in block.to_pylist()]
        embedding, writing = Embedding(job, SimpleNamespace(note=SimpleNamespace(remote=lambda: None))), Writing(job)
        made = [embedding(row) for row in rows]
        return [writing(row)["written"] for row in (*made, *made)]

    written = await asyncio.to_thread(work)

    assert written == [8, 8, 8, 6, 0, 0, 0, 0]
    await house.assert_whole(space, embedder)


async def test_one_machine_fills_a_space_from_an_endpoint(house: House) -> None:
    await house.remember(*said(300))
    with embedding_server() as address:
        made = await house.switch.create(house.tenant, f"{address}/embed")
        done = await document(await house.reembed("--workers", "2"))

    assert (done["space"], done["role"], done["written"], done["again"]) == (made.space.id, "filled", 300, 0)
    await house.assert_whole(made.space, FakeEmbedder(MODEL))


async def test_a_node_is_killed_half_way_and_every_memory_has_its_vector_once(
    house: House, embedder: OnnxEmbedder
) -> None:
    await house.remember(*said(2400))
    space = await house.begin_to_fill_own()
    with local_cluster({"RAY_AUTH_MODE": "disabled"}) as cluster:
        process = await house.reembed(
            "--address", cluster.environment["RAY_ADDRESS"], "--workers", "2", RAY_AUTH_MODE="disabled"
        )
        ended = asyncio.create_task(document(process))
        is_enough = asyncio.Event()
        meanwhile = asyncio.create_task(remember_until(house, is_enough))
        await reached(house, space, 1200, ended)
        cluster.kill_node(cluster.nodes[1])
        is_enough.set()  # what is written after the end is only noted: nobody here embeds in that space
        added = await meanwhile
        assert not ended.done()
        done = await ended
    print(f"{done}, {added} memories written meanwhile")

    assert done["role"] == "filled"
    assert done["again"] > 0, "the killed node had work"
    assert await house.assert_whole(space, embedder) == 2400 + added


async def remember_until(house: House, is_enough: asyncio.Event) -> int:
    """Write a memory now and then until it is enough; how many."""
    added = 0
    while not is_enough.is_set():
        await house.remember(f"Meanwhile number {added} was written down, as always")
        added += 1
        await asyncio.sleep(0.5)
    return added


async def reached(house: House, space: StoredSpace, count: int, ended: "asyncio.Task[Any]") -> None:
    """Return when so many vectors are there."""
    while await house.count(space.memory_table) < count:
        assert not ended.done(), await ended
        await asyncio.sleep(0.05)


async def test_what_is_not_possible_is_one_line(house: House) -> None:
    for flags, said_why in (
        (("--address", "127.0.0.1:1"), "error: no Ray cluster answers at 127.0.0.1:1"),
        (("--workers", "1"), "error: no embedding space is being filled"),
    ):
        process = await house.reembed(*flags)
        out, err = await process.communicate()
        assert (process.returncode, out) == (1, b"")
        assert err.decode().startswith(said_why)
        assert err.count(b"\n") == 1
