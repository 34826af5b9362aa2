"""Chat and embeddings of one runtime over HTTP: what is answered, what is refused, and what a failure looks like."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import serving.runtime
from serving.errors import ModelRefused
from serving.golden import write_golden
from serving.llm2vec.main import create_llm2vec_app
from serving.llm2vec.settings import load_runtime_settings
from serving.runtime import UnifiedLLMRuntime
from serving.settings import ServeSettings
from tests.serving.llm2vec.fakes import FakeWeights
from tests.serving.running import PROBLEM_JSON

CHAT = "/v1/chat/completions"
NAME = "fake-checkpoint"
MARKER = "walrus-4711"


@contextlib.asynccontextmanager
async def open_app(folder: Path, serve: ServeSettings | None = None, **model: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application on the folder."""
    runtime = UnifiedLLMRuntime(folder, load_runtime_settings(device="cpu", **model))
    app = create_llm2vec_app(runtime, serve or ServeSettings(_env_file=None))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            client.app = app  # pyright: ignore[reportAttributeAccessIssue]
            yield client


@pytest.fixture
async def client(fake_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_app(fake_folder, queue=1) as opened:
        yield opened


@pytest.fixture
def gate() -> Any:
    """The gate that every step and run of the model waits at, open in the end."""
    yield FakeWeights.gate_of_all
    FakeWeights.gate_of_all.set()


async def chat(client: httpx.AsyncClient, path: str = CHAT, content: Any = "one 7", **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": content}]
    return await client.post(path, json={"messages": messages, "max_tokens": 3, "temperature": 0, **body})


def chunks(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("path", [CHAT, f"/api{CHAT}"])
async def test_a_chat_is_answered_in_openai_s_shape(client: httpx.AsyncClient, path: str) -> None:
    found = (await chat(client, path, model=NAME)).json()

    assert (found["object"], found["model"]) == ("chat.completion", NAME)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "8 9 10"}
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


async def test_a_streamed_chat_is_the_same_in_pieces(client: httpx.AsyncClient) -> None:
    response = await chat(client, stream=True, stream_options={"include_usage": True})

    assert response.headers["content-type"].startswith("text/event-stream")
    events = chunks(response.text)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(each.get("content", "") for each in deltas) == "8 9 10"
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert len({event["id"] for event in events}) == 1
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_told_with_their_probabilities(client: httpx.AsyncClient, stream: bool) -> None:
    response = await chat(client, logprobs=True, stream=stream)

    events = chunks(response.text) if stream else [response.json()]
    told = [item for event in events for item in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert "".join(each["token"] for each in told) == "8 9 10"
    assert [bytes(each["bytes"]).decode() for each in told] == [each["token"] for each in told]
    expected = math.log(math.e**2 / (math.e**2 + 99))
    assert [each["logprob"] for each in told] == pytest.approx([expected] * 3, abs=1e-5)


async def test_content_in_parts_and_stop_texts_are_understood(client: httpx.AsyncClient) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " 7"}]

    found = (await chat(client, content=parts, max_tokens=20, stop="11")).json()

    assert found["choices"][0]["message"]["content"] == "8 9 10 "
    assert found["choices"][0]["finish_reason"] == "stop"


async def test_embeddings_are_the_runtime_s(client: httpx.AsyncClient) -> None:
    texts = ["where is the lamp", "on the table"]

    ours = (await client.post("/embed", json={"inputs": texts})).json()
    raw = (await client.post("/embed", json={"inputs": texts, "normalise": False})).json()
    theirs = (await client.post("/v1/embeddings", json={"input": texts, "model": NAME})).json()

    runtime = client.app.state.runtime  # pyright: ignore[reportAttributeAccessIssue]
    told = {key: ours[key] for key in ("count", "dim", "backend", "normalised", "model")}
    assert told == {"count": 2, "dim": 16, "backend": "fake", "normalised": True, "model": NAME}
    assert ours["embeddings"] == pytest.approx(runtime.embed(texts), abs=1e-6)
    assert [each["embedding"] for each in theirs["data"]] == ours["embeddings"]
    assert raw["embeddings"] == pytest.approx(runtime.embed(texts, normalise=False), abs=1e-6)


async def test_serve_normalize_goes_before_the_manifest(fake_folder: Path) -> None:
    async with open_app(fake_folder, ServeSettings(_env_file=None, normalize=False)) as client:
        assert (await client.post("/embed", json={"inputs": ["a"]})).json()["normalised"] is False


@pytest.mark.parametrize(("factor", "status"), [(1, 200), (-1, 503)])
async def test_golden_vectors_are_checked(fake_folder: Path, factor: int, status: int) -> None:
    runtime = UnifiedLLMRuntime(fake_folder)
    (fake_folder / "merged").mkdir()
    write_golden(fake_folder / "merged", ["where is the lamp"], factor * runtime.embed(["where is the lamp"]))
    runtime.close()

    async with open_app(fake_folder) as client:
        answer = await client.post("/embed", json={"inputs": ["a"]})

    assert answer.status_code == status
    assert status == 200 or "golden" in answer.json()["detail"]


async def test_one_model_is_listed_and_described(client: httpx.AsyncClient) -> None:
    assert [each["id"] for each in (await client.get("/v1/models")).json()["data"]] == [NAME]
    assert (await client.get("/info")).json()["dim"] == 16
    assert "serve_chats_in_flight 0.0" in (await client.get("/metrics")).text


async def test_first_requests_of_all_kinds_share_one_load(client: httpx.AsyncClient) -> None:
    before = (await client.get("/healthz")).json()
    embeds = [client.post("/embed", json={"inputs": ["a"]}) for _ in range(8)]
    found = await asyncio.gather(chat(client), chat(client), *embeds)

    assert [each.status_code for each in found] == [200] * 10
    assert (before["model"], FakeWeights.loads) == ("loading", 1)
    assert (await client.get("/healthz")).json()["model"] == "ready"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ({"n": 2}, "n:"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "say two things"),
        ({"messages": [{"role": "assistant", "content": MARKER}]}, "template"),
        ({"messages": []}, "at least 1 item"),
        ({"messages": [{"role": "user", "content": f"{MARKER} " * 70}]}, "tokens and the model reads 64"),
        ({"temperature": -1}, "greater than or equal to 0"),
    ],
)
async def test_what_would_mislead_is_refused_by_its_name(client: httpx.AsyncClient, body: Any, said: str) -> None:
    refused = await chat(client, **body)

    assert (refused.status_code, refused.headers["content-type"]) == (422, PROBLEM_JSON)
    assert said in str(refused.json()["errors"])
    assert MARKER not in refused.text


