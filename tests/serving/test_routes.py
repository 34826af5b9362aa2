"""What the server answers, in its own shape and in others'."""

import base64
import inspect
from pathlib import Path
from typing import Any

import httpx
import httpx2
import numpy as np
import openai
import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from serving.api import embeddings, operations, rerank
from serving.backends import open_backend
from serving.main import create_app
from serving.settings import ServeSettings
from tests.serving.fakes import MAX_TOKENS, FakeBackend
from tests.serving.folders import CROSS_ENCODER
from tests.serving.running import open_client

LONG = "word " * (MAX_TOKENS + 1)


async def embedded(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/embed", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_embed_answers_in_the_shape_of_the_contract(client: httpx.AsyncClient) -> None:
    found = await embedded(client, inputs=["one text", "another one"])

    assert found.keys() >= {"embeddings", "count", "dim", "backend", "normalised", "model"}
    assert (found["count"], found["dim"], found["backend"]) == (2, 16, "fake")
    assert (found["normalised"], found["model"]) == (False, "fake-model")
    assert np.array(found["embeddings"]).shape == (2, 16)
    assert (found["tokens"], found["truncated"]) == (4, 0)


async def test_unit_vectors_are_made_where_they_are_asked_for(client: httpx.AsyncClient) -> None:
    raw = await embedded(client, inputs=["one text"], normalise=False)
    unit = await embedded(client, inputs=["one text"], normalise=True)

    raw_vector, unit_vector = np.array(raw["embeddings"][0]), np.array(unit["embeddings"][0])
    assert (raw["normalised"], unit["normalised"]) == (False, True)
    assert abs(np.linalg.norm(raw_vector) - 1) > 0.1
    np.testing.assert_allclose(raw_vector / np.linalg.norm(raw_vector), unit_vector, atol=1e-6)


async def test_a_server_started_to_normalise_does_so_unless_a_request_says_no(backend: FakeBackend) -> None:
    async with open_client(lambda: backend, ServeSettings(_env_file=None, normalize=True)) as client:
        assert (await embedded(client, inputs=["a"]))["normalised"] is True
        assert (await embedded(client, inputs=["a"], normalise=False))["normalised"] is False
        assert (await client.get("/info")).json()["normalised"] is True


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/v1/embeddings"])
async def test_openai_embeddings_as_numbers_and_as_base64(client: httpx.AsyncClient, path: str) -> None:
    as_floats = (await client.post(path, json={"input": ["one text", "b"], "model": "fake-model"})).json()
    as_base64 = (await client.post(path, json={"input": ["one text", "b"], "encoding_format": "base64"})).json()

    assert (as_floats["object"], as_floats["model"]) == ("list", "fake-model")
    assert [each["index"] for each in as_floats["data"]] == [0, 1]
    assert as_floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for row, other in zip(as_floats["data"], as_base64["data"], strict=True):
        decoded = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        np.testing.assert_array_equal(decoded, np.array(row["embedding"], np.float32))


async def test_vectors_are_shortened_to_lengths_the_model_was_trained_for(client: httpx.AsyncClient) -> None:
    full = (await client.post("/v1/embeddings", json={"input": "text"})).json()["data"][0]["embedding"]
    short = (await client.post("/v1/embeddings", json={"input": "text", "dimensions": 4})).json()["data"][0]
    refused = await client.post("/v1/embeddings", json={"input": "text", "dimensions": 5})

    assert short["embedding"] == full[:4]
    assert refused.status_code == 422
    assert refused.json()["errors"] == [{"field": "dimensions", "message": refused.json()["detail"]}]


async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient) -> None:
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/rerank", {"query": "a", "documents": ["b"]})):
        response = await client.post(path, json={**body, "model": "text-embedding-3-small"})
        assert response.status_code == 404
        assert "fake-model" in response.json()["detail"]


async def test_what_is_cut_is_counted_or_refused(client: httpx.AsyncClient) -> None:
    cut = await embedded(client, inputs=["short", LONG])
    openais = (await client.post("/v1/embeddings", json={"input": LONG})).json()
    refused = await client.post("/embed", json={"inputs": ["short", LONG], "truncate": False})

    assert (cut["truncated"], cut["tokens"]) == (1, 1 + MAX_TOKENS)
    assert (openais["truncated"], openais["usage"]["total_tokens"]) == (1, MAX_TOKENS)
    assert refused.status_code == 422
    assert "number 1" in refused.json()["detail"]
    assert "word" not in refused.text


