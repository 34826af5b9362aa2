"""Keys that are bound to one user: no operation reads or changes another user's data with one, whatever it names.

The requests are made of the OpenAPI document of the running service: an operation is attacked by being there.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.operations import Operation, operations_of
from tests.e2e.running import Key, RunningService, open_service
from tests.e2e.test_tenancy import NDJSON, Held, export_of, fill, ok
from tests.upstream_server import UpstreamServer, answer

pytestmark = pytest.mark.slow

TENANT = "house"
OWN, OTHER = "Zoë of room 1", "a/b of room 2"
MARKER = "bumblebee"
"""In everything the other user says."""


@pytest.fixture(scope="module")
def service(upstream: UpstreamServer) -> Iterator[RunningService]:
    """A service of its own, in front of a chat model's server."""
    with open_service({"WORKER_INSIDE": "false", "UPSTREAM_BASE_URL": upstream.base_url}) as opened:
        yield opened


@pytest.fixture(scope="module")
def house(service: RunningService) -> Iterator[httpx.Client]:
    """A client with the tenant's own key, which opens all its users."""
    with service.client(service.create_bound_key(TENANT, None)) as client:
        yield client


@pytest.fixture(scope="module")
def bound(service: RunningService) -> Iterator[httpx.Client]:
    """A client with a key that is bound to OWN, as most are made."""
    with service.client(service.create_bound_key(TENANT, OWN, ("user",))) as client:
        yield client


@pytest.fixture(scope="module")
def bound_admin(service: RunningService) -> Iterator[httpx.Client]:
    """A client with a key that is bound to OWN and has both scopes."""
    with service.client(service.create_bound_key(TENANT, OWN)) as client:
        yield client


@pytest.fixture(scope="module")
def own(house: httpx.Client) -> Held:
    """What the key's own user has."""
    return fill(house, OWN, "armadillo")


@pytest.fixture(scope="module")
def other(house: httpx.Client) -> Held:
    """What the other user has."""
    return fill(house, OTHER.replace("/", "-"), MARKER)


@pytest.fixture(scope="module")
def operations(service: RunningService) -> list[Operation]:
    """Every operation."""
    return operations_of(service)


def send(client: httpx.Client, operation: Operation, given: dict[str, Any], **headers: str) -> httpx.Response:
    """A request for an operation with these values wherever they fit."""
    method, path, body = operation.request(given)
    if operation.takes_lines:
        lines = json.dumps({"table": "users", "user_id": given.get("user_id", OWN)}).encode()
        return client.request(method, path, content=lines, headers=NDJSON | headers)
    return client.request(method, path, json=body, headers=headers)


def theirs_in(held: Held) -> dict[str, Any]:
    """A user's ids under every name that a request has for one of that kind."""
    memory = {"memory_id": held.memory_id, "memory_ids": [held.memory_id], "id": held.memory_id}
    asked = {"hypothesis_set_id": held.set_id, "set_id": held.set_id, "hypothesis_id": "h1", "rejected_ids": ["h1"]}
    return memory | asked | {"execution_id": held.execution_id, "job_id": held.job_id}


def check_is_a_refusal(response: httpx.Response, operation: Operation) -> None:
    """403, as a problem that says what the key is bound to."""
    assert response.status_code == 403, (operation.name, response.text[:300])
    assert response.json()["title"] == "Not allowed"
    assert "bound to" in response.json()["detail"], operation.name


def check_nothing_leaked(response: httpx.Response, other: Held, operation: Operation) -> None:
    """No word and no id of the other user is in an answer."""
    assert MARKER not in response.text, operation.name
    assert not any(one in response.text for one in other.ids), operation.name
    assert response.status_code < 500, (operation.name, response.text[:300])


