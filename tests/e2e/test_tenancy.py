"""Tenants and keys: nothing of one tenant can be reached with a key of another, and nothing at all without one."""

import hashlib
import json
import re
import struct
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from app.domain.deployments import Route
from app.domain.facet_evidence import FacetPrior
from app.domain.trials import Trial
from app.services.keys import hash_key
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.facets import FacetStore
from app.store.space_tables import MADE_HERE, PARTITIONS
from app.store.tables import USER_TABLES, metadata, space_backlog, tenant_spaces
from app.store.training import Deployment, DeploymentStore, RunStore
from app.store.trials import TrialStore
from tests.e2e.running import Key, RunningService, open_service
from tests.upstream_server import answer, upstream_server

pytestmark = pytest.mark.slow

MARKER = "bumblebee"
"""In everything tenant B's user says, and in no answer to tenant A."""

RUN_OF_B = "sft-20260131t120000-0123456789"
SHARED = "the same person"
"""A user id that both tenants use."""

ADMIN = {
    ("GET", "/v1/training/stats"),
    ("GET", "/v1/training/datasets"),
    ("POST", "/v1/training/datasets"),
    ("POST", "/v1/training/scripts"),
    ("GET", "/v1/training/runs"),
    ("GET", "/v1/training/runs/{run_id}"),
    ("POST", "/v1/training/runs/{run_id}/promote"),
    ("POST", "/v1/training/runs/{run_id}/rollback"),
    ("GET", "/v1/training/deployments"),
    ("GET", "/v1/settings"),
    ("PUT", "/v1/settings"),
    ("GET", "/api/v1/models"),
    ("POST", "/api/v1/models/provision"),
}
PROBES = {"/healthz", "/v1/healthz", "/readyz", "/info", "/metrics"}
NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True)
class Held:
    """What a tenant's user has: the ids of everything."""

    user_id: str
    memory_id: str
    set_id: str
    execution_id: str
    job_id: str
    recall_id: str
    statement_id: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that belong to the tenant alone."""
        ids = (self.memory_id, self.set_id, self.execution_id, self.job_id)
        return (*ids, self.recall_id, self.statement_id)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """A service that collects training data, too, and whose chat model answers with what it was sent. Without a worker:
    it would fill what a test notes as lacking."""
    with upstream_server() as upstream:
        upstream.script = lambda received: answer(json.dumps({"said": received.body.decode()}).encode())
        settings = {"ENABLE_TRAINING_DATA_COLLECTION": "true", "WORKER_INSIDE": "false"}
        with open_service(settings | {"UPSTREAM_BASE_URL": upstream.base_url}) as opened:
            yield opened


@pytest.fixture(scope="module")
def key_a(service: RunningService) -> Key:
    """Tenant A's key, with both scopes."""
    return service.create_key("tenant-a")


@pytest.fixture(scope="module")
def key_b(service: RunningService) -> Key:
    """Tenant B's key, with both scopes."""
    return service.create_key("tenant-b")


@pytest.fixture(scope="module")
def a(service: RunningService, key_a: Key) -> Iterator[httpx.Client]:
    """Tenant A's client."""
    with service.client(key_a) as client:
        yield client


@pytest.fixture(scope="module")
def b(service: RunningService, key_b: Key) -> Iterator[httpx.Client]:
    """Tenant B's client."""
    with service.client(key_b) as client:
        yield client


NOW_TEXT = "2026-01-31T12:00:00Z"


