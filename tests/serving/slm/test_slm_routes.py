"""Chat and embeddings in one application: what is answered, what is refused, and one half without the other."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import ModelRefused
from serving.slm.main import create_slm_app
from serving.slm.settings import ChatSettings, SlmSettings, load_slm_settings
from tests.serving.fakes import FakeBackend
from tests.serving.running import PROBLEM_JSON
from tests.serving.slm.conftest import CHAT_MODEL

MARKER = "walrus-4711"
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Count from one to a hundred, in words."}]


@contextlib.asynccontextmanager
async def open_slm_client(settings: SlmSettings, backend: FakeBackend | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with this embedding model, or with one that is missing."""

    def open_embedding() -> FakeBackend:
        if backend is None:
            raise ModelRefused("the folder is not there")
        return backend

    app = create_slm_app(settings, open_embedding)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            client.app = app  # pyright: ignore[reportAttributeAccessIssue]
            yield client


def settings_for(gguf: Path | None, **chat: Any) -> SlmSettings:
    return load_slm_settings(models_dir=Path("/nowhere"), chat=ChatSettings(model_path=gguf, context=512, **chat))


@pytest.fixture(scope="module")
async def client(smollm2: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_slm_client(settings_for(smollm2, queue=1), FakeBackend()) as opened:
        yield opened


async def chat(client: httpx.AsyncClient, path: str = CHAT, **body: Any) -> httpx.Response:
    return await client.post(path, json={"messages": HELLO, "max_tokens": 6, "temperature": 0, **body})


@pytest.mark.parametrize("path", [CHAT, f"/api{CHAT}"])
async def test_a_chat_is_answered_in_openai_s_shape(client: httpx.AsyncClient, path: str) -> None:
    found = (await chat(client, path, model=CHAT_MODEL)).json()

    assert (found["object"], found["model"]) == ("chat.completion", CHAT_MODEL)
    assert found["choices"][0]["message"]["content"]
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 6
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + 6


async def test_seed_stop_schema_and_logprobs_go_through(client: httpx.AsyncClient) -> None:
    once = (await chat(client, seed=7, temperature=1.5)).json()
    again = (await chat(client, seed=7, temperature=1.5)).json()
    listed = (await chat(client, logprobs=True, top_logprobs=3, max_tokens=2)).json()
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    shaped = await chat(
        client, response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}, max_tokens=60
    )
    word = once["choices"][0]["message"]["content"].split()[-1]
    stopped = (await chat(client, seed=7, temperature=1.5, stop=word)).json()

    assert once["choices"] == again["choices"]
    assert [len(each["top_logprobs"]) for each in listed["choices"][0]["logprobs"]["content"]] == [3, 3]
    assert json.loads(shaped.json()["choices"][0]["message"]["content"]).keys() == {"ok"}
    assert word not in stopped["choices"][0]["message"]["content"]
    assert stopped["choices"][0]["finish_reason"] == "stop"


WRONG: dict[str, Any] = {
    "nothing": {},
    "no messages": {"messages": []},
    "a message that is a text": {"messages": [MARKER]},
    "another role": {"messages": [{"role": MARKER, "content": "a"}]},
    "a number for a text": {"messages": [{"role": "user", "content": 4711}]},
    "an image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": MARKER}}]}]},
    "NUL": {"messages": [{"role": "user", "content": f"{MARKER}\x00"}]},
    "1 MB": {"messages": [{"role": "user", "content": MARKER * 100_000}]},
    "more than the context": {"messages": [{"role": "user", "content": f"{MARKER} " * 2000}]},
    "a temperature in words": {"messages": HELLO, "temperature": MARKER},
    "no tokens": {"messages": HELLO, "max_tokens": 0},
    "stop as a number": {"messages": HELLO, "stop": 5},
    "another format": {"messages": HELLO, "response_format": {"type": MARKER}},
    "a format without its schema": {"messages": HELLO, "response_format": {"type": "json_schema"}},
    "a schema that is none": {
        "messages": HELLO,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": MARKER}}},
    },
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
async def test_what_is_not_understood_is_said_and_not_repeated(client: httpx.AsyncClient, body: Any) -> None:
    refused = await client.post(CHAT, json=body)

    assert refused.status_code == 422, refused.text
    assert refused.headers["content-type"] == PROBLEM_JSON
    assert all(item["field"] and item["message"] for item in refused.json()["errors"])
    assert MARKER not in refused.text
    assert (await chat(client, max_tokens=1)).status_code == 200


async def test_lone_surrogates_and_other_media_types_are_refused(client: httpx.AsyncClient) -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'

    as_json = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    as_text = await client.post(CHAT, content=body, headers={"content-type": "text/plain"})

    assert (as_json.status_code, as_text.status_code) == (400, 415)


