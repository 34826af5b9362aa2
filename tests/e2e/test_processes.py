"""Four service processes and two workers on one outside database, behind no balancer at all: requests go round."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.domain.memory import merged_confidence
from app.settings import Settings
from app.store.engine import Database, open_database
from tests.e2e.job_worker import STEADY
from tests.e2e.running import Key, RunningService
from tests.e2e.workers import Workers, runs_of
from tests.jobs import add_numbered, create_user, effects, notes, queue_of, until
from tests.servers import TcpServer, open_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PROCESSES = 4
IN_FLIGHT = 16
TENANT = "many-doors"
JOBS = 200
LANES = 8

Call = Callable[[httpx.Client], Any]


class Doors:
    """Clients of all processes, one after the other."""

    def __init__(self, services: list[RunningService], key: Key) -> None:
        self._clients = [service.client(key) for service in services]
        self._next = itertools.cycle(self._clients)

    def run(self, calls: list[Call]) -> list[Any]:
        """The answers to many calls at once, each through the next door, in order."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(lambda pair: pair[0](pair[1]), [(call, next(self._next)) for call in calls]))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """One answer, through the next door."""
        return ok(next(self._next).post(path, json=body))

    def get(self, path: str, **params: Any) -> Any:
        """As `post`."""
        return ok(next(self._next).get(path, params=params))

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            client.close()


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


@pytest.fixture(scope="module")
async def services(tcp_server: TcpServer) -> AsyncIterator[list[RunningService]]:
    """Processes with nothing in common but the database, of which one after the other finds it empty or made."""
    await tcp_server.execute("postgres", "CREATE DATABASE many_doors")
    with open_folder() as folder:
        env = {"DATABASE_URL": tcp_server.url("postgres", "many_doors"), "WORKER_INSIDE": "false"}
        started = [RunningService(folder / f"process-{number}", env) for number in range(PROCESSES)]
        with ThreadPoolExecutor(PROCESSES) as pool:
            list(pool.map(lambda service: service.start(), started))
        yield started
        for service in started:
            service.stop()


@pytest.fixture(scope="module")
def key(services: list[RunningService]) -> Key:
    return services[0].create_key(TENANT)


@pytest.fixture(scope="module")
def doors(services: list[RunningService], key: Key) -> Iterator[Doors]:
    opened = Doors(services, key)
    yield opened
    opened.close()


@pytest.fixture
async def database(services: list[RunningService]) -> AsyncIterator[Database]:
    url = services[0].environment["DATABASE_URL"]
    opened = await open_database(Settings(_env_file=None, database_url=url))
    yield opened
    await opened.aclose()


def add_memory(user_id: str, content: str, kind: str = "PREFERENCE", confidence: float = 0.6) -> Call:
    body = {"user_id": user_id, "memories": [{"type": kind, "content": content, "confidence": confidence}]}
    return lambda client: ok(client.post("/v1/memories", json=body))


def test_what_is_said_again_is_merged_each_time(doors: Doors) -> None:
    """Forty processes' worth of the same fact is one memory, whose confidence heard all forty."""
    times = 40
    answers = doors.run([add_memory("merger", "I like tea")] * times)
    (memory_id,) = {answer["ids"][0] for answer in answers}
    assert sum(answer["deduplicated"] for answer in answers) == times - 1
    confidence = 0.6
    for _ in range(times - 1):
        confidence = merged_confidence(confidence, 0.6)
    assert doors.get(f"/v1/memories/{memory_id}")["confidence"] == pytest.approx(confidence, abs=1e-9)


def test_of_contradictions_one_holds(doors: Doors) -> None:
    cities = ["Rome", "Oslo", "Cairo", "Tokyo", "Paris", "Quito", "Hanoi"]  # near one another in the built-in space
    doors.run([add_memory("mover", f"I live in {city}", "PROFILE") for city in cities])
    found = doors.post("/v1/memories/search", {"user_id": "mover", "query": "where do I live?", "limit": 20})
    assert len([item for item in found["results"] if item["memory"]["content"].startswith("I live in")]) == 1