def fill(client: httpx.Client, user_id: str, word: str) -> Held:
    """Use every operation once for a user, with `word` in everything they say."""
    said = {"user_id": user_id, "input_text": f"build an api for {word}"}
    memories = [{"type": "GOAL", "content": f"I want a {word}"}, {"type": "PREFERENCE", "content": f"I like {word}s"}]
    added = ok(client.post("/v1/memories", json={"user_id": user_id, "memories": memories}))
    shown = ok(client.post("/v1/hypothesize", json=said))
    chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"}
    done = ok(client.post("/v1/execute", json=said | chosen | {"custom_answer": f"I always want {word}s"}))
    liked = {"user_id": user_id, "execution_id": done["execution_id"], "success": True, "rating": 1.0}
    ok(client.post("/v1/feedback", json=liked | {"comment": f"too long, says the {word}"}))
    preference = {"hypothesis_a": word, "hypothesis_b": "b", "preferred": "hypothesis_a"}
    ok(client.post("/v1/preferences", json={"user_id": user_id, **preference}))
    ok(client.patch(f"/v1/persona/{user_id}", json={"facets": {word: 0.9}}))
    ok(client.put("/v1/settings", json={"token_budget": 3000, "intents": {"vocabulary": {"object": [word]}}}))
    turns = [{"role": "user", "content": f"We saw a {word} yesterday."}]
    begun = client.post("/v1/memories/ingest", json={"user_id": user_id, "messages": turns})
    assert begun.status_code == 202, begun.text[:500]
    job_id = begun.json()["job_id"]
    found = ok(client.post("/v1/memories/search", json={"user_id": user_id, "query": word}))
    statement = {"table": "quarantine", "item_id": str(uuid.uuid4()), "user_id": user_id, "type": "GOAL"}
    statement |= {"content": f"I need to feed a {word} today", "confidence": 0.7, "source": "chat"}
    statement |= {"reason": "perishable", "valid_from": NOW_TEXT, "created_at": NOW_TEXT}
    ok(client.post("/v1/memory/import", content=json.dumps(statement).encode() + b"\n", headers=NDJSON))
    (set_apart,) = ok(client.get("/v1/memories/quarantine", params={"user_id": user_id}))["statements"]
    ids = added["ids"][0], shown["hypothesis_set_id"], done["execution_id"], job_id
    return Held(user_id, *ids, found["recall_id"], set_apart["id"])


def ok(response: httpx.Response) -> Any:
    """The document of an answer that has to be a success."""
    assert response.status_code == 200, response.text[:500]
    return response.json()


@pytest.fixture(scope="module")
def held_by_a(a: httpx.Client) -> Held:
    """What A's user has, who is called as B's."""
    return fill(a, SHARED, "armadillo")


@pytest.fixture(scope="module")
async def held_by_b(b: httpx.Client, service: RunningService, database: Database) -> tuple[Held, Held]:
    """What B has: datasets, a training run, a trial, and two users, one called as A's, one whom A does not know."""
    held = fill(b, SHARED, MARKER), fill(b, "known to b only", MARKER)
    prepare_datasets(b)
    async with database.begin("tenant-b") as connection:
        folder = service.folder / "local-models" / RUN_OF_B
        folder.mkdir(parents=True)
        row = {"tenant_id": "tenant-b", "run_id": RUN_OF_B, "method": "sft", "base_model": MARKER}
        row |= {"folder": str(folder), "status": "accepted", "created_at": datetime.now(UTC)}
        await RunStore().insert(connection, row)
        made = Deployment(1, "promote", RUN_OF_B, Route((RUN_OF_B,)), MARKER, datetime.now(UTC))
        assert await DeploymentStore().insert(connection, "tenant-b", made)
        trial = Trial("trial-of-b", MARKER, "second", 2, "first", 0.5, "ended", datetime.now(UTC))
        assert await TrialStore().insert(connection, "tenant-b", trial)
        learned = FacetPrior(("concise",), np.zeros(1), np.eye(1), 20, 1)
        await FacetStore().save_prior(connection, "tenant-b", learned, datetime.now(UTC))
        number = (await connection.execute(select(tenant_spaces.c.number))).scalar_one()
        lacking = {"tenant_id": "tenant-b", "number": number, "kind": "memory"}
        lacking |= {"user_id": held[1].user_id, "item_id": UUID(held[1].memory_id)}
        await connection.execute(insert(space_backlog), [lacking])
        own = {"tenant_id": "tenant-b", "user_id": held[1].user_id}
        word = own | {"term": MARKER, "memory_id": UUID(held[1].memory_id)}
        await connection.execute(insert(metadata.tables["memory_words"]), [word])
        await connection.execute(insert(metadata.tables["user_graphs"]), [own | {"part": 0, "number": 8}])
    return held


def prepare_datasets(client: httpx.Client) -> None:
    """Make a tenant's datasets, with nobody held out."""
    begun = client.post("/v1/training/datasets", json={"heldout_share": 0.0})
    assert begun.status_code in {200, 202}, begun.text[:500]
    made = begun.json()
    while made["status"] == "preparing":  # it takes longer than a request waits
        time.sleep(0.2)
        made = ok(client.get("/v1/training/datasets"))
    assert made["status"] == "prepared"
    assert made["summary"]["files"]["hypotheses_chat.jsonl"]["rows"] > 0


