"""Workers on one database that are killed with `kill -9` in the middle of jobs, and once the database itself."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.domain.errors import StoreUnavailable
from app.domain.jobs import JobKind
from app.services.jobs.queue import new_job
from app.settings import Settings
from app.store.engine import Database, open_database
from tests.e2e.job_worker import DOOMED, MENDED, STEADY
from tests.e2e.running import COMMAND, RunningService, open_service
from tests.jobs import Numbered, create_user, effects, queue_of, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TENANT = "busy"
JOBS = 400
LANES = 8
KILLS = 4
DOOMED_JOBS = 5


class Workers:
    """Worker processes beside a service."""

    def __init__(self, service: RunningService) -> None:
        self.killed_at: dict[int, float] = {}
        self._service = service
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, **env: str) -> None:
        """One more."""
        own = {"DATA_DIR": str(self._service.data_dir), "LOG_DIR": str(self._service.folder / "worker-logs")}
        with (self._service.folder / "workers.txt").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.e2e.job_worker"],
                    cwd=Path(__file__).parents[2],
                    env=os.environ | own | env,
                    stdout=output,
                    stderr=output,
                )
            )

    def kill(self) -> None:
        """The one that has worked longest, at once."""
        process = self._processes.pop(0)
        process.kill()
        process.wait()
        self.killed_at[process.pid] = time.time()

    def stop(self) -> list[int]:
        """All, as a supervisor does; their exit statuses."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        ended = [process.wait(timeout=60) for process in self._processes]
        self._processes.clear()
        return ended


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """A service whose own worker knows none of these jobs."""
    with open_service() as opened:
        yield opened


@pytest.fixture
def workers(service: RunningService) -> Iterator[Workers]:
    started = Workers(service)
    yield started
    started.stop()


@pytest.fixture
async def database(service: RunningService) -> AsyncIterator[Database]:
    """The service's database."""
    opened = await open_database(Settings(_env_file=None, data_dir=service.data_dir, database_url=None))
    yield opened
    await opened.aclose()


async def add(database: Database, kind: JobKind[Numbered], count: int) -> None:
    """Jobs of the kind; those of the steady kind in lanes."""
    async with database.begin(TENANT) as connection:
        for number in range(count):
            lane = number % LANES
            payload = Numbered(tenant_id=TENANT, number=number, lane=lane)
            await queue_of(database).add(
                connection, new_job(kind, payload, lane=f"user-{lane}" if kind is STEADY else None)
            )


async def notes(database: Database) -> list[Any]:
    """The beginnings and ends of runs, in order."""
    async with database.begin(TENANT) as connection:
        query = "SELECT kind, body, created_at FROM signals WHERE kind <> 'effect' ORDER BY created_at"
        return list((await connection.execute(text(query))).all())


async def test_each_job_has_its_effect_once_whatever_is_killed(
    service: RunningService, workers: Workers, database: Database
) -> None:
    """Two workers, four of them killed one after the other and the database once: every effect is there exactly once
    and in its lane's order, no job ran twice at the same time, and those that fail are dead after their last try."""
    await create_user(database, TENANT)
    await add(database, STEADY, JOBS)
    await add(database, DOOMED, DOOMED_JOBS)
    workers.start()
    workers.start()

    async def are_done(least: int) -> bool:
        with contextlib.suppress(StoreUnavailable):
            return len(await effects(database, TENANT)) >= least
        return False

    for kill in range(KILLS):
        least = (kill + 1) * JOBS // (KILLS + 3)
        await until(lambda least=least: are_done(least))
        workers.kill()
        workers.start()
    await until(lambda: are_done((KILLS + 1) * JOBS // (KILLS + 3)))
    postmaster = service.data_dir / "postgres" / "data" / "postmaster.pid"
    os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)

    queue = queue_of(database)

    async def is_quiet() -> bool:
        with contextlib.suppress(StoreUnavailable):
            counts = await queue.counts()
            return not any(state != "dead" for kind, state in counts if kind.startswith("test-"))
        return False

    await until(is_quiet)
    assert workers.stop() == [0, 0]

    by_lane: dict[int, list[int]] = defaultdict(list)
    for effect in await effects(database, TENANT):
        by_lane[effect["lane"]].append(effect["number"])
    assert dict(by_lane) == {lane: list(range(lane, JOBS, LANES)) for lane in range(LANES)}
    runs = runs_of(await notes(database), workers.killed_at)
    for first, second in ((a, b) for of_job in runs.values() for a, b in pairwise(of_job)):
        assert first[1] is None or first[1] <= second[0]
    assert sum(len(of_job) for of_job in runs.values()) > JOBS, "no run was broken off"
    assert {job.state for job in await queue.find(kind=DOOMED.name)} == {"dead"}


def runs_of(found: list[Any], killed_at: dict[int, float]) -> dict[int, list[tuple[float, float | None]]]:
    """For each job its runs, from when to when, in order. A run that was broken off ended with its worker; None where
    the worker lives on, which let go of it when the database went away."""
    ends: dict[str, datetime] = {row.body["run"]: row.created_at for row in found if row.kind == "end"}
    runs: dict[int, list[tuple[float, float | None]]] = defaultdict(list)
    for row in found:
        if row.kind == "begin":
            ended = ends.get(row.body["run"])
            end = ended.timestamp() if ended else killed_at.get(row.body["pid"])
            runs[row.body["number"]].append((row.created_at.timestamp(), end))
    return runs


async def test_dead_jobs_are_listed_and_put_back(service: RunningService, workers: Workers, database: Database) -> None:
    """By the command line, without a word of what was said; then they succeed."""
    dead = json.loads(service.run_command("jobs", "dead", "--kind", DOOMED.name, "--json").stdout)
    assert [job["payload"]["number"] for job in dead] == list(range(DOOMED_JOBS))
    assert {job["attempts"] for job in dead} == {DOOMED.attempts}
    assert all(job["error"].startswith("LookupError at job_worker.py:") for job in dead)
    assert service.run_command("jobs", "retry", check=False).returncode == 1
    back = json.loads(service.run_command("jobs", "retry", *(str(job["job_id"]) for job in dead), "--json").stdout)
    assert back == {"put_back": [job["job_id"] for job in dead]}
    before = len(await effects(database, TENANT))
    workers.start(**{MENDED: "1"})

    async def are_done() -> bool:
        return len(await effects(database, TENANT)) == before + DOOMED_JOBS

    await until(are_done)
    assert workers.stop() == [0]
    assert json.loads(service.run_command("jobs", "list", "--kind", DOOMED.name, "--json").stdout) == []
    assert "Ada" not in (service.folder / "worker-logs" / "embed-service.log").read_text()


def test_the_service_and_the_command_work(service: RunningService) -> None:
    """The service has a worker inside; `embed-service worker` runs beside it and ends when it is asked to."""
    assert service.log_events("worker_started")[0]["kinds"] == ["expiry"]
    log_dir = service.folder / "own-logs"
    env = os.environ | {"DATA_DIR": str(service.data_dir), "LOG_DIR": str(log_dir)}
    process = subprocess.Popen([COMMAND, "worker", "--concurrency", "3"], cwd=service.folder, env=env)
    log = log_dir / "embed-service.log"
    for _ in range(600):
        if log.exists() and "worker_started" in log.read_text():
            break
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert [event for event in events if event.startswith("worker_")] == ["worker_started", "worker_stopped"]