def test_no_facet_is_lost(doors: Doors) -> None:
    """Corrections of different facets at once, by all processes: each is there, and each is a version."""
    doors.run([add_memory("person", "I like rain")])
    names = [f"facet_{number}" for number in range(24)]

    def correct(name: str) -> Call:
        return lambda client: ok(client.patch("/v1/persona/person", json={"facets": {name: 0.9}}))

    doors.run([correct(name) for name in names])
    persona = doors.get("/v1/persona/person")
    assert set(names) <= set(persona["facets"])
    assert persona["version"] == len(names)


def test_a_conversation_may_change_doors(doors: Doors) -> None:
    """Asked through one process, chosen through the next, judged through the third, exported through the fourth."""
    said = {"user_id": "walker", "input_text": "build an api for my shop"}
    shown = doors.post("/v1/hypothesize", said)
    chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": shown["hypotheses"][0]["id"]}
    done = doors.post("/v1/execute", said | chosen)
    judged = {"user_id": "walker", "execution_id": done["execution_id"], "success": True, "rating": 1.0}
    doors.post("/v1/feedback", judged)
    client = next(doors._next)
    exported = client.get("/v1/memory/export", params={"user_id": "walker"}).text
    assert done["execution_id"] in exported


def test_a_key_that_is_revoked_opens_no_door(services: list[RunningService]) -> None:
    made = services[1].create_key(TENANT)
    closed = Doors(services, made)
    closed.run([add_memory("guest", "I like keys")] * PROCESSES)
    services[2].revoke_key(made)
    for client in closed._clients:
        assert client.get("/v1/persona/guest").status_code == 401
    closed.close()


async def test_two_workers_do_each_job_once_while_four_processes_serve(
    services: list[RunningService], doors: Doors, database: Database
) -> None:
    """One worker is killed in the middle of a job: every effect is there once, in its lane's order."""
    workers = Workers(services[0])
    await create_user(database, TENANT)
    await add_numbered(database, TENANT, STEADY, JOBS, LANES)
    workers.start()
    workers.start()

    async def are_done(least: int) -> bool:
        return len(await effects(database, TENANT)) >= least

    with ThreadPoolExecutor(1) as beside:
        load = beside.submit(doors.run, [add_memory(f"busy-{n % 7}", f"I like number {n}") for n in range(200)])
        await until(lambda: are_done(JOBS // 4))
        workers.kill()
        workers.start()
        await until(lambda: are_done(JOBS))
        assert len(load.result()) == 200
    assert workers.stop() == [0, 0]
    by_lane: dict[int, list[int]] = {}
    for effect in await effects(database, TENANT):
        by_lane.setdefault(effect["lane"], []).append(effect["number"])
    assert by_lane == {lane: list(range(lane, JOBS, LANES)) for lane in range(LANES)}
    runs = runs_of(await notes(database, TENANT), workers.killed_at)
    for first, second in ((a, b) for of_job in runs.values() for a, b in itertools.pairwise(of_job)):
        assert first[1] is None or first[1] <= second[0]
    assert await queue_of(database).find(kind=STEADY.name) == []


def test_a_process_that_dies_takes_nothing_along(services: list[RunningService], doors: Doors, key: Key) -> None:
    """Its acknowledged writes are there, and the others go on."""
    victim = services[-1]
    with victim.client(key) as client:
        ids = [add_memory("survivor", f"I own boat number {n}", "PROFILE")(client)["ids"][0] for n in range(5)]
    victim.kill()
    others = Doors(services[:-1], key)
    others.run([add_memory("survivor", f"I sold boat number {n}", "HISTORY") for n in range(12)])
    for memory_id in ids:
        assert others.get(f"/v1/memories/{memory_id}")["id"] == memory_id
    others.close()
    victim.start()
