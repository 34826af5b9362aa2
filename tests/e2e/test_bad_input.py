"""Requests that are wrong: each gets one kind of answer, changes nothing, and is quoted nowhere."""

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.running import RunningService

pytestmark = pytest.mark.slow

MARKER = "xylophone-marker-4711"
"""Stands in everything the tests send as a user's words, and may be in no error and in no log."""

PROBLEM_JSON = "application/problem+json"
NOBODY = "nobody was ever called this"
NO_RUN = "sft-20260131t120000-0123456789"
MANY = 100_000


def problem_of(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The problem a response has to be: one of `statuses`, complete, with the id of its request, quoting nothing."""
    assert response.status_code in statuses, (response.status_code, response.text[:500])
    assert response.headers["content-type"] == PROBLEM_JSON
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"] != ""
    for name in ("type", "title", "detail"):
        assert isinstance(problem[name], str)
        assert problem[name]
    if response.status_code == 422:
        assert problem["errors"]
        assert all(isinstance(item["field"], str) and item["message"] for item in problem["errors"])
    assert MARKER not in response.text
    assert "Traceback" not in response.text
    return problem


@pytest.fixture(scope="module")
def service_client(running_service: RunningService) -> Iterator[httpx.Client]:
    """One client for the whole file."""
    with running_service.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def known(service_client: httpx.Client) -> dict[str, str]:
    """A user with a memory, a hypothesis set and an execution; the ids of all of them."""
    user_id = f"known {uuid.uuid4().hex} {MARKER}"
    added = service_client.post("/v1/memories", json={"user_id": user_id, "type": "GOAL", "content": MARKER}).json()
    shown = service_client.post("/v1/hypothesize", json={"user_id": user_id, "input_text": "build api"}).json()
    chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": shown["hypotheses"][0]["id"]}
    done = service_client.post("/v1/execute", json={"user_id": user_id, "input_text": "build api", **chosen}).json()
    found = service_client.post("/v1/memories/search", json={"user_id": user_id, "query": MARKER}).json()
    return {
        "user_id": user_id,
        "memory_id": added["ids"][0],
        "set_id": shown["hypothesis_set_id"],
        "execution_id": done["execution_id"],
        "recall_id": found["recall_id"],
    }


@pytest.fixture(scope="module")
def bodies(known: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """A body that is right, with most fields set, for every operation that takes JSON."""
    user_id, text = known["user_id"], f"build an api {MARKER}"
    weights = {"similarity": 0.6, "recency": 0.25, "confidence": 0.15}
    memory = {"type": "HISTORY", "content": text, "confidence": 0.5, "tags": [MARKER], "source": "api"}
    texts = {"input": [text], "encoding_format": "float", "user": user_id}
    return {
        ("POST", "/v1/hypothesize"): {
            "user_id": user_id,
            "input_text": text,
            "conversation": [{"role": "user", "content": text}],
            "count": 3,
        },
        ("POST", "/v1/answer"): {
            "user_id": user_id,
            "hypothesis_set_id": known["set_id"],
            "hypothesis_id": "h1",
            "rejected_ids": ["h2"],
            "answer": text,
            "count": 3,
        },
        ("POST", "/v1/execute"): {
            "user_id": user_id,
            "input_text": text,
            "hypothesis_set_id": known["set_id"],
            "hypothesis_id": "h1",
            "custom_answer": text,
            "token_budget": 2000,
        },
        ("POST", "/v1/feedback"): {
            "user_id": user_id,
            "execution_id": known["execution_id"],
            "hypothesis_set_id": known["set_id"],
            "success": True,
            "rating": 0.5,
            "comment": text,
            "rejected_ids": ["h2"],
        },
        ("POST", "/v1/preferences"): {
            "user_id": user_id,
            "hypothesis_a": text,
            "hypothesis_b": text,
            "preferred": "tie",
            "reward": 1.0,
        },
        ("POST", "/v1/followups"): {"user_id": user_id, "conversation_context": text, "count": 2},
        ("POST", "/v1/enrich"): {"user_id": user_id, "input_text": text},
        ("POST", "/v1/memories"): {"user_id": user_id, "memories": [memory]},
        ("POST", "/v1/memories/ingest"): {
            "user_id": user_id,
            "messages": [{"role": "user", "content": text, "name": MARKER}],
            "session": MARKER,
        },
        ("POST", "/v1/memories/search"): {
            "user_id": user_id,
            "query": text,
            "limit": 5,
            "types": ["GOAL"],
            "tags": [MARKER],
            "as_of": "2026-01-31T12:00:00Z",
            "known_at": "2026-01-31T12:00:00Z",
            "token_budget": 500,
            "weights": weights,
            "rerank": False,
        },
        ("POST", "/v1/recalls/{recall_id}/feedback"): {"helpful_ids": [known["memory_id"]]},
        ("PATCH", "/v1/memories/{memory_id}"): {"content": text, "confidence": 0.5, "tags": [MARKER]},
        ("PATCH", "/v1/persona/{user_id}"): {"facets": {"concise": 0.7}, "version": 0},
        ("PUT", "/v1/users/{user_id}/consent"): {"training": False},
        ("POST", "/v1/embeddings"): texts,
        ("POST", "/api/v1/embeddings"): texts,
        ("POST", "/embed"): {"inputs": [text], "normalise": True},
        ("POST", "/v1/rerank"): {
            "query": text,
            "documents": [text, {"text": text}],
            "top_n": 2,
            "model": "any",
            "return_documents": False,
        },
        ("PUT", "/v1/settings"): {"weights": weights, "token_budget": 4000},
        ("POST", "/v1/training/datasets"): {"dry_run": True, "heldout_share": 0.25, "max_tokens": 512},
        ("POST", "/v1/training/scripts"): {
            "method": "dpo",
            "dataset": "preferences",
            "model": "org/model",
            "options": {"learning_rate": 0.001, "scheduler": "linear"},
        },
        ("POST", "/v1/training/runs/{run_id}/promote"): {"share": 0.5},
        ("POST", "/v1/training/runs/{run_id}/rollback"): {"reason": "no reason"},
        ("POST", "/api/v1/models/provision"): {"roles": ["general"], "force": True},
    }


def path_of(template: str, known: dict[str, str]) -> str:
    """A path of the document with the ids of the known user in it."""
    return template.format(
        memory_id=known["memory_id"],
        recall_id=known["recall_id"],
        run_id=NO_RUN,
        user_id=httpx.URL(f"/{known['user_id']}").raw_path[1:].decode(),
    )


def export_of(client: httpx.Client, user_id: str) -> bytes:
    """Everything held on a user."""
    response = client.get("/v1/memory/export", params={"user_id": user_id})
    assert response.status_code == 200
    return response.content


def test_every_operation_that_takes_json_is_tried(
    service_client: httpx.Client, bodies: dict[tuple[str, str], dict[str, Any]]
) -> None:
    """The bodies of this file cover the document: a new operation cannot be forgotten. A chat's body is the model
    server's to judge."""
    document = service_client.get("/openapi.json").json()
    taking_json = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert set(bodies) == taking_json - {("POST", "/v1/chat/completions")}


NOT_JSON = {
    "cut short": b'{"user_id": "' + MARKER.encode(),
    "two documents": b'{"user_id": "a"} {"user_id": "b"}',
    "invalid UTF-8": b'{"user_id": "\xff\xfe' + MARKER.encode() + b'"}',
    "UTF-16": '{"user_id": "a"}'.encode("utf-16"),
    "UTF-8 with a mark": b'\xef\xbb\xbf{"user_id": "a"}',
    "half a character": b'{"user_id": "\\ud800"}',
    "half a character as a name": b'{"\\udfff": "a"}',
    "NaN": b'{"user_id": "a", "confidence": NaN}',
    "Infinity": b'{"user_id": "a", "confidence": Infinity}',
    "minus Infinity": b'{"user_id": "a", "confidence": -Infinity}',
    "1e400": b'{"user_id": "a", "confidence": 1e400}',
    "a number of 5,000 digits": b'{"user_id": "a", "count": ' + b"9" * 5000 + b"}",
    "single quotes": b"{'user_id': 'a'}",
    "a comment": b'{"user_id": "a"} // hello',
    "a NUL": b'{"user_id": "a\x00"}',
    "brackets without end": b"[" * MANY,
    "100,000 brackets": b"[" * MANY + b"]" * MANY,
    "100,000 objects": b'{"a":' * MANY + b"1" + b"}" * MANY,
    "only spaces": b"   ",
}

NOT_OBJECTS = {
    "a list": b"[]",
    "a text": b'"' + MARKER.encode() + b'"',
    "a number": b"1",
    "null": b"null",
    "an empty object": b"{}",
    "nothing": b"",
    "900 brackets inside": b'{"user_id": ' + b"[" * 900 + b"]" * 900 + b"}",
    "another's fields": b'{"' + MARKER.encode() + b'": 1}',
}

MAY_BE_EMPTY = {
    "/v1/memories/{memory_id}",
    "/v1/settings",
    "/v1/training/datasets",
    "/v1/training/scripts",
    "/v1/training/runs/{run_id}/promote",
    "/v1/training/runs/{run_id}/rollback",
    "/api/v1/models/provision",
}

JSON_HEADERS = {"Content-Type": "application/json"}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_a_bad_request(
    service_client: httpx.Client, known: dict[str, str], bodies: dict[tuple[str, str], Any], content: bytes
) -> None:
    """A body that no JSON parser may accept is a 400 at every operation."""
    for method, path in bodies:
        response = service_client.request(method, path_of(path, known), content=content, headers=JSON_HEADERS)
        problem_of(response, 400)


@pytest.mark.parametrize("content", NOT_OBJECTS.values(), ids=NOT_OBJECTS)
def test_json_of_another_shape_is_not_understood(
    service_client: httpx.Client, known: dict[str, str], bodies: dict[tuple[str, str], Any], content: bytes
) -> None:
    """JSON that is no such request is a 422 at every operation; changes may be empty."""
    for method, path in bodies:
        if content == b"{}" and path in MAY_BE_EMPTY:
            continue
        response = service_client.request(method, path_of(path, known), content=content, headers=JSON_HEADERS)
        problem_of(response, 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json, text/plain"},
        {"Content-Type": "json"},
        {"Content-Type": ""},
        {},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_other_media_types_are_refused(
    service_client: httpx.Client,
    known: dict[str, str],
    bodies: dict[tuple[str, str], dict[str, Any]],
    headers: dict[str, str],
) -> None:
    """A body that does not say it is JSON in UTF-8 is a 415, even where it would be understood."""
    for (method, path), body in bodies.items():
        content = json.dumps(body).encode()
        response = service_client.request(method, path_of(path, known), content=content, headers=headers)
        problem_of(response, 415)


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON;charset=UTF-8", 'application/json ; charset="utf-8"; v=1']
)
def test_every_spelling_of_json_is_taken(service_client: httpx.Client, media_type: str) -> None:
    """Media types have no case, and may have parameters."""
    content = json.dumps({"user_id": "anyone", "input_text": "ünï"}, ensure_ascii=False).encode()
    response = service_client.post("/v1/enrich", content=content, headers={"Content-Type": media_type})
    assert response.status_code == 200


def wrong_versions(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A right body made wrong in one place at a time: (what was done, the body)."""
    yield "an unknown field", body | {"surprise": MARKER}
    yield "an unknown field with a strange name", body | {f"{MARKER} \u2028": 1}
    for name, value in body.items():
        wrong: list[Any] = [{"x": [MARKER]}, [[MARKER]]]
        if isinstance(value, str):
            wrong += ["\0" + MARKER, 1, True]
        if isinstance(value, str) and name in {"user_id", "input_text", "content", "query", "conversation_context"}:
            wrong += ["", MARKER * 2000]
        if isinstance(value, bool):
            wrong += ["yes", 1, 0.5]
        elif isinstance(value, int | float):
            wrong += [MARKER, "1", True, -1e300, 2**70, 10**30]
        if isinstance(value, list):
            wrong += [MARKER, {}, [None], ["\0"], [MARKER * 2000] * 50]
        for one in wrong:
            yield f"{name}={one!r:.40}", body | {name: one}
        if name in {"user_id", "input_text", "query", "hypothesis_a", "facets", "input", "inputs", "documents"}:
            yield f"without {name}", {key: kept for key, kept in body.items() if key != name}


def test_wrong_fields_are_named_and_change_nothing(
    service_client: httpx.Client, known: dict[str, str], bodies: dict[tuple[str, str], dict[str, Any]]
) -> None:
    """Unknown fields, wrong types, NULs, texts too long or too short, numbers out of range: a 422 that names the
    field, and everything held on the user stays as it is to the byte."""
    before = export_of(service_client, known["user_id"])
    tried = 0
    for (method, path), body in bodies.items():
        for what, wrong in wrong_versions(body):
            if path.endswith(("/embeddings", "/rerank")) and what.startswith(("an unknown", "input='x")):
                continue  # a text alone is an input, and clients of other services may send fields of theirs
            response = service_client.request(method, path_of(path, known), json=wrong)
            assert response.status_code == 422, (method, path, what, response.text[:300])
            items = problem_of(response, 422)["errors"]
            name = what.split("=")[0].removeprefix("without ")
            if name in body:
                assert any(item["field"].split(".")[0] == name for item in items), (path, what, items)
            tried += 1
    assert tried > 150
    assert export_of(service_client, known["user_id"]) == before


@pytest.mark.parametrize("user_id", ["", "a\0b", "a\nb", "\x1f", "\x7f", "\x85", "x" * 257, "ü" * 257])
def test_a_user_id_is_checked_wherever_it_stands(service_client: httpx.Client, user_id: str) -> None:
    """Control characters and wrong lengths are refused in bodies, queries and paths alike."""
    quoted = "".join(f"%{byte:02X}" for byte in user_id.encode())
    problem_of(service_client.post("/v1/enrich", json={"user_id": user_id, "input_text": "hi"}), 422)
    for path in (f"/v1/memory/export?user_id={quoted}", f"/v1/persona/{quoted}", f"/v1/persona/{quoted}/history"):
        problem_of(service_client.get(path), 422 if user_id or "?" in path else 404)
    problem_of(service_client.delete(f"/v1/memory?user_id={quoted}"), 422)
    problem_of(service_client.delete(f"/v1/users/{quoted}"), 422 if user_id else 404)


@pytest.mark.parametrize(
    "user_id", ["a/b", "a%2Fb", "a b", "日本語 😀", "\ufffd", "..%2f", "history", "a?b#c&d=e+f", "x" * 256, "😀" * 256]
)
def test_every_other_user_id_works_everywhere(service_client: httpx.Client, user_id: str) -> None:
    """Slashes, dots, percent signs, spaces, any script: the same user in bodies, queries and paths."""
    quoted = "".join(f"%{byte:02X}" for byte in user_id.encode())
    added = service_client.post("/v1/memories", json={"user_id": user_id, "type": "GOAL", "content": "a goal"})
    assert added.status_code == 200
    assert service_client.get(f"/v1/memories/{added.json()['ids'][0]}").json()["user_id"] == user_id
    assert service_client.get(f"/v1/persona/{quoted}").json()["user_id"] == user_id
    assert service_client.get(f"/v1/persona/{quoted}/history").status_code == 200
    assert service_client.get(f"/v1/memory/export?user_id={quoted}").status_code == 200
    assert service_client.delete(f"/v1/users/{quoted}").json()["erased"]["users"] == 1


def test_an_escaped_control_character_is_no_slash(service_client: httpx.Client) -> None:
    """`a%1Fb` is not another spelling of the user `a/b`."""
    service_client.post("/v1/memories", json={"user_id": "u1/x", "type": "GOAL", "content": "a goal"})
    assert service_client.get("/v1/persona/u1%2fx").status_code == 200
    problem_of(service_client.get("/v1/persona/u1%1Fx"), 422)
    problem_of(service_client.get("/v1/persona/u1%1F%2Fx"), 422)


@pytest.mark.parametrize("path", ["/v1/persona/%FF", "/v1/persona/a%C3", "/%FF", "/v1/users/%ED%A0%80"])
def test_a_path_that_is_not_utf8_is_a_bad_request(service_client: httpx.Client, path: str) -> None:
    """Broken UTF-8 in a path is refused, not read as a replacement character."""
    problem_of(service_client.get(path), 400)


def test_a_query_that_is_ambiguous_is_refused(service_client: httpx.Client, known: dict[str, str]) -> None:
    """Broken UTF-8, a parameter given twice, one that does not exist, a wrong value: all refused."""
    problem_of(service_client.get("/v1/memory/export?user_id=%FF"), 400)
    before = export_of(service_client, known["user_id"])
    twice = [("user_id", known["user_id"]), ("user_id", NOBODY)]
    assert problem_of(service_client.delete("/v1/memory", params=twice), 422)["errors"][0]["field"] == "user_id"
    wrong_type = {"user_id": known["user_id"], "mtype": MARKER}
    assert problem_of(service_client.delete("/v1/memory", params=wrong_type), 422)["errors"][0]["field"] == "mtype"
    misspelt = {"user_id": known["user_id"], "type": "GOAL"}
    assert problem_of(service_client.delete("/v1/memory", params=misspelt), 422)["errors"][0]["field"] == "type"
    for since in ("yesterday", "0", "1700000000", "2026-01-31", "2026-01-31T12:00:00", "0001-01-01T00:00:00+23:59"):
        problem_of(service_client.get("/v1/telemetry", params={"since": since}), 422)
    assert export_of(service_client, known["user_id"]) == before


def test_unknown_users_are_not_found(service_client: httpx.Client) -> None:
    """Whatever reads or changes what is held on a user is a 404 for one that was never seen."""
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/v1/memories/search", {"user_id": NOBODY, "query": "tea"}),
        ("GET", f"/v1/persona/{NOBODY}", None),
        ("GET", f"/v1/persona/{NOBODY}/history", None),
        ("PATCH", f"/v1/persona/{NOBODY}", {"facets": {"concise": 1}}),
        ("DELETE", f"/v1/persona/{NOBODY}/facets/concise", None),
        ("POST", "/v1/feedback", {"user_id": NOBODY, "success": True}),
        (
            "POST",
            "/v1/preferences",
            {"user_id": NOBODY, "hypothesis_a": "a", "hypothesis_b": "b", "preferred": "tie"},
        ),
        ("GET", f"/v1/memory/export?user_id={NOBODY}", None),
        ("DELETE", f"/v1/memory?user_id={NOBODY}", None),
        ("DELETE", f"/v1/users/{NOBODY}", None),
    ]
    for method, path, body in requests:
        problem_of(service_client.request(method, path, json=body), 404)


def test_unknown_ids_are_not_found(service_client: httpx.Client, known: dict[str, str]) -> None:
    """Ids of nothing, and ids of another user, are a 404, and nothing is written."""
    other = f"other {uuid.uuid4().hex}"
    service_client.post("/v1/memories", json={"user_id": other, "type": "GOAL", "content": "a goal"})
    before = export_of(service_client, other)
    for set_id in (str(uuid.uuid4()), known["set_id"]):
        body = {"user_id": other, "input_text": "hi", "hypothesis_set_id": set_id, "hypothesis_id": "h1"}
        problem_of(service_client.post("/v1/execute", json=body), 404)
        problem_of(service_client.post("/v1/feedback", json={"user_id": other, "hypothesis_set_id": set_id}), 404)
    for execution_id in (str(uuid.uuid4()), known["execution_id"]):
        problem_of(service_client.post("/v1/feedback", json={"user_id": other, "execution_id": execution_id}), 404)
    body = {
        "user_id": known["user_id"],
        "input_text": "hi",
        "hypothesis_set_id": known["set_id"],
        "hypothesis_id": "h9",
    }
    problem_of(service_client.post("/v1/execute", json=body), 404)
    rejected = {"user_id": known["user_id"], "hypothesis_set_id": known["set_id"], "rejected_ids": ["h9"]}
    problem_of(service_client.post("/v1/feedback", json=rejected), 404)
    nothing = f"/v1/memories/{uuid.uuid4()}"
    for method, suffix in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("GET", "/history")):
        body = {"content": "x"} if method == "PATCH" else None
        problem_of(service_client.request(method, nothing + suffix, json=body), 404)
    for path in ("/v1/memories/not-an-id", "/v1/memories/urn:uuid:" + str(uuid.uuid4()), "/nothing/here", "/v1/"):
        problem_of(service_client.get(path), 404)
    assert export_of(service_client, other) == before


def test_first_contact_works(service_client: httpx.Client) -> None:
    """Who is not known yet is served where nothing has to be known, and known where something was written."""

    def someone() -> str:
        return f"new {uuid.uuid4().hex}"

    for path in ("/v1/hypothesize", "/v1/execute"):
        user_id = someone()
        assert service_client.post(path, json={"user_id": user_id, "input_text": "build api"}).status_code == 200
        assert service_client.get(f"/v1/persona/{user_id}").status_code == 200
    memory = {"type": "GOAL", "content": "a goal"}
    for body in (memory, {"memories": [memory]}):
        user_id = someone()
        assert service_client.post("/v1/memories", json={"user_id": user_id, **body}).status_code == 200
        assert len(export_of(service_client, user_id).splitlines()) == 2
    user_id = someone()
    for path, body in (("/v1/enrich", {"input_text": "build api"}), ("/v1/followups", {"conversation_context": "hi"})):
        assert service_client.post(path, json={"user_id": user_id, **body}).status_code == 200
        problem_of(service_client.get(f"/v1/persona/{user_id}"), 404)


def test_bodies_that_are_too_large_are_refused(running_service: RunningService, service_client: httpx.Client) -> None:
    """17 MB in one piece, in chunks, and 600 MB that were only announced are a 413, on a connection that lives on."""
    chunk = b" " * (1024 * 1024)
    content = b'{"user_id": "a", "input_text": "' + chunk * 17 + b'"}'
    problem_of(service_client.post("/v1/enrich", content=content, headers=JSON_HEADERS), 413)
    problem_of(service_client.post("/v1/enrich", content=iter([chunk] * 17), headers=JSON_HEADERS), 413)
    head = b"POST /v1/memory/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    answer = exchange(running_service, head + b"Content-Length: 600000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: " in answer.lower()
    assert service_client.get("/healthz").status_code == 200


def test_too_many_memories_are_refused_as_a_whole(service_client: httpx.Client) -> None:
    """1,000 memories are taken, 1,001 are not; one bad one among a thousand keeps all of them out."""
    memories = [{"type": "HISTORY", "content": f"event {number} {MARKER}"} for number in range(1001)]
    user_id = f"many {uuid.uuid4().hex}"
    problem_of(service_client.post("/v1/memories", json={"user_id": user_id, "memories": memories}), 422)
    spoilt = [*memories[:999], {"type": "HISTORY", "content": ""}]
    problem = problem_of(service_client.post("/v1/memories", json={"user_id": user_id, "memories": spoilt}), 422)
    assert problem["errors"][0]["field"] == "memories.999.content"
    backwards = {
        "type": "GOAL",
        "content": "x",
        "valid_from": "2026-01-02T00:00:00Z",
        "valid_to": "2026-01-01T00:00:00Z",
    }
    impossible = {"user_id": user_id, "memories": [*memories[:9], backwards]}
    problem_of(service_client.post("/v1/memories", json=impossible), 422)
    hopeless = {"user_id": user_id, "memories": [{"type": MARKER}] * 1000}
    assert len(problem_of(service_client.post("/v1/memories", json=hopeless), 422)["errors"]) == 100
    problem_of(service_client.get(f"/v1/persona/{user_id}"), 404)
    taken = service_client.post("/v1/memories", json={"user_id": user_id, "memories": memories[:1000]})
    assert taken.status_code == 200
    assert len(taken.json()["ids"]) == 1000


def lines_of(client: httpx.Client) -> tuple[str, list[dict[str, Any]]]:
    """A user who is not there any more, and what their export was."""
    user_id = f"moved {uuid.uuid4().hex}"
    client.post("/v1/memories", json={"user_id": user_id, "type": "GOAL", "content": f"a goal {MARKER}"})
    client.post("/v1/execute", json={"user_id": user_id, "input_text": f"build api {MARKER}", "custom_answer": "in Go"})
    rows = [json.loads(line) for line in export_of(client, user_id).splitlines()]
    assert client.delete(f"/v1/users/{user_id}").status_code == 200
    return user_id, rows


def spoilt_streams(rows: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """An export made wrong in one place at a time."""
    good = [json.dumps(row).encode() for row in rows]
    whole = b"\n".join(good) + b"\n"
    memory = next(row for row in rows if row["table"] == "memories")
    user = next(row for row in rows if row["table"] == "users")
    for what, line in (
        ("text", MARKER.encode()),
        ("cut short", good[-1][:-5]),
        ("a list", b"[]"),
        ("a number", b"1"),
        ("invalid UTF-8", b'{"table": "\xff"}'),
        ("half a character", b'{"table": "\\ud800"}'),
        ("NaN", json.dumps(memory | {"confidence": float("nan")}).encode()),
        ("no table", b"{}"),
        ("a foreign table", b'{"table": "api_keys"}'),
        ("a table of the system", b'{"table": "pg_class"}'),
        ("a nested bomb", b'{"table": "users", "facets": ' + b'{"a":' * MANY + b"1" + b"}" * MANY + b"}"),
        ("nested 1,000 deep", json.dumps(user).replace("{}", '{"a":' * 990 + "1" + "}" * 990, 1).encode()),
        ("signals nested 1,000 deep", deep_signal(user["user_id"])),
    ):
        yield f"a line that is {what}", whole + line + b"\n"
    for name, value in (
        ("confidence", 2),
        ("confidence", "high"),
        ("type", MARKER),
        ("memory_id", "1"),
        ("content", None),
        ("content", "\0"),
        ("content", 1),
        ("content", " ".join(f"word{number}" for number in range(150_000))),
        ("tags", MARKER),
        ("tags", [1]),
        ("embedding", "AAAA"),
        ("embedding", ""),
        ("created_at", "yesterday"),
        ("created_at", "2026-01-31T12:00:00"),
        ("surprise", 1),
        ("tenant_id", "other"),
        ("user_id", "someone who is not in the stream"),
    ):
        wrong = memory | {"memory_id": str(uuid.uuid4()), name: value}
        yield f"a memory with {name}={value!r:.40}", whole + json.dumps(wrong).encode() + b"\n"
    for name, value in (
        ("facets", []),
        ("facets", {"concise": "very"}),
        ("version", 2**40),
        ("version", 1.5),
        ("user_id", ""),
        ("user_id", "a\nb"),
        ("user_id", "x" * 257),
    ):
        yield f"a user with {name}={value!r:.30}", whole + json.dumps(user | {name: value}).encode() + b"\n"


def deep_signal(user_id: str) -> bytes:
    """A row whose document is deeper than any the service writes."""
    body = '{"a":' * 990 + "1" + "}" * 990
    row = {"table": "signals", "signal_id": str(uuid.uuid4()), "user_id": user_id, "kind": "feedback"}
    row |= {"set_id": None, "execution_id": None, "created_at": "2026-01-31T12:00:00Z", "body": "BODY"}
    return json.dumps(row).replace('"BODY"', body).encode()


def test_a_stream_that_is_half_good_leaves_nothing(service_client: httpx.Client) -> None:
    """An import is all or nothing: one bad line at its end, of any kind, and the user is as unknown as before."""
    user_id, rows = lines_of(service_client)
    for what, stream in spoilt_streams(rows):
        headers = {"Content-Type": "application/x-ndjson"}
        response = service_client.post("/v1/memory/import", content=stream, headers=headers)
        assert response.status_code == 422, (what, response.text[:300])
        problem_of(response, 422)
        problem_of(service_client.get(f"/v1/persona/{user_id}"), 404)
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    problem_of(service_client.post("/v1/memory/import", content=b""), 422)
    for content_type in ("multipart/form-data", "application/x-www-form-urlencoded", "application/xml"):
        headers = {"Content-Type": content_type}
        problem_of(service_client.post("/v1/memory/import", content=whole, headers=headers), 415)
    assert service_client.post("/v1/memory/import", content=whole).status_code == 200
    assert sorted(export_of(service_client, user_id).splitlines()) == sorted(
        json.dumps(row, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode() for row in rows
    )


def test_other_methods_are_told_which_there_are(service_client: httpx.Client) -> None:
    """405 with every method of the path, whichever route it belongs to; OPTIONS says it too, HEAD is a GET."""
    nothing = f"/v1/memories/{uuid.uuid4()}"
    for path, allowed in (
        (nothing, "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/v1/memories/search", "OPTIONS, POST"),
        ("/v1/hypothesize", "OPTIONS, POST"),
        ("/v1/settings", "GET, HEAD, OPTIONS, PUT"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ):
        response = service_client.request("TRACE", path)
        problem_of(response, 405)
        assert response.headers["allow"] == allowed
        options = service_client.options(path)
        assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")
        assert options.headers["x-request-id"]
    head = service_client.head("/info")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(service_client.get("/info").content)
    assert service_client.head(nothing).status_code == 404


def test_a_request_id_is_taken_over_only_if_it_is_one(service_client: httpx.Client) -> None:
    """A caller's own id runs through; one that could break a log line or a page is replaced."""
    assert service_client.get("/healthz", headers={"X-Request-ID": "my-id.1_2"}).headers["x-request-id"] == "my-id.1_2"
    for bad in ("a b", "x" * 65, "<script>", ""):
        given = service_client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert given != bad
        assert len(given) == 32


def exchange(service: RunningService, data: bytes) -> bytes:
    """Send bytes, return all that comes back until it ends or pauses."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=2) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/enrich HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/enrich HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/enrich HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: a\x00b\r\n\r\n",
    ],
)
def test_what_is_no_http_does_not_hurt(
    running_service: RunningService, service_client: httpx.Client, data: bytes
) -> None:
    """Bytes that are no HTTP get a problem like any other wrong request; the service goes on."""
    head, _, body = exchange(running_service, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"x-request-id: {json.loads(body)['request_id']}".encode() in head.lower()
    assert PROBLEM_JSON.encode() in head
    assert service_client.get("/healthz").status_code == 200


def test_a_caller_who_leaves_is_no_failure(running_service: RunningService, service_client: httpx.Client) -> None:
    """A connection cut in the middle of a body is not a 5xx, and writes nothing."""
    user_id = f"gone {uuid.uuid4().hex}"
    for path, media_type in (("/v1/memories", "application/json"), ("/v1/memory/import", "application/x-ndjson")):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Length: 9999\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running_service.port)) as connection:
            connection.sendall(head.encode() + f'{{"user_id": "{user_id}", '.encode())
    problem_of(service_client.get(f"/v1/persona/{user_id}"), 404)
    assert running_service.log_events("request_failed") == []


def test_nothing_a_user_said_is_in_the_logs(
    running_service: RunningService, service_client: httpx.Client, known: dict[str, str], bodies: dict[Any, Any]
) -> None:
    """After all of the above, and after the right requests too: no word of a user in any log, and no 5xx."""
    for (method, path), body in bodies.items():
        response = service_client.request(method, path_of(path, known), json=body)
        expected = {404} if "{run_id}" in path else {200, 202, 409}
        assert response.status_code in expected, (path, response.text[:300])
    service_client.put("/v1/settings", json={})
    logs = running_service.log_text() + (running_service.data_dir / "postgres" / "server.log").read_text()
    assert MARKER not in logs
    assert all(event["status"] < 500 for event in running_service.log_events("request_answered"))
    assert running_service.log_events("request_failed") == []
