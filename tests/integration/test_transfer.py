"""Everything held on a user: out and in again without losing a bit, and gone without leaving one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import orjson
import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import InvalidInput, NotFound, UserErased
from app.domain.training import FILES
from app.services.choices import ExecuteRequest
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.store.tables import USER_TABLES
from app.wiring import build_services
from tests.fakes import FakeEmbedder
from tests.integration.conftest import create_tenant, facts, live_a_little

USER = "ünï/cøde 用户"


async def export(services: Services, tenant: str, user: str) -> bytes:
    return b"".join([line async for line in services.transfer.export(tenant, user)])


async def put(services: Services, tenant: str, stream: bytes) -> dict[str, int]:
    return dict(await services.transfer.import_(tenant, stream.splitlines(keepends=True)))


async def places_that_hold(database: Database, folder: Path, *needles: str) -> set[str]:
    """Every table of the database and every file of a folder in which one of the needles occurs, as the
    superuser sees them, so that no row is hidden by row-level security."""
    connection = await asyncpg.connect(database.server.url.replace("+asyncpg", ""))
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        patterns = [f"%{needle}%" for needle in needles]
        found = {
            name
            for (name,) in rows
            if await connection.fetchval(f'SELECT bool_or(t::text LIKE ANY($1)) FROM "{name}" t', patterns)
        }
    finally:
        await connection.close()
    return found | {name for name, held in contents(folder).items() if any(n.encode() in held for n in needles)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def small_files(database: Database, embedder: OnnxEmbedder, tmp_path: Path) -> Services:
    """Services whose training files are full after a sample or two."""
    own = {"training_data_dir": tmp_path, "training_file_max_mb": 0.0005, "enable_training_data_collection": True}
    return build_services(Settings(_env_file=None, data_dir=tmp_path, **own), database, embedder)


async def test_a_round_trip_changes_nothing(services: Services, tenant: str) -> None:
    """Export, erase, import, export: the same bytes, with versions, facets, sets, executions and signals."""
    await live_a_little(services, tenant, USER, "quokka")
    await live_a_little(services, tenant, "neighbour", "wombat")
    before = await export(services, tenant, USER)
    lines = [orjson.loads(line) for line in before.splitlines()]
    assert {line["table"] for line in lines} == {table.name for table in USER_TABLES}
    assert any(line.get("version_of") for line in lines)
    assert any(line.get("superseded_by") for line in lines)
    assert b"wombat" not in before
    neighbour = await export(services, tenant, "neighbour")

    erased = (await services.transfer.erase(tenant, USER)).erased
    assert {table: count for table, count in erased.items() if table not in FILES} == {
        table.name: sum(line["table"] == table.name for line in lines) for table in USER_TABLES
    }
    assert await put(services, tenant, before) == {
        table.name: sum(line["table"] == table.name for line in lines) for table in USER_TABLES
    }
    assert await export(services, tenant, USER) == before
    assert await export(services, tenant, "neighbour") == neighbour
    assert set((await put(services, tenant, before)).values()) == {0}
    assert await export(services, tenant, USER) == before


async def test_an_imported_user_is_a_whole_user(services: Services, tenant: str, other_tenant: str) -> None:
    """In another tenant the user is found, hypothesized for and learned from as where they came from."""
    await live_a_little(services, tenant, USER, "quokka")
    await put(services, other_tenant, await export(services, tenant, USER))
    assert await export(services, other_tenant, USER) == await export(services, tenant, USER)
    for text_, limit in (("editor", 3), ("deploying", 5)):
        here, there = [
            await services.ranking.search(each, USER, SearchRequest(text_, limit)) for each in (tenant, other_tenant)
        ]
        assert [r.memory for r in here.ranked] == [r.memory for r in there.ranked]
        assert here.ranked
    made = await services.hypotheses.hypothesize(other_tenant, USER, "deploy my app")
    assert "AWS" in made.hypotheses[0].question
    await services.context.execute(other_tenant, USER, ExecuteRequest("deploy my app", made.set_id, "h1"))
    assert await services.personas.history(other_tenant, USER)
    await services.transfer.erase(other_tenant, USER)
    assert await export(services, other_tenant, USER) == b""
    assert await export(services, tenant, USER) != b""


async def test_memories_of_another_space_are_embedded_anew(
    services: Services, settings: Settings, database: Database, tenant: str, other_tenant: str
) -> None:
    """An export made with another model is searchable by vector after the import."""
    foreign = build_services(settings, database, FakeEmbedder("another"))
    await foreign.memories.add(tenant, "u", facts("I keep two goats", "I play the accordion"))
    await put(services, other_tenant, await export(foreign, tenant, "u"))
    found = await services.ranking.search(other_tenant, "u", SearchRequest("musical instruments"))
    assert found.ranked[0].memory.content == "I play the accordion"
    assert found.ranked[0].cosine > 0.2


@pytest.fixture(scope="module")
async def life(services: Services) -> bytes:
    """The export of a user with something in every table."""
    await create_tenant(services.database, "tenant-of-a-life")
    await live_a_little(services, "tenant-of-a-life", "u", "quokka")
    return await export(services, "tenant-of-a-life", "u")


SHOWN = {"id": "h1", "question": "a?", "request": "a", "rationale": "", "confidence": 0.5, "score": 0.0}
SHOWN |= {"slots": {}, "evidence": []}


def _cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][: len(lines[-1]) // 2]]


def _change(kind: str, **values: Any) -> Callable[[list[bytes]], list[bytes]]:
    """Change the last line of a table."""

    def change(lines: list[bytes]) -> list[bytes]:
        documents = [orjson.loads(line) for line in lines]
        at = max(index for index, document in enumerate(documents) if document["table"] == kind)
        return [*lines[:at], orjson.dumps(documents[at] | values) + b"\n", *lines[at + 1 :]]

    return change


def _without_user(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if orjson.loads(line)["table"] != "users"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cut, "not JSON"),
        (lambda lines: [*lines, b"[]\n"], "not a JSON object"),
        (lambda lines: [*lines, b'{"table": "api_keys"}\n'], "table has to be one of"),
        (_change("memories", type="OPINION"), "type has to be one of"),
        (_change("memories", confidence=1.5), "out of its range"),
        (_change("memories", embedding="AAAA"), "embedding is not a vector"),
        (_change("memories", tenant_id="default"), "no field tenant_id"),
        (_change("memories", content="nul \0"), "content is not a text"),
        (_change("memories", created_at="yesterday"), "created_at is not a moment"),
        (_change("users", facets={"concise": "very"}), "facets"),
        (_change("users", facets={"concise": {"value": 7, "strength": 2}}), "facets"),
        (
            _change("users", facets={"concise": {"mean": 0.5, "variance": 1e-320, "evidence": 1, "start": [0.5, 0.1]}}),
            "facets",
        ),
        (_change("users", facets={"concise": {"mean": 0.5, "variance": 0.1, "evidence": 1, "start": [0.5]}}), "facets"),
        (_change("facet_evidence", evidence={"shown": [], "chosen": 0, "remark": {"concise": 7}}), "evidence"),
        (_change("facet_evidence", evidence={"shown": [{}], "chosen": 3, "remark": {}}), "evidence"),
        (_change("hypothesis_sets", hypotheses=[{"id": "h1"}]), "hypotheses"),
        (_change("hypothesis_sets", hypotheses={}), "hypotheses"),
        (_change("hypothesis_sets", hypotheses=[SHOWN | {"rank": 9}]), "hypotheses"),
        (_change("hypothesis_sets", hypotheses=[SHOWN | {"features": {"score": "high"}}]), "hypotheses"),
        (_change("hypothesis_sets", policy={"order": {"is_drawn": True}}), "policy"),
        (_change("hypothesis_sets", policy={"stakes": {"question_cost": 0.1}, "specificity": 0.0}), "policy"),
        (_change("hypothesis_sets", chosen_slots={"platform": 5}), "chosen_slots"),
        (_change("hypothesis_sets", input_vector="AACAPw=="), "input_vector"),
        (_without_user, "refers to a user that is not in it"),
    ],
)
async def test_a_stream_that_is_good_by_half_writes_nothing(
    services: Services, tenant: str, life: bytes, damage: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    """One bad line, wherever it is, and none of the good ones are written; the answer says what is wrong."""
    lines = life.splitlines(keepends=True)
    with pytest.raises(InvalidInput, match=says):
        await put(services, tenant, b"".join(damage(lines)))
    async with services.database.begin(tenant) as connection:
        for table in USER_TABLES:
            assert (await connection.execute(text(f"SELECT count(*) FROM {table.name}"))).scalar_one() == 0


async def test_an_erased_user_is_nowhere(
    small_files: Services, database: Database, tenant: str, tmp_path: Path
) -> None:
    """Nothing of the user is left in any table or file, the rotated ones included; the counts say what went
    from where; everybody else's rows and lines are as they were."""
    user, word = "erased-zanzibar-user", "xyzzyquokka" * 20
    for number in range(2):
        await live_a_little(small_files, tenant, user, word)
        await live_a_little(small_files, tenant, f"kept-{number}", "wombat")
    collector = small_files.collector
    held = await places_that_hold(database, tmp_path, user, word)
    assert {table.name for table in USER_TABLES} < held
    assert {f"{file.removesuffix('.jsonl')}.1.jsonl" for file in FILES} < held
    before = {file: [line for line in collector.read(file) if line["user_id"] != user] for file in FILES}
    of_user = {file: sum(line["user_id"] == user for line in collector.read(file)) for file in FILES}
    kept = [await export(small_files, tenant, f"kept-{number}") for number in range(2)]
    rows = (await export(small_files, tenant, user)).splitlines()

    erased = (await small_files.transfer.erase(tenant, user)).erased

    assert await places_that_hold(database, tmp_path, user, word) == set()
    assert {file: erased[file] for file in FILES} == of_user
    assert min(of_user.values()) > 0
    for table in USER_TABLES:
        assert erased[table.name] == sum(orjson.loads(row)["table"] == table.name for row in rows) > 0
    assert {file: list(collector.read(file)) for file in FILES} == before
    assert [await export(small_files, tenant, f"kept-{number}") for number in range(2)] == kept
    with pytest.raises(NotFound):
        await small_files.transfer.erase(tenant, user)