async def test_the_model_s_own_prompts_are_put_before_a_text(client: httpx.AsyncClient) -> None:
    prompted = await embedded(client, inputs=["text"], prompt_name="query")
    unknown = await client.post("/embed", json={"inputs": ["text"], "prompt_name": "nonsense-4711"})

    assert prompted["embeddings"] == (await embedded(client, inputs=["query: text"]))["embeddings"]
    assert unknown.status_code == 422
    assert "document, query" in unknown.json()["detail"]
    assert "4711" not in unknown.text


async def test_reranking_by_cosine_where_the_model_embeds(client: httpx.AsyncClient) -> None:
    body = {"query": "one text", "documents": ["other", {"text": "one text"}, "third"], "top_n": 2}
    found = (await client.post("/rerank", json={**body, "return_documents": True})).json()

    assert found["results"][0]["index"] == 1
    assert len(found["results"]) == 2
    assert found["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-6)
    assert found["results"][0]["document"] == {"text": "one text"}
    assert (await client.get("/info")).json()["rerank"] == "cosine of embeddings"


async def test_reranking_by_a_cross_encoder() -> None:
    settings = ServeSettings(_env_file=None, model=CROSS_ENCODER, device="cpu")
    documents = ["a cat", "a much longer document about nothing", "b"]
    async with open_client(lambda: open_backend(settings), settings) as client:
        found = (await client.post("/v1/rerank", json={"query": "a cat?", "documents": documents})).json()
        info = (await client.get("/info")).json()
        no_vectors = await client.post("/embed", json={"inputs": ["a"]})

    backend = open_backend(settings)
    logits = np.concatenate([backend.run([backend.split(("a cat?", text)).ids]) for text in documents])[:, 0]
    expected = 1 / (1 + np.exp(-logits))
    scores = {each["index"]: each["relevance_score"] for each in found["results"]}
    np.testing.assert_allclose([scores[place] for place in range(3)], expected, atol=1e-5)
    assert [each["index"] for each in found["results"]] == np.argsort(-expected).tolist()
    assert info["rerank"] == "cross-encoder"
    assert no_vectors.status_code == 404


async def test_what_is_served_is_told(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()

    assert (info["model"], info["dim"], info["device"], info["precision"]) == ("fake-model", 16, "cpu", "float")
    assert (await client.get("/healthz")).json() == {"status": "ok", "model": "ready"}
    assert (await client.get("/readyz")).status_code == 200
    assert [each["id"] for each in (await client.get("/v1/models")).json()["data"]] == ["fake-model"]


async def test_metrics_are_in_prometheus_form_and_count(client: httpx.AsyncClient) -> None:
    await embedded(client, inputs=["one text", LONG])
    await client.post("/embed", json={"inputs": []})

    families = text_string_to_metric_families((await client.get("/metrics")).text)
    samples = {(each.name, *sorted(each.labels.values())): each.value for family in families for each in family.samples}

    assert samples[("serve_requests_total", "/embed", "200", "POST")] == 1
    assert samples[("serve_requests_total", "/embed", "422", "POST")] == 1
    assert samples[("serve_texts_total",)] == 2
    assert samples[("serve_tokens_total",)] == 2 + MAX_TOKENS
    assert samples[("serve_truncated_texts_total",)] == 1
    assert samples[("serve_run_seconds_count",)] >= 1
    assert (samples[("serve_ready",)], samples[("serve_queued_tokens",)]) == (1, 0)
    assert samples[("serve_requests_in_flight",)] == 1  # the one that asks


async def test_the_openai_client_gets_its_vectors(minilm_folder: Path) -> None:
    settings = ServeSettings(_env_file=None, model=minilm_folder, device="cpu")
    app = create_app(lambda: open_backend(settings), settings)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as transport:
        client = openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=transport)
        plain = await client.embeddings.create(model="minilm", input=["a cat", "a bank"], encoding_format="float")
        usual = await client.embeddings.create(model="minilm", input=["a cat", "a bank"])
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="another", input="a")
        with pytest.raises(openai.UnprocessableEntityError):
            await client.embeddings.create(model="minilm", input="a", dimensions=100)
        listed = [each.id async for each in client.models.list()]

    for one, other in zip(plain.data, usual.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-7)
    assert np.linalg.norm(plain.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert usual.usage.prompt_tokens == 8
    assert listed == ["minilm"]


def test_no_part_of_a_request_waits_for_a_thread() -> None:
    app = create_app(FakeBackend, ServeSettings(_env_file=None))
    routes = [each for router in (embeddings.router, rerank.router, operations.router) for each in router.routes]
    called = [
        call
        for route in routes
        if isinstance(route, APIRoute)
        for call in (route.endpoint, *(each.call for each in route.dependant.dependencies))
    ]

    assert len(routes) == len(app.openapi()["paths"])
    assert len(called) > len(routes)
    assert [call for call in called if not inspect.iscoroutinefunction(call)] == []
