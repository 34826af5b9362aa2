"""The Python client and the OpenAPI document: an operation each, requests as described, answers of every shape."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import httpx2
import jsonschema_rs
import pytest

from embed_service_client import AsyncEmbedService, EmbedService
from scripts import write_python_client as writer

DOCUMENT: Mapping[str, Any] = json.loads(writer.DOCUMENT.read_text("utf8"))
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for method, path, operation in writer.operations_for_users(DOCUMENT)
}
USER = "ünï/cøde ..%2F?"
ID = "3f0e2c5e-6a63-4a53-9d3d-0a5d3c9e7c11"
MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
DRAFT = {"type": "GOAL", "content": "run a marathon", "valid_from": MOMENT}

CALLS: Mapping[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {
    "add_memories": ((USER, [DRAFT, DRAFT]), {}),
    "change_memory": ((ID,), {"content": "run two", "valid_to": None}),
    "correct_persona": ((USER,), {"facets": {"concise": 0.9}, "pinned": {"formal": True}, "version": 2}),
    "delete_facet": ((USER, "concise"), {}),
    "create_embeddings": ((), {"input": ["a", "b"]}),
    "delete_memories": ((USER,), {"mtype": "GOAL"}),
    "delete_memory": ((ID,), {}),
    "embed": ((), {"inputs": ["a"]}),
    "enrich": ((), {"user_id": USER, "input_text": "build api"}),
    "erase_user": ((USER,), {}),
    "execute": ((), {"user_id": USER, "input_text": "build api", "hypothesis_set_id": ID, "hypothesis_id": "h1"}),
    "export_user": ((USER,), {}),
    "followups": ((), {"user_id": USER, "conversation_context": "we met", "count": 2}),
    "get_consent": ((USER,), {}),
    "get_memory": ((ID,), {}),
    "get_memory_history": ((ID,), {}),
    "answer_question": ((), {"user_id": USER, "hypothesis_set_id": ID, "rejected_ids": ["h1"], "answer": "x"}),
    "get_job": ((ID,), {}),
    "ingest_conversation": ((USER, [{"role": "user", "content": "I run.", "created_at": MOMENT}]), {"session": "a"}),
    "get_recall": ((ID,), {}),
    "judge_recall": ((ID, [ID]), {}),
    "list_quarantine": ((USER,), {"limit": 1}),
    "list_recalls": ((USER,), {"limit": 1}),
    "release_statement": ((ID,), {}),
    "replay_recall": ((ID,), {}),
    "get_persona": ((USER,), {}),
    "get_persona_history": ((USER,), {}),
    "give_feedback": ((), {"user_id": USER, "execution_id": ID, "rating": -0.5}),
    "hypothesize": ((), {"user_id": USER, "input_text": "x", "conversation": [{"role": "user", "content": "y"}]}),
    "import_user": (([b'{"table": ', b'"users"}\n'],), {}),
    "info": ((), {}),
    "list_memories": ((USER,), {"mtype": "GOAL", "limit": 1}),
    "prefer": ((), {"user_id": USER, "hypothesis_a": "a", "hypothesis_b": "b", "preferred": "tie"}),
    "put_consent": ((USER,), {"training": False}),
    "readyz": ((), {}),
    "rerank": ((), {"query": "a", "documents": ["b", {"text": "c"}]}),
    "search_memories": ((), {"user_id": USER, "query": "run", "types": ["GOAL"], "as_of": MOMENT, "known_at": MOMENT}),
    "telemetry": ((), {"since": MOMENT}),
}
"""A call of each method: what it is given."""


@pytest.mark.parametrize(
    ("file", "render"),
    [(writer.SHAPES, writer.render_shapes), (writer.SYNCHRONOUS, writer.render_synchronous)],
    ids=["shapes", "synchronous"],
)
def test_what_is_written_by_the_script_is_up_to_date(file: Any, render: Any) -> None:
    """`python scripts/write_python_client.py` renews it."""
    assert file.read_text("utf8") == render(), "run: python scripts/write_python_client.py"


def _success(operation: dict[str, Any]) -> dict[str, Any]:
    responses = operation["responses"]
    return responses.get("200") or responses["202"]


def test_every_operation_for_users_has_a_method_and_no_method_is_without_one() -> None:
    """Whoever adds an operation adds it to the client, and a call of it here, or leaves its path out in the script."""
    for client in (EmbedService, AsyncEmbedService):
        methods = {name for name, value in vars(client).items() if not name.startswith("_") and callable(value)}
        assert methods - {"close", "aclose"} == set(OPERATIONS)
    assert set(CALLS) == set(OPERATIONS)


@pytest.mark.parametrize("is_full", [True, False], ids=["whole", "least"])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_requests_and_answers_are_as_the_document_says(name: str, is_full: bool) -> None:
    """The same request from both clients, valid as described, with a key and an id; of the answer nothing is lost."""
    media, held = next(iter(_success(OPERATIONS[name][2])["content"].items()))
    value = example(held["schema"], is_full)
    answer = b'{"a": 1}\n{"b": 2}\n' if media != "application/json" else json.dumps(value).encode()
    sent: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        is_last_page = "cursor=" in str(request.url)
        content = json.dumps({**value, "cursor": None}) if is_last_page else answer
        return httpx2.Response(200, content=content, headers={"Content-Type": media})

    given, named = CALLS[name]
    with EmbedService(api_key="k", transport=httpx2.MockTransport(respond)) as client:
        said = getattr(client, name)(*given, **named)
        said = list(said) if isinstance(said, Iterator) else said
    said_later = asyncio.run(call_later(httpx2.MockTransport(respond), name))

    assert said == said_later
    check_answer(name, said, answer)
    for request in sent:
        check_request(name, request)
    assert len(sent) == (4 if name.startswith("list_") and is_full else 2)


async def call_later(transport: httpx2.MockTransport, name: str) -> Any:
    """What the client for asyncio answers."""
    given, named = CALLS[name]
    if name == "import_user":
        given = (in_pieces(given[0]),)
    async with AsyncEmbedService(api_key="k", transport=transport) as client:
        said = getattr(client, name)(*given, **named)
        return [line async for line in said] if isinstance(said, AsyncIterator) else await said


async def in_pieces(pieces: list[bytes]) -> AsyncIterator[bytes]:
    """Bytes as they come."""
    for piece in pieces:
        yield piece


def check_answer(name: str, said: Any, answer: bytes) -> None:
    """What the client says is what the service said; what that left out has its default."""
    if name == "export_user":
        assert b"".join(said) == answer
        return
    told = json.loads(answer)
    if name.startswith("list_"):
        pages = 2 if told["cursor"] else 1
        (items,) = (value for key, value in told.items() if key != "cursor")
        assert plain(said) == items * pages
        return
    assert is_dataclass(said)
    back = plain(said)
    assert {key: back[key] for key in told} == told


def plain(said: Any) -> Any:
    """As JSON."""
    return json.loads(
        json.dumps(
            [asdict(each) for each in said] if isinstance(said, list) else asdict(said), default=datetime.isoformat
        )
    )


def check_request(name: str, request: httpx2.Request) -> None:
    """Method, path and parameters are the operation's, the body is valid, the caller is named."""
    method, path, operation = OPERATIONS[name]
    given = CALLS[name][0]
    raw_path, _, query = request.url.raw_path.decode().partition("?")
    filled = re.sub(r"{\w+}", ID, path.replace("{user_id}", USER).replace("{facet}", "concise"))
    assert (request.method, raw_path.count("/"), unquote(raw_path)) == (method, path.count("/"), filled)
    if query:
        values = dict(pair.split("=") for pair in query.split("&"))
        assert set(values) <= {each["name"] for each in operation["parameters"]}
        assert unquote(next(iter(values.values()))) in {*map(str, given), MOMENT.isoformat()}
    assert request.headers["Authorization"] == "Bearer k"
    assert len(request.headers["X-Request-ID"]) == 32
    if "requestBody" in operation:
        media, held = next(iter(operation["requestBody"]["content"].items()))
        assert request.headers["Content-Type"] == media
        if media == "application/json":
            jsonschema_rs.validate(
                {**held["schema"], "components": DOCUMENT["components"]}, json.loads(request.content)
            )
        else:
            assert request.content == b"".join(given[0])


def example(schema: Mapping[str, Any], is_full: bool) -> Any:
    """A value of a schema: with all it may have, or with the least."""
    if "$ref" in schema:
        return example(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]], is_full)
    if "anyOf" in schema:
        return example(schema["anyOf"][0 if is_full else -1], is_full)
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    match schema.get("type"):
        case "object" if "properties" in schema:
            required = schema.get("required", ())
            return {
                name: example(of, is_full) for name, of in schema["properties"].items() if is_full or name in required
            }
        case "object":
            values = schema.get("additionalProperties", {})
            return {"one": example(values if isinstance(values, Mapping) else {}, is_full)} if is_full else {}
        case "array":
            return [example(schema["items"], is_full)] if is_full else []
        case "string":
            return MOMENT.isoformat() if schema.get("format") == "date-time" else ID
        case kind:
            return {"integer": 3, "number": 1, "boolean": True, "null": None}.get(str(kind))
