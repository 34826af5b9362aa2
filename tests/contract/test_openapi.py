"""The OpenAPI document: kept in the repository, complete, and true to the contract's table."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from app.api.errors import PROBLEM_JSON
from app.api.routing import CheckedRoute
from app.main import create_app
from scripts.write_openapi import TARGET, render

PROBES = {"/healthz", "/v1/healthz", "/readyz", "/info", "/metrics"}

CONTRACT = [
    ("POST", "/v1/hypothesize"),
    ("POST", "/v1/execute"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/preferences"),
    ("POST", "/v1/followups"),
    ("POST", "/v1/enrich"),
    ("POST", "/v1/memories"),
    ("POST", "/v1/memories/search"),
    ("GET", "/v1/memories/{memory_id}"),
    ("PATCH", "/v1/memories/{memory_id}"),
    ("DELETE", "/v1/memories/{memory_id}"),
    ("GET", "/v1/memory/export"),
    ("POST", "/v1/memory/import"),
    ("DELETE", "/v1/memory"),
    ("DELETE", "/v1/users/{user_id}"),
    ("GET", "/v1/persona/{user_id}"),
    ("PATCH", "/v1/persona/{user_id}"),
    ("GET", "/v1/persona/{user_id}/history"),
    ("DELETE", "/v1/persona/{user_id}/facets/{facet}"),
    ("GET", "/v1/telemetry"),
    ("GET", "/v1/training/stats"),
    ("POST", "/v1/training/datasets"),
    ("POST", "/v1/training/scripts"),
    ("GET", "/v1/training/runs"),
    ("POST", "/v1/training/runs/{run_id}/promote"),
    ("POST", "/v1/training/runs/{run_id}/rollback"),
    ("POST", "/v1/embeddings"),
    ("POST", "/api/v1/embeddings"),
    ("POST", "/embed"),
    ("POST", "/v1/rerank"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/healthz"),
    ("GET", "/v1/healthz"),
    ("GET", "/readyz"),
    ("GET", "/info"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def application() -> FastAPI:
    """The application, not started."""
    return create_app()


@pytest.fixture(scope="module")
def document(application: FastAPI) -> dict[str, Any]:
    """Its OpenAPI document."""
    return application.openapi()


def operations_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) -> operation."""
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_the_kept_document_is_the_present_one() -> None:
    """docs/api/openapi.json is what the application says of itself; `python scripts/write_openapi.py` renews it."""
    assert TARGET.read_text(encoding="utf-8") == render(), "run: python scripts/write_openapi.py"


@pytest.mark.parametrize(("method", "path"), CONTRACT)
def test_the_contract_s_operations_exist(document: dict[str, Any], method: str, path: str) -> None:
    """Every path and method of the contract's table is there."""
    assert (method, path) in operations_of(document)


def test_every_operation_but_the_probes_asks_for_a_key(document: dict[str, Any]) -> None:
    """A new operation is closed unless somebody adds it to the list of the open ones here."""
    for (_, path), operation in operations_of(document).items():
        assert ("security" in operation) == (path not in PROBES), path


def test_every_route_but_the_probes_is_checked(application: FastAPI) -> None:
    """No route reads a body before its caller is known, or lets an unknown query pass."""
    for context in iter_route_contexts(application.routes):
        if isinstance(context.original_route, APIRoute) and context.path_format not in PROBES:
            assert isinstance(context.original_route, CheckedRoute), context.path_format


def test_every_operation_tells_all_its_answers(document: dict[str, Any]) -> None:
    """Each says what it answers to a wrong request, a missing key, an overload; with a body, also to a wrong one."""
    for (method, path), operation in operations_of(document).items():
        answers = set(operation["responses"])
        if path not in PROBES:
            assert answers >= {"400", "401", "403", "422", "429", "503"}, (method, path)
            assert answers & {"200", "202"}, (method, path)
        assert ("requestBody" in operation) == ({"413", "415"} <= answers), (method, path)


def test_errors_are_problems_and_every_answer_is_named(document: dict[str, Any]) -> None:
    """Every error is application/problem+json; every answer of every operation has X-Request-ID."""
    shared = document["components"]["responses"]
    for problem in shared.values():
        assert set(problem["content"]) == {PROBLEM_JSON}
    for key, operation in operations_of(document).items():
        for status, answer in operation["responses"].items():
            resolved = shared[answer["$ref"].rsplit("/", 1)[-1]] if "$ref" in answer else answer
            assert "X-Request-ID" in resolved["headers"], (key, status)
            assert status in {"200", "202"} or "$ref" in answer or key == ("GET", "/readyz"), (key, status)


def test_links_lead_to_operations(document: dict[str, Any]) -> None:
    """Every link names an operation that exists, and no two operations share a name."""
    operations = operations_of(document).values()
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    answers = [answer for operation in operations for answer in operation["responses"].values()]
    links = [link for answer in answers for link in answer.get("links", {}).values()]
    assert {link["operationId"] for link in links} <= set(names)
    assert len(links) >= 15


def test_the_document_is_self_contained(document: dict[str, Any]) -> None:
    """Every reference can be followed, and nothing of the framework's own error shapes is left."""
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for reference in set(text.split('"$ref": "#/')[1:]):
        part: Any = document
        for name in reference.split('"', 1)[0].split("/"):
            part = part[name]