def export_of(client: httpx.Client, user_id: str) -> bytes:
    """Everything held on a user."""
    response = client.get("/v1/memory/export", params={"user_id": user_id})
    assert response.status_code == 200
    return response.content


def everything_of(client: httpx.Client, *users: Held) -> list[Any]:
    """All a tenant can see of itself: what is held on its users to the byte, its figures and its settings."""
    seen: list[Any] = [export_of(client, user.user_id) for user in users]
    paths = ("stats", "datasets", "runs", "deployments")
    seen += [ok(client.get(path)) for path in (*(f"/v1/training/{path}" for path in paths), "/v1/settings")]
    telemetry = ok(client.get("/v1/telemetry", params={"since": "2020-01-01T00:00:00Z"}))
    return [*seen, telemetry]


def attempts(them: Held, me: Held | None) -> dict[tuple[str, str], list[tuple[int, str, Any]]]:
    """For every operation: what a caller might send to get at `them`, as (expected status, path, body).

    `me` is the caller's own user of the same name, if there is one: then an operation works, on the caller's
    rows; without one there is nothing there.
    """
    user = {"user_id": them.user_id}
    text_in = {**user, "input_text": "what do I like?"}
    reads = 200 if me else 404
    memory = f"/v1/memories/{them.memory_id}"
    same = {"type": "GOAL", "content": f"I want a {MARKER}"}
    compared = {"hypothesis_a": "a", "hypothesis_b": "b", "preferred": "tie"}
    return {
        ("POST", "/v1/hypothesize"): [(200, "", text_in)],
        ("POST", "/v1/answer"): [
            (404, "", user | {"hypothesis_set_id": them.set_id, "hypothesis_id": "h1"}),
            (404, "", user | {"hypothesis_set_id": them.set_id, "answer": "what do I like?"}),
        ],
        ("POST", "/v1/execute"): [
            (404, "", text_in | {"hypothesis_set_id": them.set_id}),
            (404, "", text_in | {"hypothesis_set_id": them.set_id, "hypothesis_id": "h1"}),
            (200, "", text_in),
        ],
        ("POST", "/v1/feedback"): [
            (404, "", user | {"execution_id": them.execution_id, "success": False}),
            (404, "", user | {"hypothesis_set_id": them.set_id, "rejected_ids": ["h1"]}),
            (200, "", user | {"success": False, "comment": "too short"}),
        ],
        ("POST", "/v1/preferences"): [(200, "", user | compared)],
        ("POST", "/v1/followups"): [(200, "", user | {"conversation_context": "what do I like?"})],
        ("POST", "/v1/enrich"): [(200, "", text_in)],
        ("POST", "/v1/memories"): [(200, "", user | same), (422, "", user | same | {"id": them.memory_id})],
        ("GET", "/v1/memories"): [
            (reads, f"/v1/memories?user_id={them.user_id}", None),
            (reads, f"/v1/memories?user_id={them.user_id}&cursor={cursor_of(them.memory_id)}", None),
        ],
        ("POST", "/v1/memories/search"): [
            (200, "", user | {"query": "what do I like?", "limit": 100, "rerank": True}),
            (200, "", user | {"query": "what do I like?", "as_of": "2300-01-01T00:00:00Z"}),
        ],
        ("POST", "/v1/memories/ingest"): [
            (202, "", user | {"messages": [{"role": "user", "content": "What do I like?"}]}),
            (422, "", user | {"messages": [{"role": "user", "content": "hello"}], "job_id": them.job_id}),
        ],
        ("GET", "/v1/memories/quarantine"): [(reads, f"/v1/memories/quarantine?user_id={them.user_id}", None)],
        ("POST", "/v1/memories/quarantine/{item_id}/release"): [
            (404, f"/v1/memories/quarantine/{them.statement_id}/release", None)
        ],
        ("GET", "/v1/recalls"): [(reads, f"/v1/recalls?user_id={them.user_id}", None)],
        ("GET", "/v1/recalls/{recall_id}"): [
            (404, f"/v1/recalls/{them.recall_id}", None),
            (404, f"/v1/recalls/{them.execution_id}", None),
        ],
        ("POST", "/v1/recalls/{recall_id}/replay"): [(404, f"/v1/recalls/{them.recall_id}/replay", None)],
        ("POST", "/v1/recalls/{recall_id}/feedback"): [
            (404, f"/v1/recalls/{them.recall_id}/feedback", {"helpful_ids": [them.memory_id]})
        ],
        ("GET", "/v1/jobs/{job_id}"): [(404, f"/v1/jobs/{them.job_id}", None)],
        ("GET", "/v1/memories/{memory_id}"): [(404, memory, None)],
        ("GET", "/v1/memories/{memory_id}/history"): [(404, f"{memory}/history", None)],
        ("PATCH", "/v1/memories/{memory_id}"): [(404, memory, {"content": "mine now"}), (404, memory, {})],
        ("DELETE", "/v1/memories/{memory_id}"): [(404, memory, None)],
        ("GET", "/v1/memory/export"): [(200, f"/v1/memory/export?user_id={them.user_id}", None)],
        ("POST", "/v1/memory/import"): [
            (422, "", b'{"table": "users", "tenant_id": "tenant-b", "user_id": "the same person"}\n'),
            (422, "", b'{"table": "api_keys", "tenant_id": "tenant-b"}\n'),
        ],
        ("DELETE", "/v1/memory"): [
            (200, f"/v1/memory?user_id={them.user_id}&mtype=GOAL", None),
            (200, f"/v1/memory?user_id={them.user_id}", None),
        ],
        ("DELETE", "/v1/users/{user_id}"): [(200, f"/v1/users/{them.user_id}", None)],
        ("GET", "/v1/users/{user_id}/consent"): [(reads, f"/v1/users/{them.user_id}/consent", None)],
        ("PUT", "/v1/users/{user_id}/consent"): [(200, f"/v1/users/{them.user_id}/consent", {"training": False})],
        ("GET", "/v1/persona/{user_id}"): [(reads, f"/v1/persona/{them.user_id}", None)],
        ("GET", "/v1/persona/{user_id}/history"): [(reads, f"/v1/persona/{them.user_id}/history", None)],
        ("PATCH", "/v1/persona/{user_id}"): [(reads, f"/v1/persona/{them.user_id}", {"facets": {"concise": 0.1}})],
        ("DELETE", "/v1/persona/{user_id}/facets/{facet}"): [
            (reads, f"/v1/persona/{them.user_id}/facets/concise", None),
        ],
        ("GET", "/v1/telemetry"): [(200, "/v1/telemetry?since=2020-01-01T00:00:00Z", None)],
        ("GET", "/v1/training/stats"): [(200, "", None)],
        ("GET", "/v1/training/datasets"): [(200, "", None)],
        ("POST", "/v1/training/datasets"): [(200, "", {"dry_run": True})],
        ("POST", "/v1/training/scripts"): [
            (404, "", {"model": RUN_OF_B}),
            (404, "", {"model": f"{RUN_OF_B}/adapter"}),
            (404, "", {"method": "grpo", "reward_model": RUN_OF_B}),
            (422, "", {"model": "../../etc"}),
            (422, "", {"output": "../elsewhere"}),
            (422, "", {"output": RUN_OF_B}),
            (200, "", {"method": "dpo"}),
        ],
        ("GET", "/v1/training/runs"): [(200, "", None)],
        ("GET", "/v1/training/runs/{run_id}"): [(404, f"/v1/training/runs/{RUN_OF_B}", None)],
        ("POST", "/v1/training/runs/{run_id}/promote"): [(404, f"/v1/training/runs/{RUN_OF_B}/promote", {})],
        ("POST", "/v1/training/runs/{run_id}/rollback"): [(404, f"/v1/training/runs/{RUN_OF_B}/rollback", {})],
        ("GET", "/v1/training/deployments"): [(200, "", None)],
        ("GET", "/api/v1/models"): [(200, "", None)],
        ("POST", "/api/v1/models/provision"): [
            (404, "", {"roles": [RUN_OF_B]}),
            (422, "", {"roles": [f"../local-models/{RUN_OF_B}"]}),
            (200, "", {}),
        ],
        ("GET", "/v1/settings"): [(200, "", None)],
        ("PUT", "/v1/settings"): [(200, "", {"token_budget": 1000})],
        ("POST", "/v1/embeddings"): [(200, "", {"input": "hello"})],
        ("POST", "/api/v1/embeddings"): [(200, "", {"input": "hello"})],
        ("POST", "/embed"): [(200, "", {"inputs": ["hello"]})],
        ("POST", "/v1/chat/completions"): [
            (
                200,
                "",
                {"model": "m", "user": them.user_id, "messages": [{"role": "user", "content": "what do I like?"}]},
            )
        ],
        ("GET", "/v1/models"): [(200, "", None)],
        ("POST", "/v1/rerank"): [(200, "", {"query": "what do I like?", "documents": ["hello", {"text": "goodbye"}]})],
    }


