"""`POST /v1/rerank`: what it takes, and in which order it answers."""

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.api import errors, rerank
from app.api.rerank import best_first


class FakeRanking:
    """Relevances by the documents' own numbers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.is_degraded = False

    async def rerank_texts(self, query: str, documents: Sequence[str]) -> tuple[list[float], str, bool]:
        self.asked.append((query, list(documents)))
        return [int(document.rsplit(" ", 1)[-1]) / 10 for document in documents], "a-model", self.is_degraded


class FakeKeys:
    """No key exists, or one that lacks the scope."""

    scopes: frozenset[str] | None = None

    async def has_any(self) -> bool:
        return self.scopes is not None

    async def authenticate(self, secret: str) -> Any:
        return SimpleNamespace(tenant_id="a", scopes=self.scopes, user_id=None)


@pytest.fixture
def ranking() -> FakeRanking:
    return FakeRanking()


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
async def client(ranking: FakeRanking, keys: FakeKeys) -> AsyncIterator[httpx2.AsyncClient]:
    """The room alone, with nothing behind it."""
    app = FastAPI()
    app.include_router(rerank.router)
    errors.install(app)
    app.state.services = SimpleNamespace(ranking=ranking, keys=keys)
    transport = httpx2.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as opened:
        yield opened


async def ask(client: httpx2.AsyncClient, **body: Any) -> Any:
    response = await client.post("/v1/rerank", json={"query": "q", **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_best_come_first_and_equals_in_their_order(client: httpx2.AsyncClient) -> None:
    answer = await ask(client, documents=["a 2", "b 9", "c 2", "d 9", "e 0"])

    assert answer == {
        "id": answer["id"],
        "model": "a-model",
        "results": [
            {"index": 1, "relevance_score": 0.9},
            {"index": 3, "relevance_score": 0.9},
            {"index": 0, "relevance_score": 0.2},
            {"index": 2, "relevance_score": 0.2},
            {"index": 4, "relevance_score": 0.0},
        ],
        "degraded": False,
    }


def test_equal_relevances_keep_their_order() -> None:
    assert best_first([0.5] * 1000) == list(range(1000))
    assert best_first([]) == []


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (3.0, 3), (3, 3), (1000, 3), (None, 3)])
async def test_top_n_is_how_many(client: httpx2.AsyncClient, top_n: float | None, count: int) -> None:
    answer = await ask(client, documents=["a 2", "b 9", "c 3"], top_n=top_n)

    assert [result["index"] for result in answer["results"]] == [1, 2, 0][:count]


async def test_documents_are_texts_or_objects_and_come_back_on_request(
    client: httpx2.AsyncClient, ranking: FakeRanking
) -> None:
    documents = ["a 2", {"text": "b 9", "title": "ignored", "id": 7}]

    answer = await ask(client, documents=documents, return_documents=True)

    assert ranking.asked == [("q", ["a 2", "b 9"])]
    assert [result["document"] for result in answer["results"]] == [{"text": "b 9"}, {"text": "a 2"}]


async def test_what_other_clients_send_is_accepted(client: httpx2.AsyncClient) -> None:
    """Any model, and fields that mean nothing here."""
    answer = await ask(
        client,
        documents=["a 2"],
        model="rerank-v3.5",
        max_tokens_per_doc=4096,
        rank_fields=["text"],
        truncation=True,
    )

    assert answer["model"] == "a-model"


async def test_a_stand_in_is_said(client: httpx2.AsyncClient, ranking: FakeRanking) -> None:
    ranking.is_degraded = True

    assert (await ask(client, documents=["a 2"]))["degraded"] is True


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"query": None}, "query"),
    "an empty query": ({"query": ""}, "query"),
    "a query too long": ({"query": "x" * 32_001}, "query"),
    "a NUL in the query": ({"query": "a\0"}, "query"),
    "no documents": ({"documents": []}, "documents"),
    "too many documents": ({"documents": ["a 1"] * 1001}, "documents"),
    "documents as one text": ({"documents": "a 1"}, "documents"),
    "a document that is a number": ({"documents": ["a 1", 2]}, "documents.1"),
    "an empty document": ({"documents": ["a 1", ""]}, "documents.1"),
    "a document too long": ({"documents": ["x" * 32_001]}, "documents.0"),
    "an object without text": ({"documents": [{"title": "a"}]}, "documents.0.text"),
    "an object with a number": ({"documents": [{"text": 1}]}, "documents.0.text"),
    "no result wanted": ({"top_n": 0}, "top_n"),
    "too many wanted": ({"top_n": 1001}, "top_n"),
    "a half wanted": ({"top_n": 1.5}, "top_n"),
    "a number as text": ({"top_n": "1"}, "top_n"),
    "a flag as text": ({"return_documents": "yes"}, "return_documents"),
    "a model that is none": ({"model": 1}, "model"),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_named(
    client: httpx2.AsyncClient, ranking: FakeRanking, change: dict[str, Any], field: str
) -> None:
    response = await client.post("/v1/rerank", json={"query": "q", "documents": ["a 1"]} | change)

    assert response.status_code == 422
    assert field in {item["field"] for item in response.json()["errors"]}
    assert ranking.asked == []


async def test_a_thousand_documents_are_taken(client: httpx2.AsyncClient) -> None:
    answer = await ask(client, documents=[f"d {number % 10}" for number in range(1000)])

    assert len({result["index"] for result in answer["results"]}) == 1000


@pytest.mark.parametrize(
    ("scopes", "headers", "status"),
    [
        (frozenset({"user"}), {}, 401),
        (frozenset({"admin"}), {"Authorization": "Bearer es_x"}, 403),
        (frozenset({"user"}), {"Authorization": "Bearer es_x"}, 200),
    ],
)
async def test_a_user_s_key_is_needed(
    client: httpx2.AsyncClient, keys: FakeKeys, scopes: frozenset[str], headers: dict[str, str], status: int
) -> None:
    keys.scopes = scopes

    response = await client.post("/v1/rerank", json={"query": "q", "documents": ["a 1"]}, headers=headers)

    assert response.status_code == status
