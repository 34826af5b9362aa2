"""Real servers for the tests, from the same binaries as the embedded one."""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from app.store.embedded import create_cluster, find_binaries, find_identity, spawn_postgres

PASSWORD = "a pass/word@with:odd?parts"
QUOTED_PASSWORD = "a%20pass%2Fword%40with%3Aodd%3Fparts"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A short temporary folder that every user may enter, as a server that is not root must; pytest's are closed."""
    folder = Path(tempfile.mkdtemp(prefix="embed-")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class TcpServer:
    """A PostgreSQL on a loopback port that asks for passwords, as an outside one does."""

    port: int
    process: subprocess.Popen[bytes]

    def url(self, role: str, database: str) -> str:
        """Where `role` finds `database`. Roles: `postgres`, a superuser, and `ordinary`, who owns `embed`."""
        return f"postgresql://{role}:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    async def execute(self, database: str, *statements: str) -> None:
        """Run statements as the superuser."""
        connection = await asyncpg.connect(self.url("postgres", database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def stop(self) -> None:
        """Fast shutdown."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


async def start_tcp_server(folder: Path) -> TcpServer:
    """A new server in `folder`, with the role `ordinary` and its database `embed`, where pgvector is enabled."""
    cluster = folder / "data"
    identity = find_identity(cluster)
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o644)
    binaries = find_binaries()
    options = ("--auth-host=scram-sha-256", f"--pwfile={password_file}", "--no-sync")
    create_cluster(binaries, identity, cluster, options=options)
    settings = _settings()
    process = spawn_postgres(binaries, identity, cluster, settings, folder / "server.log")
    server = TcpServer(int(settings["port"]), process)
    try:
        await _wait_until_it_answers(server)
        await server.execute(
            "postgres",
            f"CREATE ROLE ordinary LOGIN PASSWORD '{PASSWORD}'",
            "CREATE DATABASE embed OWNER ordinary",
        )
        await server.execute("embed", "CREATE EXTENSION vector")
    except BaseException:
        server.stop()
        raise
    return server


async def start_replica(folder: Path, primary: TcpServer) -> TcpServer:
    """A standby in `folder` that replays what happens on `primary`, and answers reads."""
    cluster = folder / "data"
    identity = find_identity(cluster)
    binaries = find_binaries()
    copying = [*identity.prefix, str(binaries.folder / "pg_basebackup"), "-D", str(cluster), "-R", "-c", "fast"]
    made = await asyncio.create_subprocess_exec(*copying, "-d", primary.url("postgres", "postgres"), cwd=folder)
    assert await made.wait() == 0
    settings = _settings()
    process = spawn_postgres(binaries, identity, cluster, settings, folder / "server.log")
    replica = TcpServer(int(settings["port"]), process)
    try:
        await _wait_until_it_answers(replica)
    except BaseException:
        replica.stop()
        raise
    return replica


def _settings() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "shared_buffers": "32MB",
    }


async def _wait_until_it_answers(server: TcpServer) -> None:
    for _ in range(1000):
        try:
            return await server.execute("postgres")
        except (OSError, asyncpg.CannotConnectNowError):
            assert server.process.poll() is None, "the server ended"
            await asyncio.sleep(0.02)
    raise AssertionError("the server does not answer")