FIRST_CONTACT = {
    ("POST", "/v1/hypothesize"),
    ("POST", "/v1/execute"),
    ("POST", "/v1/followups"),
    ("POST", "/v1/enrich"),
    ("POST", "/v1/memories"),
    ("POST", "/v1/memories/ingest"),
    ("POST", "/v1/memory/import"),
    ("PUT", "/v1/users/{user_id}/consent"),
}


def cursor_of(memory_id: str) -> str:
    """The cursor of a page that would begin with a memory, as the service makes them: any id may be put into one."""
    return urlsafe_b64encode(struct.pack(">q", 2**62) + UUID(memory_id).bytes).decode()


def operations_of(service: RunningService) -> list[tuple[str, str]]:
    """Every operation that asks for a key, from the document of the running service."""
    document = httpx.get(f"{service.base_url}/openapi.json").json()
    return [(method.upper(), path) for path, item in document["paths"].items() for method in item if path not in PROBES]


def send(client: httpx.Client, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
    """A request with a body of either kind, or none."""
    if isinstance(body, bytes):
        return client.request(method, path, content=body, headers=NDJSON | headers)
    return client.request(method, path, json=body, headers=headers)


def test_no_operation_reaches_another_tenant(
    service: RunningService, a: httpx.Client, b: httpx.Client, held_by_a: Held, held_by_b: tuple[Held, Held]
) -> None:
    """Every operation of the document, with A's key and B's ids, for a user of the same name: another's id is a
    404, no answer holds a word or an id of B, and all of B is afterwards what it was, to the byte."""
    theirs, _ = held_by_b
    tried = attempts(theirs, held_by_a)
    assert set(tried) == set(operations_of(service)), "an operation was added: say here how it is attacked"
    before = everything_of(b, *held_by_b)
    for (method, template), requests in sorted(tried.items(), key=lambda item: place_of(*item[0])):
        for status, path, body in requests:
            response = send(a, method, path or template, body)
            assert response.status_code == status, (method, template, body, response.text[:300])
            check_nothing_leaked(response, body, *held_by_b)
            if (method, template) == ("POST", "/v1/memories") and status == 200:
                assert response.json()["deduplicated"] == 0, "B's memory was taken for A's"
    assert everything_of(b, *held_by_b) == before


def test_a_user_of_another_tenant_is_unknown(a: httpx.Client, b: httpx.Client, held_by_b: tuple[Held, Held]) -> None:
    """A user whom only B knows is a 404 for A wherever a user is read, and a stranger where first contact works."""
    _, theirs = held_by_b
    before = everything_of(b, *held_by_b)
    tried = attempts(theirs, None)
    reading = {key: requests for key, requests in tried.items() if "user_id" in str(requests) or "{" in key[1]}
    for (method, template), requests in reading.items():
        if (method, template) in FIRST_CONTACT:
            continue
        for _, path, body in requests:
            response = send(a, method, path or template, body)
            assert response.status_code == 404, (method, template, response.text[:300])
            check_nothing_leaked(response, body, *held_by_b)
    for method, template in sorted(FIRST_CONTACT):
        for status, path, body in tried[method, template]:
            response = send(a, method, path or template, body)
            assert response.status_code == status, (template, body, response.text[:300])
            check_nothing_leaked(response, body, *held_by_b)
    ok(a.delete(f"/v1/users/{theirs.user_id}"))
    assert everything_of(b, *held_by_b) == before


def place_of(method: str, path: str) -> int:
    """When an attempt is made: what says B's words itself after what could read them, removals at the end."""
    if method == "DELETE":
        return 3 if path.startswith("/v1/users") else 2
    return 1 if (method, path) == ("POST", "/v1/memories") else 0


def check_nothing_leaked(response: httpx.Response, body: Any, *theirs: Held) -> None:
    """No word and no id of another tenant's is in an answer, but what the caller wrote there themselves."""
    if MARKER not in json.dumps(body, default=repr):
        assert MARKER not in response.text
    for held in theirs:
        assert not any(one in response.text for one in held.ids)


def test_an_import_stays_in_its_tenant(a: httpx.Client, b: httpx.Client, held_by_b: tuple[Held, Held]) -> None:
    """B's own export, imported with A's key, becomes A's: the same ids stand in both tenants, and whatever A does
    to its rows, B's stay as they are."""
    _, theirs = held_by_b
    before = everything_of(b, *held_by_b)
    stream = export_of(b, theirs.user_id)
    assert a.post("/v1/memory/import", content=stream, headers=NDJSON).status_code == 200
    ok(a.patch(f"/v1/memories/{theirs.memory_id}", json={"content": "A changed it"}))
    liked = {"user_id": theirs.user_id, "execution_id": theirs.execution_id, "success": False, "rating": -1}
    ok(a.post("/v1/feedback", json=liked))
    assert "A changed it" not in ok(b.get(f"/v1/memories/{theirs.memory_id}"))["content"]
    ok(a.delete(f"/v1/memories/{theirs.memory_id}"))
    ok(a.delete(f"/v1/users/{theirs.user_id}"))
    assert everything_of(b, *held_by_b) == before


def test_a_new_tenant_counts_nothing(service: RunningService, held_by_a: Held, held_by_b: tuple[Held, Held]) -> None:
    """Figures are a tenant's own: a new one starts at zero, in the database and in the training files."""
    with service.client(service.create_key("tenant-new")) as client:
        telemetry = ok(client.get("/v1/telemetry", params={"since": "2020-01-01T00:00:00Z"}))
        assert (telemetry["sets"], telemetry["answered"], telemetry["auto_advance_rate"]) == (0, 0, None)
        assert set(ok(client.get("/v1/training/stats")).values()) == {0}
        assert ok(client.get("/v1/training/datasets")) == {"status": "none", "summary": None}
        assert ok(client.get("/v1/training/runs")) == {"runs": []}
        assert ok(client.get("/v1/training/deployments"))["history"] == []
        assert ok(client.get("/v1/settings")) == {}


# --- keys


def test_nothing_is_served_without_a_key(service: RunningService, key_a: Key, held_by_b: tuple[Held, Held]) -> None:
    """Once a key exists every operation but the probes is a 401 without one, with a wrong one, and with a right
    one in a wrong place; that is said before a body is looked at."""
    theirs, _ = held_by_b
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {key_a.secret}x"},
        {"Authorization": f"Bearer {key_a.secret[:-1]}"},
        {"Authorization": f"Bearer {key_a.secret.upper()}"},
        {"Authorization": f"Bearer {hash_key(key_a.secret)}"},
        {"Authorization": f"Basic {key_a.secret}"},
        {"Authorization": key_a.secret},
        {"X-API-Key": key_a.secret},
        {"Cookie": f"key={key_a.secret}"},
    ]
    with service.client() as client:
        for (method, template), requests in attempts(theirs, None).items():
            _, path, body = requests[0]
            for headers in wrong:
                check_turned_away(send(client, method, path or template, body, **headers))
            broken = b"{" if method != "GET" else None
            check_turned_away(client.request(method, path or template, content=broken))
        check_turned_away(client.get(f"/v1/settings?key={key_a.secret}"))
        for probe in PROBES:
            answer = client.get(probe)
            assert answer.status_code == 200
            assert "tenant" not in answer.text
            assert str(service.folder) not in answer.text


