"""The OpenAPI document: the framework's, with the problem answers, the headers and the links it cannot know."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.errors import PROBLEM_JSON, PROBLEM_SCHEMA

Document = dict[str, Any]

_HEADERS: Mapping[str, Document] = {
    "RequestId": {
        "description": "Names this request in every log line; a caller may give its own.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
    "Challenge": {"description": "How to authenticate.", "required": True, "schema": {"const": "Bearer"}},
    "RetryAfter": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}
_HEADERS_OF_STATUS: Mapping[str, Mapping[str, str]] = {
    "401": {"WWW-Authenticate": "Challenge"},
    "429": {"Retry-After": "RetryAfter"},
    "503": {"Retry-After": "RetryAfter"},
}

_BODY_ONLY = ("413", "415")

_USER = "$request.body#/user_id"
_FIRST_MEMORY = {"memory_id": "$response.body#/ids/0"}

_LINKS: Mapping[str, Mapping[str, Document]] = {
    "hypothesize": {
        "execute": {
            "requestBody": {
                "user_id": _USER,
                "input_text": "$request.body#/input_text",
                "hypothesis_set_id": "$response.body#/hypothesis_set_id",
                "hypothesis_id": "$response.body#/hypotheses/0/id",
            },
        },
        "give_feedback": {
            "requestBody": {
                "user_id": _USER,
                "hypothesis_set_id": "$response.body#/hypothesis_set_id",
                "execution_id": None,
                "rejected_ids": [],
            },
        },
        "answer_question": {
            "requestBody": {
                "user_id": _USER,
                "hypothesis_set_id": "$response.body#/hypothesis_set_id",
                "hypothesis_id": None,
                "rejected_ids": ["$response.body#/hypotheses/0/id"],
            },
        },
        "get_persona": {"parameters": {"user_id": _USER}},
    },
    "execute": {
        "give_feedback": {
            "requestBody": {
                "user_id": _USER,
                "execution_id": "$response.body#/execution_id",
                "hypothesis_set_id": None,
                "rejected_ids": [],
            },
        },
        "get_persona_history": {"parameters": {"user_id": _USER}},
    },
    "add_memories": {
        "get_memory": {"parameters": _FIRST_MEMORY},
        "change_memory": {"parameters": _FIRST_MEMORY},
        "delete_memory": {"parameters": _FIRST_MEMORY},
        "get_memory_history": {"parameters": _FIRST_MEMORY},
        "search_memories": {"requestBody": {"user_id": _USER}},
        "export_user": {"parameters": {"user_id": _USER}},
        "delete_memories": {"parameters": {"user_id": _USER}},
        "erase_user": {"parameters": {"user_id": _USER}},
    },
    "search_memories": {
        "get_recall": {"parameters": {"recall_id": "$response.body#/recall_id"}},
        "replay_recall": {"parameters": {"recall_id": "$response.body#/recall_id"}},
        "judge_recall": {
            "parameters": {"recall_id": "$response.body#/recall_id"},
            "requestBody": {"helpful_ids": []},
        },
        "list_recalls": {"parameters": {"user_id": _USER}},
    },
    "ingest_conversation": {"get_job": {"parameters": {"job_id": "$response.body#/job_id"}}},
    "change_memory": {
        "get_memory_history": {"parameters": {"memory_id": "$request.path.memory_id"}},
        "get_memory": {"parameters": {"memory_id": "$request.path.memory_id"}},
    },
    "delete_memory": {"get_memory": {"parameters": {"memory_id": "$request.path.memory_id"}}},
    "get_persona": {
        "correct_persona": {
            "parameters": {"user_id": "$request.path.user_id"},
            "requestBody": {"version": "$response.body#/version"},
        },
    },
    "correct_persona": {
        "get_persona_history": {"parameters": {"user_id": "$request.path.user_id"}},
        "delete_facet": {"parameters": {"user_id": "$request.path.user_id", "facet": "concise"}},
    },
}
"""Which operation goes on from which, by operation id, and with what: `hypothesize` is chosen from by `execute`."""


def build_document(app: FastAPI) -> Document:
    """The OpenAPI document of `app`."""
    document: Document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = document["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    problem = dict(PROBLEM_SCHEMA)
    components["schemas"] |= {**problem.pop("$defs", {}), "Problem": problem}
    components["headers"] = {name: dict(header) for name, header in _HEADERS.items()}
    problems: Document = {}
    for path in document["paths"].values():
        for operation in path.values():
            _complete(operation, problems)
    components["responses"] = dict(sorted(problems.items()))
    return document


def _complete(operation: Document, problems: Document) -> None:
    """Add headers and links, leave out the answers about bodies where there is none, and put the problem
    answers, which are the same everywhere, into `problems`."""
    responses: Document = operation["responses"]
    if "requestBody" not in operation:
        for status in _BODY_ONLY:
            responses.pop(status, None)
    for status, response in responses.items():
        is_problem = PROBLEM_JSON in response["content"]
        names = {"X-Request-ID": "RequestId", **(_HEADERS_OF_STATUS.get(status, {}) if is_problem else {})}
        response["headers"] = {name: {"$ref": f"#/components/headers/{header}"} for name, header in names.items()}
        if is_problem:
            problems[status] = response
            responses[status] = {"$ref": f"#/components/responses/{status}"}
    links = _LINKS.get(operation["operationId"], {})
    if links:
        success = next(status for status in responses if status.startswith("2"))
        responses[success]["links"] = {target: {"operationId": target, **link} for target, link in links.items()}
