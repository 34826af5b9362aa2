"""Schemathesis against the running service: every operation, good data and bad, one by one and in chains.

FUZZ_EXAMPLES (500 an operation) and FUZZ_SEED change a run; `embed-service run` is what is tested.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import RunningService, open_service
from tests.upstream_server import upstream_server

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
SEED = int(os.environ.get("FUZZ_SEED", "20260131"))
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
seed = {seed}
hooks = "tests.e2e.fuzz_hooks"
continue-on-failure = true
request-timeout = 60.0

[generation]
max-examples = {examples}
database = "none"

[phases.coverage]
generate-duplicate-query-parameters = true

[auth.wfc]
path = "{auth}"
peers = ["one", "other"]

[[operations]]
include-name = "POST /v1/training/datasets"
generation.max-examples = 10
# Each begins a process.

[checks]
# Cannot know that erasing a user removes their memories: `found_until_removed` runs it where it holds.
ensure_resource_availability.enabled = false
# Rules that no schema can state may refuse a fitting request: `refused_for_a_rule_only` checks that it was one.
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429]
# Only a part of the service that does not answer may be a 5xx, and here all of them do.
not_a_server_error.expected-statuses = ["2xx", "4xx"]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]
"""
"""All checks are on: the built-in ones, and those of `fuzz_hooks`."""


PARTS = {
    "memories": ["--include-path-regex", "memor|users|jobs|recalls"],
    "hypotheses": ["--include-path-regex", "hypothesize|answer|execute|feedback|persona"],
    "the rest": [
        "--phases=coverage,fuzzing",
        "--exclude-path-regex",
        "memor|users|jobs|recalls|hypothesize|answer|execute|feedback|persona|chat",
    ],
}
"""The operations that chains run through, together; and all others, whichever are added, but for chats, which are the
upstream's to refuse (`test_chat_passing`). Schemathesis is bound by one core each, so two parts run at a time."""


@pytest.mark.timeout(1800)
def test_every_operation_keeps_its_word(tmp_path: Path) -> None:
    """No answer breaks the OpenAPI document, whatever is sent: statuses, media types, headers, bodies, auth,
    methods, chains of operations. Nothing ends in a 5xx, and every operation succeeded at least once."""
    with (
        upstream_server() as upstream,
        open_service({"ENABLE_TRAINING_DATA_COLLECTION": "true", "UPSTREAM_BASE_URL": upstream.base_url}) as service,
    ):
        config = write_config(service, tmp_path)
        started = time.monotonic()
        with ThreadPoolExecutor(2) as both_cores:
            done = list(both_cores.map(lambda part: fuzz(service, config, PARTS[part]), PARTS))
        print(f"seed {SEED}, {EXAMPLES} examples an operation: {time.monotonic() - started:.0f} s")
        for part, one in zip(PARTS, done, strict=True):
            print(f"\n{part}:\n{one.stdout[-8000:]}{one.stderr}")
        ask_for_a_job(service)
        release_a_statement(service)
        look_back_at_a_recall(service)
        check_every_operation_was_reached(service)
        assert [one.returncode for one in done] == [0] * len(PARTS)
        assert service.log_events("request_failed") == []


def fuzz(service: RunningService, config: Path, part: list[str]) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis."""
    return subprocess.run(
        [SCHEMATHESIS, "--config-file", config, "run", f"{service.base_url}/openapi.json", "--warnings=off", *part],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def write_config(service: RunningService, folder: Path) -> Path:
    """Two callers of different tenants, neither of whom may read what the other made."""
    keys = {name: service.create_key(f"tenant-{name}") for name in ("one", "other")}
    auth = folder / "auth.json"
    header = "Authorization"
    callers = [
        {"name": name, "fixedHeaders": [{"name": header, "value": key.headers[header]}]} for name, key in keys.items()
    ]
    auth.write_text(json.dumps({"auth": callers}))
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(seed=SEED, examples=EXAMPLES, auth=auth))
    return config


def ask_for_a_job(service: RunningService) -> None:
    """A job's id, drawn by chance, is nobody's: the one of a conversation that was handed in."""
    said = {"user_id": "ada", "messages": [{"role": "user", "content": "We met at the harbour."}]}
    with service.client(service.create_key("default")) as client:
        begun = client.post("/v1/memories/ingest", json=said)
        assert begun.status_code == 202, begun.text
        found = client.get(f"/v1/jobs/{begun.json()['job_id']}")
    assert found.status_code == 200, found.text
    assert found.json()["turns"] == 1


def release_a_statement(service: RunningService) -> None:
    """A statement's id, drawn by chance, is nobody's: the one of a statement that was set apart."""
    said = {"user_id": "ada", "messages": [{"role": "user", "content": "I need to buy milk today."}]}
    with service.client(service.create_key("default")) as client:
        job_id = client.post("/v1/memories/ingest", json=said).json()["job_id"]
        while client.get(f"/v1/jobs/{job_id}").json()["state"] != "done":
            time.sleep(0.1)
        (found,) = client.get("/v1/memories/quarantine", params={"user_id": "ada"}).json()["statements"]
        released = client.post(f"/v1/memories/quarantine/{found['id']}/release")
        assert released.status_code == 200, released.text
        assert client.get(f"/v1/memories/{released.json()['ids'][0]}").json()["content"] == found["content"]


def look_back_at_a_recall(service: RunningService) -> None:
    """A recall's id, drawn by chance, is nobody's: the one of a search that was made."""
    with service.client(service.create_key("default")) as client:
        made = client.post("/v1/memories", json={"user_id": "ada", "type": "PREFERENCE", "content": "Prefers pytest."})
        assert made.status_code == 200, made.text
        found = client.post("/v1/memories/search", json={"user_id": "ada", "query": "Which test runner?"}).json()
        recall = f"/v1/recalls/{found['recall_id']}"
        receipt = client.get(recall)
        assert receipt.status_code == 200, receipt.text
        shown = [item["id"] for item in receipt.json()["memories"]]
        assert shown == [each["memory"]["id"] for each in found["results"]]
        replay = client.post(f"{recall}/replay")
        assert (replay.status_code, replay.json()["is_same"]) == (200, True), replay.text
        judged = client.post(f"{recall}/feedback", json={"helpful_ids": shown[:1]})
        assert judged.status_code == 200, judged.text
        assert [item["is_helpful"] for item in judged.json()["memories"]][:1] == [True]


def check_every_operation_was_reached(service: RunningService) -> None:
    """A fuzzer that is turned away at the door proves nothing: the log has to show successes everywhere."""
    answered: Counter[tuple[str, str, bool]] = Counter()
    for event in service.log_events("request_answered"):
        assert event["status"] < 500, event
        answered[event["method"], event["route"], event["status"] < 300] += 1
    document = httpx.get(f"{service.base_url}/openapi.json").json()
    silent = {"/healthz", "/v1/healthz", "/readyz", "/metrics", "/v1/chat/completions"}
    operations = [(method.upper(), path) for path, item in document["paths"].items() for method in item]
    operations = [pair for pair in operations if "{run_id}" not in pair[1]]  # no training was run
    never = [pair for pair in operations if pair[1] not in silent and not answered[*pair, True]]
    assert never == [], "never succeeded"
    print(f"{answered.total()} requests, {sum(n for (_, _, is_ok), n in answered.items() if is_ok)} of them succeeded")