def check_turned_away(response: httpx.Response) -> None:
    """401, as a problem, saying how to authenticate."""
    assert response.status_code == 401, (str(response.request.url), response.text[:300])
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_revoked_key_is_useless_at_once(service: RunningService) -> None:
    """The very next request after `keys revoke` is a 401, on the same connection."""
    key = service.create_key("tenant-short")
    with service.client(key) as client:
        assert client.get("/v1/settings").status_code == 200
        service.revoke_key(key)
        check_turned_away(client.get("/v1/settings"))
    with service.client(service.create_key("tenant-short")) as client:
        assert client.get("/v1/settings").status_code == 200


def test_scopes_open_what_they_name(service: RunningService, a: httpx.Client) -> None:
    """A user's key is a 403 at exactly the admin's operations, an admin's key at exactly the others."""
    nobody = Held("nobody", *(str(uuid.uuid4()) for _ in range(6)))
    for scope, forbidden in (("user", ADMIN), ("admin", set(operations_of(service)) - ADMIN)):
        with service.client(service.create_key(f"tenant-{scope}", (scope,))) as client:
            for (method, template), requests in attempts(nobody, None).items():
                _, path, body = requests[0]
                response = send(client, method, path or template, body)
                assert (response.status_code == 403) == ((method, template) in forbidden), (scope, method, template)
                if response.status_code == 403:
                    assert response.json()["title"] == "Not allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example:8080"},
        {"Host": "0.0.0.0"},
        {"Host": "[::ffff:203.0.113.9]:80"},
        {"Host": "169.254.169.254"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Authorization": "Bearer es_nothing"},
        {"Authorization": "Basic YTpi"},
    ],
    ids=str,
)
def test_only_this_machine_is_served_without_keys(running_service: RunningService, headers: dict[str, str]) -> None:
    """While no key exists, a request that was forwarded, or that another site's page makes, is a 401 everywhere."""
    nobody = Held("nobody", *(str(uuid.uuid4()) for _ in range(6)))
    with running_service.client() as client:
        for (method, template), requests in attempts(nobody, None).items():
            _, path, body = requests[0]
            check_turned_away(send(client, method, path or template, body, **headers))
        assert client.get("/v1/persona/nobody").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [{}, {"Host": "localhost"}, {"Host": "LOCALHOST:1"}, {"Host": "[::1]:80"}, {"Origin": "http://localhost:3000"}],
    ids=str,
)
def test_this_machine_is_served_without_keys(running_service: RunningService, headers: dict[str, str]) -> None:
    """While no key exists, a program or a page of this machine needs none."""
    with running_service.client() as client:
        assert client.get("/v1/settings", headers=headers).status_code == 200


