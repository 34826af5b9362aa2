"""A live change of embedding space by the commands: people go on, processes are killed, nothing is lost or mixed."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import httpx
import pytest

from app.domain.embeddings import Vectors
from tests import embedding_server as server_module
from tests.e2e.running import COMMAND, RunningService, open_service
from tests.embedding_server import MODEL, embedding_server
from tests.fakes import FakeEmbedder
from tests.servers import open_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUILT_IN = "all-MiniLM-L6-v2"
USERS = [f"user-{number}" for number in range(6)]
MEMORIES = 900
KILLS = 3
EMBEDDED_BEFORE_A_KILL = 200
TEXT_S = 0.004
"""How long the new model takes for a text of a large batch: time enough to be killed."""
ASKED_AGAIN_S = 20.0


class People:
    """Threads that remember, change and search. A 503 is asked again, as its Retry-After says: only what has no good
    answer then has failed. `kept` holds what was acknowledged, by memory."""

    def __init__(self, service: RunningService, first_number: int = 0) -> None:
        self.service = service
        self.kept: dict[str, tuple[str, str]] = {}
        self.failed: list[str] = []
        self.asked_again: list[int] = []
        self.spaces: list[str] = []
        self._numbers = itertools.count(first_number)
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._until_over, args=(work,)) for work in (self._write, self._search)
        ]

    def __enter__(self) -> "People":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive()

    def _until_over(self, work: Callable[[httpx.Client], None]) -> None:
        with self.service.client(timeout_s=30) as http:
            while not self._is_over.is_set():
                try:
                    work(http)
                except (httpx.HTTPError, AssertionError, LookupError) as error:
                    self.failed.append(repr(error))
                time.sleep(0.02)

    def _write(self, http: httpx.Client) -> None:
        number = next(self._numbers)
        user = USERS[number % len(USERS)]
        said = f"Parcel number {number} of {number * 37} was put on shelf {number % 11}"
        made = self._ask(http, "POST", "/v1/memories", {"user_id": user, "type": "HISTORY", "content": said})
        (memory_id,) = made["ids"]
        if number % 3 == 0:
            said = f"Crate number {number} of {number * 91} went to door {number % 7}"
            self._ask(http, "PATCH", f"/v1/memories/{memory_id}", {"content": said})
        self.kept[memory_id] = user, said

    def _search(self, http: httpx.Client) -> None:
        number = next(self._numbers) % MEMORIES
        user, said = USERS[number % len(USERS)], first(number)
        found = self._ask(http, "POST", "/v1/memories/search", {"user_id": user, "query": said})
        self.spaces.append(found["space"])
        best = found["results"][0]
        # The same words in one and the same space are one and the same vector.
        if found["degraded"] or best["memory"]["content"] != said or best["parts"]["cosine"] < 0.999:
            self.failed.append(f"{said!r} found {best}, degraded: {found['degraded']}")

    def _ask(self, http: httpx.Client, method: str, path: str, body: dict[str, Any]) -> Any:
        until = time.monotonic() + ASKED_AGAIN_S
        while True:
            answer = http.request(method, path, json=body)
            if answer.status_code == 200:
                return answer.json()
            if answer.status_code != 503 or time.monotonic() > until:
                raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
            self.asked_again.append(answer.status_code)
            time.sleep(0.25)


def first(number: int) -> str:
    """What was remembered before anything began."""
    return f"I keep note {number} about topic {number * 13}"


def ask(service: RunningService, *arguments: str) -> Any:
    """The one JSON document a command prints."""
    return json.loads(service.run_command("space", *arguments, "--json").stdout)


@contextlib.contextmanager
def filling(service: RunningService) -> Generator[subprocess.Popen[bytes]]:
    """`embed-service space fill` as a process."""
    process = subprocess.Popen(
        [COMMAND, "space", "fill"],
        cwd=service.folder,
        env=service.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each of the larger requests to the embedding server had."""
    sizes: list[int] = []
    vectors = FakeEmbedder.vectors

    def slow(self: FakeEmbedder, texts: Sequence[str]) -> Vectors:
        if len(texts) > 8:
            time.sleep(TEXT_S * len(texts))
            sizes.append(len(texts))
        return vectors(self, texts)

    monkeypatch.setattr(FakeEmbedder, "vectors", slow)
    return sizes


def kill_database(service: RunningService) -> None:
    """`kill -9`."""
    pid = (service.data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0]
    os.kill(int(pid), signal.SIGKILL)


def found_again(service: RunningService, people: People) -> None:
    """Everything acknowledged is found by its own words, in the space that serves."""
    with service.client() as http:
        for memory_id, (user, said) in people.kept.items():
            answer = http.post("/v1/memories/search", json={"user_id": user, "query": said, "limit": 3}).json()
            best = {each["memory"]["id"]: each for each in answer["results"]}
            assert memory_id in best, f"{said!r} is lost"
            assert best[memory_id]["parts"]["cosine"] > 0.999


