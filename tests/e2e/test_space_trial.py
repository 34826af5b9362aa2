"""A trial of a real second embedding server beside the running service, by the commands; and pairs out of its log."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.running import RunningService, open_service
from tests.embedding_server import MODEL, embedding_server

pytestmark = pytest.mark.slow

USERS = [f"user-{number}" for number in range(16)]
SECOND = f"{MODEL}@http:384:mean:l2"
BUILT_IN = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with open_service({"ENABLE_TRAINING_DATA_COLLECTION": "true"}) as opened:
        yield opened


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


def ask(service: RunningService, *arguments: str) -> Any:
    """The one JSON document a command prints."""
    return json.loads(service.run_command(*arguments, "--json").stdout)


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def spaces(http: httpx.Client) -> dict[str, str]:
    """The space that answers each user."""
    return {user: post(http, "/v1/memories/search", {"user_id": user, "query": "tool"})["space"] for user in USERS}


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(150):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to be")


def test_a_trial_from_beginning_to_end(service: RunningService, http: httpx.Client) -> None:
    """Begun by the command, noticed by the running service; the same users stay in it; its server is killed and
    nothing fails; the report is written; stopped, everybody is back."""
    for user in USERS:
        post(
            http, "/v1/memories", {"user_id": user, "type": "PROFILE", "content": f"I deploy with Docker, says {user}"}
        )
    with embedding_server() as endpoint:
        made = ask(service, "space", "trial", "start", "--endpoint", endpoint, "--share", "0.5")
        assert (made["status"], made["space"], made["filled"], made["memories"]) == ("running", SECOND, 16, 16)
        until(lambda: SECOND in spaces(http).values())
        first = spaces(http)
        assert {space.split("@")[0] for space in first.values()} == {MODEL, BUILT_IN}
        inside = next(user for user, space in first.items() if space == SECOND)
        for user in USERS:
            post(http, "/v1/memories", {"user_id": user, "type": "PROFILE", "content": f"My shop is in {user} street"})
            shown = post(http, "/v1/hypothesize", {"user_id": user, "input_text": "how do I deploy my shop?"})
            chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"}
            post(http, "/v1/execute", {"user_id": user, "input_text": "how do I deploy my shop?", **chosen})
        until(lambda: spaces(http) == first)
        assert ask(service, "space", "trial", "status")["trial_id"] == made["trial_id"]
    found = post(http, "/v1/memories/search", {"user_id": inside, "query": "where is my shop?"})
    assert (found["space"].split("@")[0], found["degraded"]) == (BUILT_IN, False)
    assert "shop" in found["results"][0]["memory"]["content"]
    post(http, "/v1/memories", {"user_id": inside, "type": "PROFILE", "content": "My car is red"})
    assert service.log_events("trial_space_unavailable")

    report = ask(service, "space", "trial", "report")
    assert (
        report["figures"]["selection"]["serving"]["users"] + report["figures"]["selection"]["candidate"]["users"] == 16
    )
    assert report["advice"]["verdict"] == "keep_running"
    assert Path(report["page"]).read_text().startswith("# Keep running\n")
    assert Path(report["page"]).with_name("outcomes.png").stat().st_size > 1000
    assert ask(service, "space", "trial", "stop")["status"] == "ended"
    until(lambda: not any(space == SECOND for space in spaces(http).values()))
    for command in ("status", "report"):
        assert service.run_command("space", "trial", command).stdout
    again = service.run_command("space", "trial", "stop", check=False)
    assert (again.returncode, again.stderr) == (1, "error: no trial is filling or running\n")
    dead = service.run_command("space", "trial", "start", "--endpoint", endpoint, check=False)
    assert dead.returncode == 1
    assert "cannot be reached" in dead.stderr
    assert service.log_events("request_failed") == []


def test_pairs_are_exported_and_an_erasure_reaches_them(service: RunningService, http: httpx.Client) -> None:
    post(http, "/v1/memories", {"user_id": "ann", "type": "PROFILE", "content": "I deploy with Ansible"})
    post(http, "/v1/execute", {"user_id": "ann", "input_text": "how do I deploy my app?"})
    made = ask(service, "pairs", "export", "--negatives", "2")
    rows = [json.loads(line) for line in Path(service.folder / made["file"]).read_text().splitlines()]

    assert made["rows"] == len(rows) > 0
    assert "I deploy with Ansible" in {row["text_b"] for row in rows}
    assert http.delete("/v1/users/ann").json()["erased"]["pairs/pairs.jsonl"] == 1
    assert "Ansible" not in Path(service.folder / made["file"]).read_text()
    tsv = service.run_command("pairs", "export", "--format", "tsv", "--output", str(service.folder / "pairs.tsv"))
    assert "out of an erasure's reach" in tsv.stderr
    nobody = service.run_command("pairs", "export", "--tenant", "nobody", check=False)
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)
    assert "ENABLE_TRAINING_DATA_COLLECTION=true" in nobody.stderr
