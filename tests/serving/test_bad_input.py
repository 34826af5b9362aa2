"""Requests that are wrong: each gets a clear problem, quotes nobody, and the server goes on serving."""

from typing import Any

import httpx
import pytest

from tests.serving.fakes import POISON, FakeBackend
from tests.serving.running import PROBLEM_JSON

MARKER = "xylophone-marker-4711"

WRONG_EMBED: dict[str, Any] = {
    "no list": {"inputs": MARKER},
    "an empty list": {"inputs": []},
    "an empty text": {"inputs": [""]},
    "10,000 inputs": {"inputs": [MARKER] * 10_000},
    "a text of 1 MB": {"inputs": [MARKER * 50_000]},
    "NUL": {"inputs": [f"{MARKER}\x00"]},
    "numbers": {"inputs": [1, 2]},
    "null": {"inputs": None},
    "a list of lists": {"inputs": [[MARKER]]},
    "nothing": {},
    "a field that is none": {"inputs": [MARKER], MARKER: MARKER},
    "normalise is a text": {"inputs": [MARKER], "normalise": MARKER},
    "truncate is a number": {"inputs": [MARKER], "truncate": 1},
    "a list instead of an object": [MARKER],
}
WRONG_OPENAI: dict[str, Any] = {
    "tokens": {"input": [1, 2, 3]},
    "lists of tokens": {"input": [[1, 2, 3]]},
    "an object": {"input": {"text": MARKER}},
    "an empty list": {"input": []},
    "another encoding": {"input": MARKER, "encoding_format": MARKER},
    "no dimensions": {"input": MARKER, "dimensions": 0},
    "dimensions with a fraction": {"input": MARKER, "dimensions": 4.5},
    "more dimensions than there are": {"input": MARKER, "dimensions": 17},
}
WRONG_RERANK: dict[str, Any] = {
    "no query": {"documents": [MARKER]},
    "no documents": {"query": MARKER, "documents": []},
    "numbers": {"query": MARKER, "documents": [1]},
    "too many documents": {"query": MARKER, "documents": [MARKER] * 1001},
    "no results": {"query": MARKER, "documents": [MARKER], "top_n": 0},
}
CASES = [
    pytest.param(path, body, id=f"{path}: {name}")
    for path, cases in (("/embed", WRONG_EMBED), ("/v1/embeddings", WRONG_OPENAI), ("/rerank", WRONG_RERANK))
    for name, body in cases.items()
]


async def problem_of(client: httpx.AsyncClient, response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem a response has to be, quoting nothing; the server still serves."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == PROBLEM_JSON
    problem = response.json()
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"] != ""
    assert problem["detail"]
    assert MARKER not in response.text
    assert (await client.post("/embed", json={"inputs": ["still here"]})).status_code == 200
    return problem


@pytest.mark.parametrize(("path", "body"), CASES)
async def test_what_is_not_understood_is_said(client: httpx.AsyncClient, path: str, body: Any) -> None:
    response = await client.post(path, json=body)

    problem = await problem_of(client, response, 422)

    assert problem["errors"]
    assert all(item["field"] and item["message"] for item in problem["errors"])


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"inputs": ["\\ud800"]}',
        b'{"inputs": ["\xed\xa0\x80"]}',
        b'{"inputs": [NaN]}',
        b"[" * 9999,
    ],
    ids=["half", "empty", "no UTF-8", "lone surrogate", "its bytes", "NaN", "deep"],
)
async def test_what_is_no_json_is_said(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/embed", content=content, headers={"content-type": "application/json"})

    await problem_of(client, response, 422 if content == b"" else 400)


async def test_another_media_type_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/embed", content=MARKER, headers={"content-type": "text/plain"})

    await problem_of(client, response, 415)


async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/embed", json={"inputs": [MARKER * 20_000] * 50})

    await problem_of(client, response, 413)


async def test_other_paths_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    await problem_of(client, await client.get(f"/{MARKER}"), 404)
    await problem_of(client, await client.get("/embed"), 405)


async def test_a_failed_run_is_a_problem(client: httpx.AsyncClient) -> None:
    response = await client.post("/embed", json={"inputs": [f"{POISON} {MARKER}"]})

    await problem_of(client, response, 503)
    assert response.headers["retry-after"]


async def test_an_error_nobody_foresaw_is_a_problem(
    client: httpx.AsyncClient, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = backend.split

    def broken(text: Any) -> Any:
        if MARKER in text:
            raise ZeroDivisionError(text)
        return original(text)

    monkeypatch.setattr(backend, "split", broken)

    await problem_of(client, await client.post("/embed", json={"inputs": [MARKER]}), 500)