# --- the database beneath


@pytest.fixture(scope="module")
async def database(service: RunningService) -> AsyncIterator[Database]:
    """The service's own database, as the service itself connects to it."""
    settings = Settings(_env_file=None, data_dir=service.data_dir, database_url=None)
    opened = await open_database(settings, revision=None)
    yield opened
    await opened.aclose()


async def test_every_table_is_under_row_level_security(database: Database) -> None:
    """The service's role has no power, is the one that logged in, and is bound by policies; every table has one
    that binds its owner, too."""
    async with database.engine.connect() as connection:
        role = (
            await connection.execute(
                text(
                    "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, session_user <> current_user "
                    "FROM pg_roles WHERE rolname = current_user"
                )
            )
        ).one()
        assert tuple(role) == (False, False, False, False, False)
        tables = (
            await connection.execute(
                text(
                    "SELECT relname, relrowsecurity, relforcerowsecurity, "
                    "       (SELECT count(*) FROM pg_policies WHERE tablename = relname) AS policies "
                    "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm', 'v', 'f')"
                )
            )
        ).all()
    # alembic's one row is the number of a revision.
    open_tables = [
        row.relname for row in tables if not (row.relrowsecurity and row.relforcerowsecurity and row.policies)
    ]
    assert open_tables == ["alembic_version"]
    described = {row.relname for row in tables if not MADE_HERE.fullmatch(row.relname)}
    assert described == {"alembic_version", *metadata.tables}