async def test_the_same_name_in_another_tenant_is_another_user(
    database: Database, embedder: OnnxEmbedder, tenant: str, tmp_path: Path
) -> None:
    """Erasing `u` of one tenant leaves `u` of the other, rows and training samples."""
    settings = Settings(
        _env_file=None, data_dir=tmp_path, training_data_dir=tmp_path, enable_training_data_collection=True
    )
    services = build_services(settings, database, embedder)
    await create_tenant(database, f"{tenant}-two")
    for each, word in ((tenant, "xyzzyone"), (f"{tenant}-two", "xyzzytwo")):
        await live_a_little(services, each, "u", word)
    theirs = await export(services, f"{tenant}-two", "u")
    await services.transfer.erase(tenant, "u")
    assert await places_that_hold(database, tmp_path, "xyzzyone") == set()
    assert len(await places_that_hold(database, tmp_path, "xyzzytwo")) > len(FILES)
    assert await export(services, f"{tenant}-two", "u") == theirs


async def test_erasing_a_user_who_is_being_written_to(services: Services, tenant: str) -> None:
    """An erasure amid writes does not fail, and a write fails only by saying that its user was erased meanwhile; once
    they are done a second one leaves nothing."""
    user = "busy"
    await live_a_little(services, tenant, user, "quokka")

    async def write(number: int) -> None:
        await services.memories.add(tenant, user, facts(f"I own boat {number} of {number * 7}"))
        await services.hypotheses.hypothesize(tenant, user, f"deploy app {number}")

    async def erase() -> None:
        await asyncio.sleep(0.02)
        await services.transfer.erase(tenant, user)

    outcomes = await asyncio.gather(erase(), *(write(number) for number in range(12)), return_exceptions=True)
    assert outcomes[0] is None
    assert [one for one in outcomes if one is not None and not isinstance(one, UserErased)] == []
    lines = [orjson.loads(line) for line in (await export(services, tenant, user)).splitlines()]
    assert not lines or sum(line["table"] == "users" for line in lines) == 1
    await write(12)
    await services.transfer.erase(tenant, user)
    assert await export(services, tenant, user) == b""


async def test_vectors_survive_in_half_precision(services: Services, tenant: str, embedder: OnnxEmbedder) -> None:
    """The exported vector is the model's own as it is stored: rounded once, and the same after every way."""
    from base64 import b64decode

    await services.memories.add(tenant, "u", facts("I keep two goats"))
    row = next(
        line
        for line in map(orjson.loads, (await export(services, tenant, "u")).splitlines())
        if line["table"] == "memories"
    )
    expected = (await embedder.embed(["I keep two goats"]))[0]
    assert np.array_equal(np.frombuffer(b64decode(row["embedding"]), dtype="<f4"), expected.astype("<f2"))