def test_another_user_cannot_be_named(
    house: httpx.Client,
    bound: httpx.Client,
    bound_admin: httpx.Client,
    own: Held,
    other: Held,
    operations: list[Operation],
) -> None:
    """Wherever an operation names a user, in path, query, body or stream, another one is a 403 that says why; the
    header X-User-ID is refused at every operation. The other user's data is afterwards what it was, to the byte."""
    before = export_of(house, other.user_id)
    naming = [each for each in operations if each.names("user_id") or each.takes_lines]
    assert len(naming) >= 15
    for client in (bound, bound_admin):
        for operation in naming:
            check_is_a_refusal(send(client, operation, {"user_id": other.user_id}), operation)
        for operation in operations:
            check_is_a_refusal(send(client, operation, {"user_id": OWN}, **{"X-User-ID": other.user_id}), operation)
    assert export_of(house, other.user_id) == before


def test_another_user_s_ids_lead_nowhere(
    house: httpx.Client, bound: httpx.Client, own: Held, other: Held, operations: list[Operation]
) -> None:
    """The other user's memories, hypothesis sets and executions, in every place an operation has for such an id, with
    the key's own user named or left out: nothing of them is answered, nothing of them changes, and a memory's path is
    a 404."""
    before = export_of(house, other.user_id)
    destructive = [each for each in operations if each.path in {"/v1/users/{user_id}", "/v1/memory"}]
    for operation in [each for each in operations if each not in destructive]:
        for named in ({"user_id": OWN}, {"user_id": OWN if "{user_id}" in operation.path else None}):
            response = send(bound, operation, theirs_in(other) | named)
            check_nothing_leaked(response, other, operation)
            if "{memory_id}" in operation.path or "{job_id}" in operation.path:
                assert response.status_code == 404, operation.name
    assert export_of(house, other.user_id) == before


def test_what_is_the_tenant_s_needs_the_admin_s_scope(
    bound: httpx.Client, bound_admin: httpx.Client, operations: list[Operation]
) -> None:
    """Settings, training, models and telemetry are a 403 for a bound key; telemetry too, which any other key may read.
    The scope `admin` opens them."""
    of_tenant = [
        each for each in operations if each.path.startswith(("/v1/settings", "/v1/training", "/api/v1/models"))
    ]
    of_tenant += [each for each in operations if each.path == "/v1/telemetry"]
    assert len(of_tenant) >= 14
    for operation in of_tenant:
        check_is_a_refusal(send(bound, operation, {}), operation)
    for operation in [each for each in of_tenant if each.method == "GET"]:
        assert send(bound_admin, operation, {}).status_code != 403, operation.name


def test_the_user_may_be_left_out(bound: httpx.Client, own: Held) -> None:
    """A bound key needs no `user_id`, in a body or a query: it is the key's. Named, it is the same."""
    added = ok(bound.post("/v1/memories", json={"type": "PROFILE", "content": "I live in Lyon"}))
    assert ok(bound.get(f"/v1/memories/{added['ids'][0]}"))["user_id"] == OWN
    many = {"memories": [{"type": "PROFILE", "content": "I live in Lyon"}]}
    assert ok(bound.post("/v1/memories", json=many | {"user_id": OWN}))["deduplicated"] == 1
    assert ok(bound.post("/v1/memories/search", json={"query": "Where do I live?"}))["results"]
    shown = ok(bound.post("/v1/hypothesize", json={"input_text": "build an api"}))
    done = ok(
        bound.post(
            "/v1/execute",
            json={"input_text": "build an api", "hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"},
        )
    )
    ok(bound.post("/v1/feedback", json={"execution_id": done["execution_id"], "success": True}))
    assert OWN in bound.get("/v1/memory/export").text
    assert ok(bound.delete("/v1/memory", params={"mtype": "PROFILE"}))["deleted"] >= 1
    assert bound.get(f"/v1/memories/{added['ids'][0]}").status_code == 404


def test_an_unbound_key_still_has_to_name_the_user(house: httpx.Client) -> None:
    """A body or a query without `user_id` is a 422 as before."""
    assert house.post("/v1/memories/search", json={"query": "Where do I live?"}).status_code == 422
    assert house.get("/v1/memory/export").status_code == 422