async def test_no_vector_crosses_tenants(database: Database, held_by_a: Held, held_by_b: tuple[Held, Held]) -> None:
    """Not in the tables of a space, nor in one of their partitions or of those of memories."""
    async with database.engine.connect() as connection:
        names = await connection.execute(text("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"))
        made = [name for name in names.scalars() if MADE_HERE.fullmatch(name)]
    assert len(made) > 3 * PARTITIONS
    seen_by_b = 0
    for name in made:
        count = text(f"SELECT count(*) FROM {name} WHERE tenant_id = 'tenant-b'")
        async with database.begin("tenant-b") as connection:
            seen_by_b += (await connection.execute(count)).scalar_one()
        async with database.begin("tenant-a") as connection:
            assert (await connection.execute(count)).scalar_one() == 0, name
            assert (await connection.execute(text(f"DELETE FROM {name} WHERE tenant_id = 'tenant-b'"))).rowcount == 0
        async with database.engine.connect() as connection:
            assert (await connection.execute(text(f"SELECT count(*) FROM {name}"))).scalar_one() == 0, name
    assert seen_by_b > 0


@pytest.mark.parametrize("name", [table.name for table in metadata.tables.values() if "tenant_id" in table.c])
async def test_no_statement_crosses_tenants(
    database: Database, held_by_a: Held, held_by_b: tuple[Held, Held], name: str
) -> None:
    """In A's transaction B's rows cannot be read, changed, deleted or made; in nobody's, none can."""
    foreign = f"FROM {name} WHERE tenant_id = 'tenant-b'"
    async with database.begin("tenant-b") as connection:
        held = (await connection.execute(text(f"SELECT count(*) {foreign}"))).scalar_one()
    assert held > 0 or name == "calibrations"
    async with database.begin("tenant-a") as connection:
        assert (await connection.execute(text(f"SELECT count(*) {foreign}"))).scalar_one() == 0
        tenants = (await connection.execute(text(f"SELECT DISTINCT tenant_id FROM {name}"))).scalars().all()
        assert set(tenants) <= {"tenant-a"}
        changed = text(f"UPDATE {name} SET tenant_id = 'tenant-a' WHERE tenant_id = 'tenant-b'")
        assert (await connection.execute(changed)).rowcount == 0
        assert (await connection.execute(text(f"DELETE {foreign}"))).rowcount == 0
    async with database.engine.connect() as connection:
        assert (await connection.execute(text(f"SELECT count(*) FROM {name}"))).scalar_one() == 0
    async with database.begin_authentication() as connection:
        seen = (await connection.execute(text(f"SELECT count(*) FROM {name}"))).scalar_one()
        assert (seen > 0) == (name == "api_keys")
    columns = required_columns(name)
    insertion = text(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join(columns.values())})")
    async with database.engine.connect() as connection:
        await connection.execute(text("SELECT set_config('app.tenant_id', 'tenant-a', true)"))
        with pytest.raises(DBAPIError, match="row-level security"):
            await connection.execute(insertion)
    async with database.begin("tenant-b") as connection:
        assert (await connection.execute(text(f"SELECT count(*) {foreign}"))).scalar_one() == held