@pytest.mark.parametrize(
    "texts",
    [[], ["a"] * 10_000, ["a" * 1_000_000], ["a\x00"], [1], [[1, 2]], {"a": 1}],
    ids=lambda each: str(each)[:12],
)
async def test_embeddings_refuse_bad_input_too(client: httpx.AsyncClient, texts: Any) -> None:
    refused = await client.post("/api/v1/embeddings", json={"input": texts})

    assert refused.status_code == 422
    assert refused.headers["content-type"] == PROBLEM_JSON


async def test_each_model_answers_to_its_own_name(client: httpx.AsyncClient) -> None:
    listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
    crossed = await chat(client, model="fake-model")
    other_way = await client.post("/v1/embeddings", json={"input": "a", "model": CHAT_MODEL})

    assert listed == [CHAT_MODEL, "fake-model"]
    assert (crossed.status_code, other_way.status_code) == (404, 404)
    assert CHAT_MODEL in crossed.json()["detail"]


async def test_both_halves_are_told(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    figures = (await client.get("/metrics")).text

    assert (info["chat"]["name"], info["embedding"]["name"]) == (CHAT_MODEL, "fake-model")
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    assert "serve_chat_ready 1.0" in figures
    assert "llamacpp:prompt_tokens_total" in figures


@pytest.mark.slow
async def test_a_full_queue_of_chats_is_429_and_embeddings_go_on(client: httpx.AsyncClient) -> None:
    waiting = [asyncio.create_task(chat(client, max_tokens=80)) for _ in range(2)]
    async with asyncio.timeout(10):
        while "serve_chats_in_flight 2.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.005)
    refused = await chat(client)
    embedded = await client.post("/v1/embeddings", json={"input": "a"})
    unanswered = sum(not each.done() for each in waiting)
    answered = await asyncio.gather(*waiting)

    assert unanswered == 2
    assert (refused.status_code, embedded.status_code) == (429, 200)
    assert int(refused.headers["retry-after"]) >= 1
    assert [each.status_code for each in answered] == [200, 200]
    assert "serve_chats_in_flight 0.0" in (await client.get("/metrics")).text


async def test_a_full_queue_of_embeddings_is_429_and_chat_goes_on(smollm2: Path) -> None:
    backend = FakeBackend()
    settings = load_slm_settings(
        models_dir=Path("/nowhere"), chat={"model_path": smollm2, "context": 512}, embedding={"queue_tokens": 40}
    )
    async with open_slm_client(settings, backend) as client:
        backend.gate.clear()
        accepted = asyncio.create_task(client.post("/v1/embeddings", json={"input": "word " * 30}))
        async with asyncio.timeout(10):
            while "serve_queued_tokens 30.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        refused = await client.post("/v1/embeddings", json={"input": "word " * 20})
        answered = await chat(client)
        backend.gate.set()

        assert (refused.status_code, answered.status_code) == (429, 200)
        assert (await accepted).status_code == 200


@pytest.mark.parametrize("given", [None, "missing.gguf", "damaged.gguf", "broken.gguf"])
async def test_without_a_chat_model_embeddings_are_served(tmp_path: Path, given: str | None) -> None:
    (tmp_path / "damaged.gguf").write_bytes(b"not a model")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    async with open_slm_client(settings_for(tmp_path / given if given else None), FakeBackend()) as client:
        unready = await client.get("/readyz")
        refused = await chat(client)
        embedded = await client.post("/v1/embeddings", json={"input": "a"})
        alive = await client.get("/healthz")

    assert (unready.status_code, refused.status_code, embedded.status_code) == (503, 503, 200)
    assert unready.json()["detail"].startswith("chat: ")
    assert "embedding" not in alive.json()["missing"]
    assert refused.json()["detail"] == alive.json()["missing"]["chat"]
    assert (given or "CHAT__MODEL_PATH") in refused.json()["detail"]
    assert refused.headers["retry-after"]


async def test_without_an_embedding_model_chat_is_served(smollm2: Path) -> None:
    async with open_slm_client(settings_for(smollm2), None) as client:
        unready = await client.get("/readyz")
        refused = await client.post("/v1/embeddings", json={"input": "a"})
        answered = await chat(client)

    assert (unready.status_code, refused.status_code, answered.status_code) == (503, 503, 200)
    assert unready.json()["detail"] == "embedding: the folder is not there"


async def test_when_the_chat_s_server_has_died_embeddings_go_on(smollm2: Path) -> None:
    async with open_slm_client(settings_for(smollm2), FakeBackend()) as client:
        assert (await chat(client)).status_code == 200
        client.app.state.chat._server = None  # pyright: ignore[reportAttributeAccessIssue] - ends llama.cpp's threads

        refused = await chat(client)
        unready = await client.get("/readyz")
        embedded = await client.post("/v1/embeddings", json={"input": "a"})

    assert (refused.status_code, unready.status_code, embedded.status_code) == (503, 503, 200)
    assert "does not answer" in refused.json()["detail"]
    assert refused.headers["retry-after"]