def test_there_and_back_with_everything_killed_on_the_way(embedded: list[int]) -> None:
    with open_service() as service, embedding_server() as endpoint:
        with service.client() as http:
            for start in range(0, MEMORIES, 100):
                for user in USERS:
                    said = [first(number) for number in range(start, start + 100) if USERS[number % len(USERS)] == user]
                    memories = [{"type": "HISTORY", "content": each} for each in said]
                    answer = http.post("/v1/memories", json={"user_id": user, "memories": memories})
                    assert answer.status_code == 200, answer.text
        with People(service) as people:
            made = ask(service, "create", "--endpoint", endpoint)
            assert made["role"] == "filling"
            assert made["lacking"] >= MEMORIES
            for kill in range(KILLS):
                embedded.clear()
                with filling(service) as process:
                    while sum(embedded) < EMBEDDED_BEFORE_A_KILL and process.poll() is None:
                        time.sleep(0.02)
                    assert process.poll() is None, "it is killed in the middle"
                if kill == 1:
                    kill_database(service)
            embedded.clear()
            with filling(service) as process:
                assert process.wait(timeout=120) == 0
            assert embedded, "something was left for it"
            seen = ask(service, "verify")
            assert (seen["missing"], seen["changed"], seen["recall"]) == (0, 0, 1.0)
            ask(service, "switch")
            time.sleep(1)
            assert people.spaces[-1].startswith(MODEL)
        print(f"{len(people.kept)} writes, {len(people.spaces)} searches, asked again: {len(people.asked_again)}")
        assert people.failed == []
        assert {space.split("@")[0] for space in people.spaces} == {BUILT_IN, MODEL}
        found_again(service, people)
        with People(service, first_number=10_000) as later:
            ask(service, "switch")
            time.sleep(0.5)
        assert later.failed == later.asked_again == []
        assert later.spaces[-1].startswith(BUILT_IN)
        people.kept |= later.kept
        found_again(service, people)
        assert ask(service, "verify")["missing"] == 0
        ask(service, "drop")
        (only,) = ask(service, "status", "--all")["default"]
        assert (only["role"], only["lacking"], only["space"].split("@")[0]) == ("serving", 0, BUILT_IN)
        again = service.run_command("space", "switch", check=False)
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "`embed-service space create` makes one" in again.stderr


@pytest.fixture
def moved() -> Generator[tuple[RunningService, str]]:
    """A service that was started with EMBED_ENDPOINT after its tenant was switched there, as the page says, and that
    endpoint."""
    with open_folder() as folder, embedding_server() as endpoint:
        before = RunningService(folder)
        before.start()
        try:
            with before.client() as http:
                remember(http, "I keep note 1")
            for step in (("create", "--endpoint", endpoint), ("fill",), ("switch",)):
                ask(before, *step)
        finally:
            before.stop()
        since = RunningService(folder, {"EMBED_ENDPOINT": endpoint})
        since.start()
        try:
            yield since, endpoint
        finally:
            since.stop()


def remember(http: httpx.Client, said: str) -> httpx.Response:
    """A write of ada's."""
    return http.post("/v1/memories", json={"user_id": "ada", "memories": [{"type": "HISTORY", "content": said}]})


def search(http: httpx.Client, query: str) -> Any:
    """What is found of ada's."""
    return http.post("/v1/memories/search", json={"user_id": "ada", "query": query, "limit": 5}).json()


def test_the_way_back_from_the_services_own_endpoint(moved: tuple[RunningService, str]) -> None:
    """The space before has no endpoint: the service and the commands load the built-in model for it."""
    service, _ = moved
    with service.client() as http:
        assert remember(http, "I keep note 2").status_code == 200
        assert search(http, "note 2")["space"].startswith(MODEL)
        ask(service, "switch")
        assert remember(http, "I keep note 3").status_code == 200
        for said in ("I keep note 1", "I keep note 2", "I keep note 3"):
            found = search(http, said)
            assert found["space"].startswith(BUILT_IN)
            assert said in [each["memory"]["content"] for each in found["results"]]
    assert ask(service, "verify")["missing"] == 0
    ask(service, "drop")
    assert [one["role"] for one in ask(service, "status")] == ["serving"]


def test_a_replaced_model_is_named_everywhere(
    moved: tuple[RunningService, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the API after a restart, by the commands, and in the log, in one line; the change to it goes on from there."""
    service, endpoint = moved
    monkeypatch.setattr(server_module._Requests, "embedder", FakeEmbedder("another"))
    service.stop()
    service.start()
    with service.client() as http:
        refused = remember(http, "I keep note 2")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:embed-service:problem:model-unavailable")
        for part in (f"{endpoint} has another model now", f"space create --endpoint {endpoint} --revision NEW"):
            assert part in refused.json()["detail"]
        found = search(http, "note 1")
        assert (found["degraded"], found["results"][0]["memory"]["content"]) == (True, "I keep note 1")
        assert service.log_events("space_refused")
        done = service.run_command("space", "create", "--endpoint", endpoint, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "has another model now" in done.stderr
        for step in (("create", "--endpoint", endpoint, "--revision", "2"), ("fill",), ("switch",)):
            ask(service, *step)
        assert remember(http, "I keep note 3").status_code == 200
        found = search(http, "I keep note 3")
        assert (found["degraded"], found["space"]) == (False, f"{MODEL}@2:384:mean:l2")
    (serving, *_) = ask(service, "status")
    assert (serving["role"], serving["revision"], serving["prefix"]) == ("serving", "2", "")


def test_a_drop_that_is_killed_is_finished_by_the_next(moved: tuple[RunningService, str]) -> None:
    """`kill -9` at whatever moment; the same command says that it is dropped, or that there is nothing left to drop."""
    service, _ = moved
    for delay_s in (1.0, 1.5, 2.0):
        process = subprocess.Popen(
            [COMMAND, "space", "drop"],
            cwd=service.folder,
            env=service.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay_s)
        process.kill()
        process.wait()
        assert {one["role"] for one in ask(service, "status")} <= {"serving", "kept", "dropped"}
    service.run_command("space", "drop", check=False)
    assert [one["role"] for one in ask(service, "status")] == ["serving"]
    again = service.run_command("space", "drop", check=False)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