def required_columns(name: str) -> dict[str, str]:
    """Column -> SQL value of a new row of tenant B."""
    values = {"UUID": "gen_random_uuid()", "TEXT": "'x'", "TEXT[]": "'{}'", "JSONB": "'[]'", "VECTOR": "'[1]'"}
    values |= {
        "SMALLINT": "99",
        "BIGINT": "99",
        "TIMESTAMP WITH TIME ZONE": "now()",
        "TIMESTAMP WITH TIME ZONE[]": "'{}'",
        "FLOAT": "0.5",
        "FLOAT[]": "'{}'",
        "INTEGER": "99",
        "BOOLEAN": "false",
    }
    needed = [column for column in metadata.tables[name].columns if not column.nullable and column.computed is None]
    typed = {column.name: values[dialect_name(column.type)] for column in needed}
    return typed | {"tenant_id": "'tenant-b'"} | ({"user_id": f"'{SHARED}'"} if "user_id" in typed else {})


def dialect_name(kind: Any) -> str:
    """The name of a column's type in PostgreSQL."""
    from sqlalchemy.dialects import postgresql

    return str(kind.compile(dialect=postgresql.dialect()))  # pyright: ignore[reportUnknownMemberType]


async def test_keys_are_kept_only_as_hashes(service: RunningService, database: Database, key_a: Key) -> None:
    """The table has a key's SHA-256; the key itself is in no file of the service: database, log, or training data."""
    async with database.begin_authentication() as connection:
        rows = (await connection.execute(text("SELECT * FROM api_keys"))).mappings().all()
    (row,) = [row for row in rows if row["key_id"] == key_a.key_id]
    assert row["key_hash"] == hashlib.sha256(key_a.secret.encode()).hexdigest()
    assert key_a.secret not in str([dict(row) for row in rows])
    for path in service.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert key_a.secret.encode() not in path.read_bytes(), path


def test_no_key_and_no_word_is_in_the_logs(
    service: RunningService, running_service: RunningService, held_by_b: tuple[Held, Held]
) -> None:
    """After everything above: no key, no hash, no word of a user in what was logged or printed; and no 5xx."""
    for one in (service, running_service):
        logs = one.log_text() + (one.data_dir / "postgres" / "server.log").read_text()
        assert not re.search(r"es_[A-Za-z0-9_-]{20,}", logs)
        assert not re.search(r"\b[0-9a-f]{64}\b", logs)
        assert "build an api for" not in logs
        assert one.log_events("request_failed") == []
        assert all(event["status"] < 500 for event in one.log_events("request_answered"))


def test_user_tables_are_those_an_export_holds(b: httpx.Client, held_by_b: tuple[Held, Held]) -> None:
    """What was compared above is all there is: B's export has rows of every table with users in it."""
    theirs, _ = held_by_b
    tables = {json.loads(line)["table"] for line in export_of(b, theirs.user_id).splitlines()}
    assert tables == {table.name for table in USER_TABLES}
