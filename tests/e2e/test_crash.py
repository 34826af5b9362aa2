"""The service is killed with `kill -9` while clients write: nothing it acknowledged is lost, nothing is torn."""

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import httpx
import orjson
import psutil
import pytest

from app.domain.training import FILES
from tests.e2e.running import RunningService
from tests.servers import open_folder

pytestmark = pytest.mark.slow

WRITES = 1000
KILLS = 3
WRITERS = 4
USER = "streamer"


@dataclass
class Client:
    """Threads that write to the service and note what it acknowledged, until it stops answering."""

    service: RunningService
    memories: dict[str, str] = field(default_factory=dict[str, str])
    executions: set[str] = field(default_factory=set[str])
    judged: set[str] = field(default_factory=set[str])
    compared: set[str] = field(default_factory=set[str])
    _numbers: Iterator[int] = field(default_factory=count)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        """Begin to write (again)."""
        works = [self._remember] * WRITERS + [self._choose]
        self._threads = [threading.Thread(target=self._until_it_dies, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every thread has noticed that the service is gone, or has nothing left to write."""
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive()

    def _until_it_dies(self, work: Callable[[httpx.Client], None]) -> None:
        with self.service.client(timeout_s=30) as http:
            try:
                while len(self.memories) < WRITES:
                    work(http)
            except httpx.TransportError:
                return

    def _remember(self, http: httpx.Client) -> None:
        content = f"Parcel number {next(self._numbers)} was put on the shelf"
        made = _post(http, "/v1/memories", user_id=USER, type="HISTORY", content=content)
        self.memories[content] = made["ids"][0]

    def _choose(self, http: httpx.Client) -> None:
        number = next(self._numbers)
        said = {"user_id": USER, "input_text": f"deploy parcel {number}"}
        shown = _post(http, "/v1/hypothesize", **said)
        # Own words make it the user's choice, and so a sample, also where the service advances by itself.
        chosen = {
            "hypothesis_set_id": shown["hypothesis_set_id"],
            "hypothesis_id": "h1",
            "custom_answer": f"to door {number}",
        }
        execution = _post(http, "/v1/execute", **said, **chosen)["execution_id"]
        self.executions.add(execution)
        _post(http, "/v1/feedback", user_id=USER, execution_id=execution, rating=0.5, comment=f"too long {number}")
        self.judged.add(execution)
        words = {"hypothesis_a": f"a{number}", "hypothesis_b": "b", "preferred": "tie"}
        _post(http, "/v1/preferences", user_id=USER, **words)
        self.compared.add(f"a{number}")


def _post(http: httpx.Client, path: str, **body: object) -> dict:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def held(service: RunningService) -> dict[str, list[dict]]:
    """The user's rows by table, from the export."""
    rows: dict[str, list[dict]] = defaultdict(list)
    with service.client() as http:
        answer = http.get("/v1/memory/export", params={"user_id": USER})
        assert answer.status_code == 200
        for line in answer.content.splitlines():
            row = orjson.loads(line)
            rows[row["table"]].append(row)
    return rows


def samples(service: RunningService, *, is_repaired: bool) -> dict[str, list[dict]]:
    """Every line of every training file, each of which has to parse; before a file is written to again its
    last line may lack its end, and nothing else."""
    found: dict[str, list[dict]] = {file: [] for file in FILES}
    for path in (service.data_dir / "training").glob("*.jsonl"):
        *lines, last = path.read_bytes().split(b"\n")
        assert last == b"" or not is_repaired, f"{path.name} ends in a torn line"
        name = next(file for file in FILES if path.name.startswith(file.removesuffix(".jsonl")))
        found[name] += [orjson.loads(line) for line in lines]
    return found


def check(service: RunningService, client: Client) -> None:
    """Everything acknowledged is there, each row once."""
    rows = held(service)
    contents = [row["content"] for row in rows["memories"] if row["type"] == "HISTORY"]
    assert len(contents) == len(set(contents))
    missing = set(client.memories) - set(contents)
    assert not missing, f"{len(missing)} of {len(client.memories)} acknowledged memories are lost"
    ids = {row["memory_id"] for row in rows["memories"]}
    assert set(client.memories.values()) <= ids
    assert client.executions <= {row["execution_id"] for row in rows["executions"]}
    judged = {row["execution_id"] for row in rows["signals"] if row["kind"] == "feedback"}
    assert client.judged <= judged
    lines = samples(service, is_repaired=False)
    assert client.judged <= {line["execution_id"] for line in lines["user_feedback.jsonl"]}
    assert client.compared <= {line["hypothesis_a"] for line in lines["preferences.jsonl"]}
    sets = {row["set_id"] for row in rows["executions"] if row["execution_id"] in client.executions}
    assert sets <= {line["hypothesis_set_id"] for line in lines["hypotheses_data.jsonl"]}


def kill(service: RunningService, *, is_database_too: bool) -> None:
    """`kill -9` the service, and all it started too where that is asked for."""
    victims = psutil.Process(service.process.pid).children(recursive=True) if is_database_too else []
    service.kill()
    for victim in victims:
        if victim.is_running():
            victim.kill()


def test_killed_three_times_amid_a_thousand_writes() -> None:
    """Each restart finds the database by itself with every acknowledged write in it; training files have no
    torn line, and none that belonged to an acknowledged answer is missing."""
    seed = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"CRASH_SEED={seed}")
    dice = random.Random(seed)
    with open_folder() as folder:
        service = RunningService(folder, {"ENABLE_TRAINING_DATA_COLLECTION": "true", "TRAINING_FILE_MAX_MB": "0.02"})
        service.start()
        client = Client(service)
        try:
            for number in range(1, KILLS + 1):
                after = max(1, int(WRITES * (number - dice.random()) / (KILLS + 1)))
                client.start()
                while len(client.memories) < after:
                    time.sleep(0.001)
                time.sleep(dice.random() * 0.05)
                is_database_too = dice.random() < 0.5
                kill(service, is_database_too=is_database_too)
                client.join()
                started = time.monotonic()
                service.start()
                print(
                    f"kill {number} after {len(client.memories)} writes and {len(client.judged)} feedbacks"
                    f"{', the database too' if is_database_too else ''}: ready in {time.monotonic() - started:.1f} s"
                )
                check(service, client)
            client.start()
            client.join()
            assert len(client.memories) >= WRITES
            check(service, client)
            samples(service, is_repaired=True)
            assert client.judged
            assert not [event for event in service.log_events() if event.get("level") == "critical"]
        finally:
            service.stop()
