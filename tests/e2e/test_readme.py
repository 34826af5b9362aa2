"""The commands of the documents do what the documents say, copied as they stand."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from app.store.embedded import find_binaries
from app.store.engine import open_database
from tests.e2e.running import RunningService, open_service
from tests.servers import TcpServer, open_folder, start_tcp_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf8")
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf8")


@pytest.fixture(scope="module")
def running_service() -> Iterator[RunningService]:
    """A new one, as a newcomer has it: what others of a tenant chose changes what is asked first."""
    with open_service() as service:
        yield service


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_blocks(service: RunningService, *parts: str) -> subprocess.CompletedProcess[str]:
    """Blocks in one shell, in a folder that looks like a checkout whose service runs."""
    checkout = service.folder
    if not (checkout / ".venv").exists():
        (checkout / ".venv").symlink_to(sys.prefix)
        (checkout / "migrations").symlink_to(ROOT / "migrations")
        (checkout / "alembic.ini").symlink_to(ROOT / "alembic.ini")
    text = "\n".join(parts).replace("http://127.0.0.1:8080", service.base_url)
    settings = {name.upper() for name in Settings.model_fields}
    env = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    return subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", text],
        cwd=checkout,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_one_minute_to_start(running_service: RunningService) -> None:
    curls = [block for block in blocks(README, "bash") if "curl" in block]
    done = run_blocks(running_service, *curls)

    assert done.returncode == 0, done.stderr
    assert "problem" not in done.stdout
    remembered, _, rest = done.stdout.partition("}")
    assert len(json.loads(remembered + "}")["ids"]) == 3
    assert "FastAPI?" in rest, "the first question is made of what was remembered"
    assert '"enriched_prompt"' in rest
    feedback = json.loads(rest[rest.rindex('{"accepted"') :])
    assert feedback["facet_deltas"]["concise"] < 0


def test_backup_restore_logs_keys_and_migrations() -> None:
    inside, backup, restore, upgrade = (
        next(block for block in blocks(OPERATIONS, "bash") if word in block)
        for word in ("$PG/psql", "$PG/pg_dump", "$PG/pg_restore", "alembic")
    )
    logs = next(block for block in blocks(OPERATIONS, "bash") if "grep" in block)
    keys = next(block for block in blocks(README, "bash") if "keys create" in block)
    with open_service() as service:
        with service.client() as client:
            client.post("/v1/memories", json={"user_id": "ada", "type": "GOAL", "content": "Build an API"})
            done = run_blocks(service, inside, backup)
            assert done.returncode == 0, done.stderr
            client.delete("/v1/users/ada").raise_for_status()

            done = run_blocks(service, inside, restore, upgrade)
            assert done.returncode == 0, done.stderr
            found = client.post("/v1/memories/search", json={"user_id": "ada", "query": "API"}).json()
            assert [item["memory"]["content"] for item in found["results"]] == ["Build an API"]

        for line in logs.splitlines():
            assert run_blocks(service, line).returncode in {0, 1}, "found or not, but understood"
        done = run_blocks(service, keys)
        assert done.returncode == 0, done.stderr
        secret = done.stdout.splitlines()[0]
        answer = httpx.get(f"{service.base_url}/v1/telemetry", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 200


def test_your_own_postgresql() -> None:
    (sql,) = blocks(README, "sql")

    async def prepare(folder: Path) -> None:
        server: TcpServer = await start_tcp_server(folder)
        try:
            await server.execute("postgres", "DROP DATABASE embed")  # other tests bring their own of that name
            psql = find_binaries().folder / "psql"
            superuser = server.url("postgres", "postgres")
            done = await asyncio.to_thread(
                subprocess.run,
                [psql, "-v", "ON_ERROR_STOP=1", superuser],
                input=sql,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            url = f"postgresql://embed:choose%20a%20password@127.0.0.1:{server.port}/embed?sslmode=disable"
            database = await open_database(Settings(_env_file=None, database_url=url, data_dir=folder))
            assert database.prepared.role is None, "an ordinary role works as itself"
            await database.ping()
            await database.aclose()
        finally:
            server.stop()

    with open_folder() as folder:
        asyncio.run(prepare(folder))
