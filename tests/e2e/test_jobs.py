"""Workers on one database that are killed with `kill -9` in the middle of jobs, and once the database itself."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store.engine import Database, open_database
from tests.e2e.job_worker import DOOMED, MENDED, STEADY
from tests.e2e.running import COMMAND, RunningService, open_service
from tests.e2e.workers import Workers, runs_of
from tests.jobs import add_numbered, create_user, effects, notes, queue_of, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TENANT = "busy"
JOBS = 400
LANES = 8
KILLS = 4
DOOMED_JOBS = 5


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


async def test_each_job_has_its_effect_once_whatever_is_killed(
    service: RunningService, workers: Workers, database: Database
) -> None:
    """Two workers, four of them killed one after the other and the database once: every effect is there exactly once
    and in its lane's order, no job ran twice at the same time, and those that fail are dead after their last try."""
    await create_user(database, TENANT)
    await add_numbered(database, TENANT, STEADY, JOBS, LANES)
    await add_numbered(database, TENANT, DOOMED, DOOMED_JOBS)
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
    runs = runs_of(await notes(database, TENANT), workers.killed_at)
    for first, second in ((a, b) for of_job in runs.values() for a, b in pairwise(of_job)):
        assert first[1] is None or first[1] <= second[0]
    assert sum(len(of_job) for of_job in runs.values()) > JOBS, "no run was broken off"
    assert {job.state for job in await queue.find(kind=DOOMED.name)} == {"dead"}


async def test_dead_jobs_are_listed_and_put_back(service: RunningService, workers: Workers, database: Database) -> None:
    """By the command line, without a word of what was said; then they succeed."""
    dead = json.loads(service.run_command("jobs", "dead", "--kind", DOOMED.name, "--json").stdout)
    assert [job["payload"]["number"] for job in dead] == list(range(DOOMED_JOBS))
    assert {job["attempts"] for job in dead} == {DOOMED.attempts}
    # One whose worker was killed at its last try says so.
    errors = {job["error"].partition(" at job_worker.py:")[0] for job in dead}
    assert "LookupError" in errors
    assert errors <= {"LookupError", "WorkerLost"}
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
    kinds = ["consolidation", "expiry", "facet_priors", "graph", "ingest", "space_backlog", "space_fill"]
    assert service.log_events("worker_started")[0]["kinds"] == kinds
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