def test_an_export_is_taken_in_for_the_key_s_user_alone(
    house: httpx.Client, bound: httpx.Client, own: Held, other: Held
) -> None:
    """One's own export comes in; another's is a 403, and so is a stream with a single line of another. Another's ids
    under one's own name bring nothing that the other would notice."""
    before = export_of(house, other.user_id)
    mine = export_of(house, OWN)
    assert bound.post("/v1/memory/import", content=mine, headers=NDJSON).status_code == 200
    for stream in (before, mine + before.splitlines(keepends=True)[-1]):
        refused = bound.post("/v1/memory/import", content=stream, headers=NDJSON)
        assert refused.status_code == 403
        assert "line" in refused.json()["detail"]
    claimed = [json.loads(line) | {"user_id": OWN} for line in before.splitlines()]
    claimed = [
        row | {"superseded_by": other.memory_id, "content": "mine now"} if "superseded_by" in row else row
        for row in claimed
    ]
    lines = "\n".join(json.dumps(row) for row in claimed if row["table"] != "users")
    assert bound.post("/v1/memory/import", content=lines.encode(), headers=NDJSON).status_code == 200
    assert bound.get(f"/v1/memories/{other.memory_id}").status_code == 404
    assert bound.delete(f"/v1/memories/{other.memory_id}").status_code == 404
    assert len(ok(house.get(f"/v1/memories/{other.memory_id}/history"))["versions"]) == 1
    assert export_of(house, other.user_id) == before


def test_the_command_line_makes_and_lists_them(service: RunningService, own: Held) -> None:
    """`keys create --user` makes a key that opens this user; `keys list` tells whom each opens."""
    create = ("keys", "create", "--tenant", TENANT, "--user", OWN, "--json")
    made = json.loads(service.run_command(*create).stdout)
    assert made["user_id"] == OWN
    with service.client(Key(made["key_id"], made["key"], TENANT)) as client:
        found = ok(client.post("/v1/memories/search", json={"query": "What do I like?"}))["results"]
        assert {one["memory"]["user_id"] for one in found} == {OWN}
    listed = json.loads(service.run_command("keys", "list", "--tenant", TENANT, "--json").stdout)
    assert {row["key_id"]: row["user_id"] for row in listed}[made["key_id"]] == OWN
    assert {row["user_id"] for row in listed} == {None, OWN}


def test_each_key_chats_for_its_user(service: RunningService, upstream: UpstreamServer) -> None:
    """Two keys that are bound to a user each, in front of an upstream: what one says is remembered of that user without
    being named, and is in that one's next request and in no request of the other; naming the other one, in the body or
    by header, is a 403, and the upstream is not asked."""
    upstream.script = lambda _: answer(b'{"choices": []}')
    told = {"room 3": "My dog is called Biscuit.", "room 4": "My dog is called Waffle."}
    keys = {user: service.create_bound_key(TENANT, user, ("user",)) for user in told}

    def chat(own: str, text: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        with service.client(keys[own]) as client:
            body = {"model": "m", "messages": messages, **fields}
            return client.post("/v1/chat/completions", json=body, headers=headers)

    def is_remembered(user: str) -> bool:
        with service.client(keys[user]) as client:
            return told[user] in client.get("/v1/memory/export").text

    for user, said in told.items():
        assert chat(user, f"{said} Can you suggest a toy?").status_code == 200
    deadline = time.monotonic() + 20
    while not all(is_remembered(user) for user in told):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for own, other in (("room 3", "room 4"), ("room 4", "room 3")):
        for fields in ({}, {"user": own}):
            assert chat(own, "What is the name of my dog?", **fields).headers["x-memories-used"] == "1"
            asked = upstream.received[-1].body.decode()
            assert told[own] in asked
            assert told[other] not in asked
        upstream.forget()
        for refused in (
            chat(own, "What is the name of my dog?", user=other),
            chat(own, "What is the name of my dog?", headers={"X-User-ID": other}),
        ):
            assert refused.status_code == 403
            assert told[other] not in refused.text
        assert upstream.received == []
