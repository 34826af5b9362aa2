"""What schemathesis has to know of the service beyond its OpenAPI document; read by `test_openapi_fuzz`."""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case
from schemathesis.generation.meta import TestPhase
from schemathesis.hooks import HookContext
from schemathesis.specs.openapi.checks import ensure_resource_availability

RULES: Mapping[str, str] = {
    "answer_question": "an answer picks a hypothesis, turns some down, or says something"
    "|there is no question in this set: propose anew what the input means",
    "execute": "hypothesis_id needs the hypothesis_set_id it belongs to",
    "correct_persona": "name at least one facet, in facets or in pinned",
    "give_feedback": "rejected_ids needs the hypothesis set they belong to",
    "add_memories": "valid_to has to be later than valid_from",
    "change_memory": "valid_to has to be later than valid_from"
    "|this is an earlier version or a superseded memory: change the current one",
    "judge_recall": "the recall did not show .*",
    "search_memories": "at least one weight has to be above zero",
    "create_embeddings": "the model served here is .*|.* has 384 dimensions and cannot be shortened",
    "create_embeddings_api": "the model served here is .*|.* has 384 dimensions and cannot be shortened",
    "write_script": "(sft|dpo|reward|grpo) is trained on .*|a reward model has no GGUF form"
    "|max_answer leaves no room for the prompt|batch_size must be a multiple of generations"
    "|there is a folder of this name already|this is the form of a run's name: choose another",
    "put_settings": "at least one weight has to be above zero|.* uses what is not defined: .*|the intents file .*",
}
"""By operation: why a request that fits its schema may still be refused. Rules between fields, and about what
the service holds, are beyond a JSON schema."""

FAMILIAR = ("ada", "bob", "cleo")

REMOVALS = frozenset({"/v1/memory", "/v1/users/{user_id}"})

Check = bool | None


@schemathesis.check
def refused_for_a_rule_only(ctx: CheckContext, response: Response, case: Case) -> Check:
    """A request that fits its schema is refused only for one of RULES."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return None
    rule = RULES.get(case.operation.definition.raw["operationId"], "")
    messages = [item["message"] for item in response.json()["errors"]]
    assert all(re.fullmatch(rule, message) for message in messages), f"refused, though it fits its schema: {messages}"
    return None


@schemathesis.check
def found_until_removed(ctx: CheckContext, response: Response, case: Case) -> Check:
    """What was created is found, unless it, its memories or its user were removed in the same scenario."""
    if "memory_id" not in (case.path_parameters or {}):
        return None  # a search is of a user of its own
    recorder = ctx.internals.recorder
    for earlier in recorder.find_all_cases() if recorder is not None else ():
        answer = recorder.find_response(case_id=earlier.id)
        if earlier.method == "DELETE" and earlier.path in REMOVALS and answer is not None and answer.status_code == 200:
            return None
    return ensure_resource_availability(ctx, response, case)


@schemathesis.check
def answer_names_its_request(ctx: CheckContext, response: Response, case: Case) -> Check:
    """Every answer carries X-Request-ID, and every error is a problem that repeats it."""
    (request_id,) = response.headers["x-request-id"]
    if response.status_code >= 400 and case.path != "/readyz" and response.request.method != "HEAD":
        problem = response.json()
        assert response.headers["content-type"] == ["application/problem+json"]
        assert problem["request_id"] == request_id
        assert problem["status"] == response.status_code
        assert {"type", "title", "detail"} <= set(problem)
    return None


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Give half of the good requests a user whom others have, too: a stranger to everyone has nothing to read.
    Chains of operations stay as they are, for their users come from the operation before."""
    if case.meta is None or not case.meta.generation.mode.is_positive or case.meta.phase.name is not TestPhase.FUZZING:
        return
    for place in (case.body, case.query, case.path_parameters):
        if isinstance(place, dict) and isinstance(place.get("user_id"), str):
            number = zlib.crc32(place["user_id"].encode())
            if number % 2:
                place["user_id"] = FAMILIAR[number // 2 % len(FAMILIAR)]


VECTOR = base64.b64encode((np.ones(384) / np.sqrt(384)).astype("<f4").tobytes()).decode()
MOMENT = "2026-01-31T12:00:00Z"
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=60)


def export_of(user_id: str, memories: list[tuple[str, str]]) -> bytes:
    """A stream as `GET /v1/memory/export` gives it, with the vectors of another space."""
    user = {"table": "users", "user_id": user_id, "facets": {}, "version": 0, "vector": None, "vector_space": None}
    rows = [user | {"vector_weight": 0.0, "vector_at": None, "created_at": MOMENT, "updated_at": MOMENT}]
    for memory_id, content in memories:
        row = {"table": "memories", "user_id": user_id, "memory_id": memory_id, "type": "GOAL", "content": content}
        row |= {"confidence": 0.5, "tags": [], "source": "api", "slots": [], "space": "another", "embedding": VECTOR}
        row |= dict.fromkeys(("created_at", "updated_at", "valid_from"), MOMENT)
        row |= dict.fromkeys(("valid_to", "expires_at", "superseded_by", "version_of"))
        rows.append(row)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


schemathesis.openapi.media_type(
    "application/x-ndjson",
    st.builds(export_of, WORDS, st.lists(st.tuples(st.uuids().map(str), WORDS), max_size=3)),
)
