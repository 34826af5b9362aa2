"""The doctor on real parts: the embedded database, an outside one, the real model, beside a service and alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.doctor.check import Unfit
from app.doctor.database import judge_pgvector, judge_tenancy, look_at_database
from app.settings import Settings
from app.store.engine import migrate
from tests.e2e.running import RunningService, find_free_port
from tests.servers import TcpServer, open_folder

pytestmark = pytest.mark.slow

PARTS = [
    "settings",
    "database",
    "migrations",
    "row-level security",
    "pgvector",
    "embedder",
    "stored vectors",
    "slm",
    "slm answers",
    "reranker",
    "venv-vllm",
    "disk",
    "training directory",
    "keys",
    "port",
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as opened:
        yield opened


def examine(service: RunningService, status: int) -> dict[str, dict[str, Any]]:
    """The checks of `doctor --json` by part; all parts are there, in their order, and the status fits."""
    done = service.run_command("doctor", "--json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"ok", "checks"}
    assert said["ok"] == (status == 0)
    assert [check["part"] for check in said["checks"]] == PARTS
    assert all(set(check) == {"part", "state", "found", "mend"} for check in said["checks"])
    return {check["part"]: check for check in said["checks"]}


def wrong(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {part for part, check in checks.items() if check["state"] == "wrong"}


def test_alone_then_beside_a_service_then_alone(folder: Path) -> None:
    """Fit before the first start, beside the running service and after it; nothing is left running."""
    service = RunningService(folder)
    checks = examine(service, 0)
    assert "no tables yet" in checks["migrations"]["found"]
    assert "started for this check" in checks["database"]["found"]
    assert "is free" in checks["port"]["found"]
    assert not (service.data_dir / "postgres/data/postmaster.pid").exists()

    service.start()
    try:
        with service.client() as http:
            body = {"user_id": "ada", "type": "PREFERENCE", "content": "I write Python"}
            assert http.post("/v1/memories", json=body).status_code == 200
        checks = examine(service, 0)
        assert "beside the running service" in checks["database"]["found"]
        assert checks["migrations"]["state"] == "ok"
        assert "an Embed Service" in checks["port"]["found"]
        assert checks["stored vectors"]["found"] == "1 memory in the embedder's space"
        service.create_key()
        assert "1 key in use" in examine(service, 0)["keys"]["found"]
        with service.client() as http:
            assert http.get("/readyz").status_code == 200
    finally:
        service.stop()

    done = service.run_command("doctor")
    assert "✓ ok" in done.stdout
    assert "nothing is wrong" in done.stdout


def test_broken_parts_do_not_hide_the_others(folder: Path) -> None:
    """A dead embedder and a dead vLLM are wrong with what mends them; all other parts are looked at."""
    env = {
        "EMBED_ENDPOINT": f"http://127.0.0.1:{find_free_port()}",
        "SLM_IMPL": "vllm",
        "VLLM_BASE_URL": f"http://127.0.0.1:{find_free_port()}/v1",
        "HOST": "0.0.0.0",
    }
    checks = examine(RunningService(folder, env), 1)
    assert wrong(checks) == {"embedder", "slm"}
    assert "EMBED_ENDPOINT" in checks["embedder"]["mend"]
    assert checks["slm"]["mend"] == "./start_vllm.sh"
    assert checks["venv-vllm"]["mend"] == "./setup_vllm.sh"
    assert checks["keys"]["mend"] == "embed-service keys create"
    assert {checks[part]["state"] for part in ("slm answers", "stored vectors")} == {"off"}
    assert {checks[part]["state"] for part in ("database", "pgvector", "disk", "port")} == {"ok"}

    done = RunningService(folder, env).run_command("doctor", check=False)
    assert done.returncode == 1
    assert "✗ wrong" in done.stdout


def test_no_database_and_no_folders(folder: Path) -> None:
    """Without a database, and with DATA_DIR and LOG_DIR below a file, the rest is told; no password is."""
    env = {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"}
    checks = examine(RunningService(folder, env), 1)
    assert wrong(checks) == {"database"}
    assert "127.0.0.1:1" in checks["database"]["found"]
    assert "secret" not in json.dumps(checks)

    (folder / "file").touch()
    env = {"DATA_DIR": str(folder / "file/data"), "LOG_DIR": str(folder / "file/logs")}
    checks = examine(RunningService(folder, env), 1)
    assert {"database", "disk"} <= wrong(checks)
    assert "DATA_DIR" in checks["database"]["mend"]


def test_a_wrong_setting_is_one_line_and_status_2(folder: Path) -> None:
    """As with every command; the value of a key is not shown."""
    done = RunningService(folder, {"TOKEN_BUDGET": "lots"}).run_command("doctor", "--json", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "TOKEN_BUDGET='lots'" in done.stderr


@pytest.fixture
async def bare_url(tcp_server: TcpServer) -> AsyncIterator[str]:
    """A database on an outside server without pgvector, as the ordinary role that owns it."""
    await tcp_server.execute("postgres", "DROP DATABASE IF EXISTS bare", "CREATE DATABASE bare OWNER ordinary")
    yield tcp_server.url("ordinary", "bare")
    await tcp_server.execute("postgres", "DROP DATABASE bare WITH (FORCE)")


def outside(url: str, folder: Path) -> Settings:
    return Settings(_env_file=None, data_dir=folder, database_url=url)


async def test_an_outside_database_is_only_looked_at(tcp_server: TcpServer, bare_url: str, folder: Path) -> None:
    """Looking makes nothing: no extension, no table, no role; both logins are judged as the start would find them."""
    as_owner = await look_at_database(outside(bare_url, folder))
    assert (as_owner.pgvector, as_owner.has_revision, as_owner.can_bypass) == (None, False, False)
    assert judge_tenancy(as_owner).state == "ok"
    as_admin = await look_at_database(outside(tcp_server.url("postgres", "bare"), folder))
    assert as_admin.can_bypass
    assert judge_pgvector(as_admin).state == judge_tenancy(as_admin).state == "ok"
    assert (await look_at_database(outside(bare_url, folder))).pgvector is None


async def test_tables_without_row_level_security_are_found(tcp_server: TcpServer, bare_url: str, folder: Path) -> None:
    """After the migrations all is confined; a table that someone opened is named."""
    await tcp_server.execute("bare", "CREATE EXTENSION vector")
    await migrate(bare_url)
    facts = await look_at_database(outside(bare_url, folder))
    assert (judge_tenancy(facts).state, judge_pgvector(facts).state) == ("ok", "ok")
    assert (facts.keys, facts.spaces, bool(facts.revisions)) == ((0, 0), {}, True)
    await tcp_server.execute("bare", "ALTER TABLE memories DISABLE ROW LEVEL SECURITY")
    check = judge_tenancy(await look_at_database(outside(bare_url, folder)))
    assert (check.state, "ALTER TABLE memories ENABLE" in check.mend) == ("wrong", True)


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        (("ordinary", "nobody"), "user and password"),
        (("/bare", "/nowhere"), "createdb"),
        (("127.0.0.1", "127.0.0.2"), ""),
    ],
)
async def test_why_a_database_cannot_be_reached(
    bare_url: str, folder: Path, change: tuple[str, str], mend: str
) -> None:
    """A refused login, a database that is not there, a server that is not there: each with its remedy."""
    with pytest.raises(Unfit) as caught:
        await look_at_database(outside(bare_url.replace(*change), folder))
    assert mend in caught.value.mend
    assert "DATABASE_URL" in caught.value.mend
    assert "pass" not in caught.value.found.replace("password", "")


def test_the_server_is_gone_after_a_look(folder: Path) -> None:
    """The embedded database that was started for the look does not answer any more."""
    facts = asyncio.run(look_at_database(Settings(_env_file=None, data_dir=folder, database_url=None)))
    assert facts.pgvector_offered
    with pytest.raises((OSError, asyncpg.PostgresError)):
        asyncio.run(asyncpg.connect(host=str(folder / "postgres/run"), user="postgres", timeout=2))
