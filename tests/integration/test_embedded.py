"""The embedded server keeps its data and comes back, whatever is killed."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.store import embedded
from app.store.embedded import EmbeddedServer, EmbeddedServerError, start_embedded
from app.store.engine import Database
from tests.servers import open_folder

REPOSITORY = Path(__file__).parents[2]

OWNER = """
import asyncio, sys
from pathlib import Path
import asyncpg, structlog
from app.store.embedded import start_embedded

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    server = await start_embedded(Path(sys.argv[1]), dies_with_owner=sys.argv[2] == "dies")
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    await connection.execute("CREATE TABLE IF NOT EXISTS acknowledged (number int)")
    print(server.pid, flush=True)
    for number in range(1_000_000):
        await connection.execute("INSERT INTO acknowledged VALUES ($1)", number)
        print(number, flush=True)

asyncio.run(main())
"""

VISITOR = """
import asyncio, sys
from pathlib import Path
import asyncpg
from app.store.embedded import start_embedded

async def main():
    server = await start_embedded(Path(sys.argv[1]))
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    print(server.is_owner, await connection.fetchval("SELECT 6 * 7"))
    await connection.close()
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One folder for the tests here; each starts its server and stops it again."""
    with open_folder() as folder:
        yield folder


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[EmbeddedServer]:
    server = await start_embedded(data_dir)
    try:
        yield server
    finally:
        await server.stop()


async def query(server: EmbeddedServer, statement: str) -> object:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_running(server: EmbeddedServer) -> bool:
    return server.pid is not None and is_alive(server.pid)


def mode_of(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def run_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )


async def test_data_outlives_a_stop_and_a_start(data_dir: Path) -> None:
    async with running(data_dir) as server:
        assert server.is_owner
        pid = server.pid
        assert is_alive(pid)
        await query(server, "CREATE TABLE kept AS SELECT 42 AS number")
    assert not is_alive(pid)
    async with running(data_dir) as server:
        assert server.pid != pid
        assert await query(server, "SELECT number FROM kept") == 42


async def test_it_listens_on_a_private_socket_only(data_dir: Path) -> None:
    async with running(data_dir) as server:
        assert await query(server, "SHOW listen_addresses") == ""
        folder = Path(str(await query(server, "SHOW unix_socket_directories")))
        assert mode_of(folder) == 0o700
        assert server.pid is not None
        assert psutil.Process(server.pid).net_connections("inet") == []


async def test_it_comes_back_when_postgres_is_killed(data_dir: Path) -> None:
    async with running(data_dir) as server:
        killed = server.pid
        assert killed is not None
        await query(server, "CREATE TABLE survives AS SELECT 7 AS number")
        os.kill(killed, signal.SIGKILL)
        await until(lambda: server.pid not in (None, killed))
        assert await query(server, "SELECT number FROM survives") == 7


@pytest.mark.slow
async def test_data_that_vanishes_is_not_replaced_by_an_empty_cluster() -> None:
    with open_folder() as data_dir:
        async with running(data_dir) as server:
            os.kill(server.pid or 0, signal.SIGKILL)
            os.rename(data_dir / "postgres" / "data", data_dir / "elsewhere")
            await asyncio.sleep(0.5)
            assert "data" not in os.listdir(data_dir / "postgres")
            os.rename(data_dir / "elsewhere", data_dir / "postgres" / "data")
            await until(lambda: is_running(server))
            assert await query(server, "SELECT 1") == 1


async def test_a_second_process_attaches_and_leaves_the_server_running(database: Database, embedded_dir: Path) -> None:
    assert database.server is not None
    pid = database.server.pid
    output, _ = await asyncio.to_thread(run_script(VISITOR, str(embedded_dir)).communicate)
    assert output.split() == ["False", "42"]
    assert database.server.pid == pid
    assert is_alive(pid)
    await database.ping()


async def test_an_attached_one_inherits_the_server_when_its_owner_leaves(data_dir: Path) -> None:
    async with running(data_dir) as owner, running(data_dir) as heir:
        assert not heir.is_owner
        url = heir.url
        await owner.stop()
        await until(lambda: heir.pid is not None)
        assert heir.is_owner
        assert heir.url == url
        assert await query(heir, "SELECT 1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "stays"])
async def test_nothing_acknowledged_is_lost_when_the_owner_is_killed(how: str) -> None:
    with open_folder() as data_dir:
        owner = run_script(OWNER, str(data_dir), how)
        assert owner.stdout is not None
        orphan = int(await asyncio.to_thread(owner.stdout.readline))
        for _ in range(50):
            await asyncio.to_thread(owner.stdout.readline)
        owner.kill()
        acknowledged = owner.stdout.read().split()
        owner.wait()
        last = int(acknowledged[-1]) if acknowledged else 49
        async with running(data_dir) as server:
            assert server.is_owner
            if how == "stays":
                assert server.pid == orphan
            assert await query(server, f"SELECT count(*) FROM acknowledged WHERE number <= {last}") == last + 1
        assert not is_alive(orphan)


async def test_a_long_data_path_gets_its_socket_elsewhere() -> None:
    with open_folder() as folder:
        data_dir = folder / ("long-" * 20) / "data"
        async with running(data_dir) as server:
            assert await query(server, "SELECT 1") == 1
            socket_dir = Path(str(await query(server, "SHOW unix_socket_directories")))
            assert data_dir not in socket_dir.parents
            assert mode_of(socket_dir) == 0o700
            async with running(data_dir) as visitor:
                assert await query(visitor, "SELECT 2") == 2
        os.rmdir(socket_dir)


async def test_what_a_kill_left_behind_does_not_stop_a_start(data_dir: Path) -> None:
    """The pid file of a dead server can name a live process of someone else; half an initdb is no data."""
    async with running(data_dir):
        pass
    cluster = data_dir / "postgres" / "data"
    (cluster / "postmaster.pid").write_text(
        f"{os.getpid()}\n{cluster}\n1\n5432\n{data_dir / 'postgres' / 'run'}\n\n1 1\nready   \n"
    )
    (data_dir / "postgres" / "run" / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    async with running(data_dir) as server:
        assert await query(server, "SELECT 1") == 1


def test_half_an_initdb_leaves_nothing() -> None:
    with open_folder() as folder:
        cluster = folder / "data"
        (folder / "data.new-killed").mkdir()
        identity = embedded.find_identity(cluster)
        with pytest.raises(EmbeddedServerError, match="did not start"):
            embedded.create_cluster(embedded.find_binaries(), identity, cluster, options=("--no-such-option",))
        assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
async def test_root_without_user_namespaces_runs_it_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    works = embedded._works
    monkeypatch.setattr(embedded, "_works", lambda prefix: prefix[0] != "unshare" and works(prefix))
    with open_folder() as data_dir:
        async with running(data_dir) as server:
            assert psutil.Process(server.pid).uids().real == embedded.NOBODY
            assert await query(server, "SELECT 1") == 1
        monkeypatch.undo()
        async with running(data_dir) as server:
            assert psutil.Process(server.pid).uids().real == embedded.NOBODY, "it stays with the data's owner"
        data_dir.chmod(0o700)
        with pytest.raises(EmbeddedServerError, match=f"may not enter {data_dir}"):
            await start_embedded(data_dir)


@pytest.mark.parametrize(
    ("version", "message"),
    [("9\n", r"written by PostgreSQL 9 and the installed one is \d+"), (None, "holds no PostgreSQL data")],
)
async def test_foreign_data_is_refused_with_one_line(tmp_path: Path, version: str | None, message: str) -> None:
    cluster = tmp_path / "postgres" / "data"
    cluster.mkdir(parents=True)
    if version:
        (cluster / "PG_VERSION").write_text(version)
    with pytest.raises(EmbeddedServerError, match=message) as caught:
        await start_embedded(tmp_path)
    assert "\n" not in str(caught.value)


async def test_a_data_folder_that_is_a_file_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(EmbeddedServerError, match="DATA_DIR"):
        await start_embedded(tmp_path / "data")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("initdb: error: could not write: No space left on device", "no space is left"),
        ("x PANIC:  wrote only 4096 of 8192 bytes\nx HINT:  Check free disk space.", "no space is left"),
        ("x LOG:  hello\nx [1] FATAL:  could not map\nx [2] PANIC:  so be it\nx LOG:  bye", "could not map"),
        ("", "it said nothing"),
    ],
)
def test_a_failed_start_is_explained_in_one_line(output: str, reason: str) -> None:
    message = embedded._explain(output, Path("/somewhere"))
    assert reason in message
    assert "\n" not in message