async def test_what_asks_for_nothing_is_taken(client: httpx.AsyncClient) -> None:
    extras = {"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}, "presence_penalty": 0.0}

    assert (await chat(client, **extras, user="ada", frequency_penalty=None)).status_code == 200


async def test_another_model_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await chat(client, model="gpt-4")).status_code == 404


async def test_a_failing_model_is_a_problem_without_the_user_s_words(client: httpx.AsyncClient) -> None:
    failed = await chat(client, content=f"{MARKER} poison")
    streamed = await chat(client, content="poison", stream=True)
    embedded = await client.post("/embed", json={"inputs": [f"{MARKER} poison"]})

    for each in (failed, streamed, embedded):
        assert (each.status_code, each.headers["content-type"]) == (503, PROBLEM_JSON)
        assert each.json()["type"].endswith("model-unavailable")
        assert each.headers["retry-after"]
        assert MARKER not in each.text
    assert (await chat(client)).status_code == 200


async def test_a_stream_that_fails_midway_ends_with_an_error(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeWeights.step

    def step(self: FakeWeights, tokens: Any, cache: Any) -> Any:
        return real(self, [2] if len(cache or []) > 4 else tokens, cache)

    monkeypatch.setattr(FakeWeights, "step", step)

    response = await chat(client, stream=True, max_tokens=9)

    assert response.status_code == 200
    assert chunks(response.text)[-1]["error"]["code"] == 503
    assert "[DONE]" not in response.text


async def test_weights_that_cannot_be_loaded_are_a_problem_until_they_can(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ModelRefused("the weights in merged cannot be loaded: they are cut off")

    with monkeypatch.context() as broken:
        broken.setattr(serving.runtime, "Weights", refuse)
        failed = await chat(client), await client.post("/embed", json={"inputs": ["a"]})
        health = (await client.get("/readyz")).json()

    for each in failed:
        assert (each.status_code, each.headers["content-type"]) == (503, PROBLEM_JSON)
        assert "they are cut off" in each.json()["detail"]
    assert "they are cut off" in health["detail"]
    monkeypatch.setattr(serving.runtime, "RETRY_S", 0)
    assert (await chat(client)).status_code == 200


async def test_chats_take_turns_and_too_many_are_refused(client: httpx.AsyncClient, gate: Any) -> None:
    await chat(client)
    gate.clear()
    first, second = (asyncio.create_task(chat(client)) for _ in range(2))
    await asyncio.sleep(0.1)

    refused = await chat(client)
    gate.set()

    assert (refused.status_code, (await first).status_code, (await second).status_code) == (429, 200, 200)
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_caller_who_hangs_up_frees_the_place(client: httpx.AsyncClient, gate: Any) -> None:
    await chat(client)
    gate.clear()
    given_up = [asyncio.create_task(chat(client, max_tokens=50)) for _ in range(2)]
    await asyncio.sleep(0.1)
    for each in given_up:
        each.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    gate.set()

    found = await asyncio.gather(chat(client), chat(client))

    assert [each.status_code for each in found] == [200, 200]
    assert client.app.state.chats.in_flight == 0  # pyright: ignore[reportAttributeAccessIssue]


async def test_events_carry_counts_and_no_words(client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    await client.post("/embed", json={"inputs": [f"{MARKER} lamp"]})
    await client.post(
        CHAT,
        json={"messages": [{"role": "user", "content": MARKER}], "max_tokens": 2},
        headers={"X-Request-ID": "r-77"},
    )

    said = capsys.readouterr().out
    for event in ("llm_runtime_load", "llm_embed", "llm_generate"):
        assert event in said
    assert "r-77" in said
    assert "completion_tokens" in said
    assert MARKER not in said
