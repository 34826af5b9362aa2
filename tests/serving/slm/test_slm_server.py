"""The SLM server as a process of its own, with both real models: what clients see, how it starts and ends."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from app.clients.embeddings.http import HttpEmbedder
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from tests.serving.slm.conftest import CHAT_MODEL
from tests.serving.slm.running import RunningSlm, open_slm

pytestmark = pytest.mark.slow

COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from one to a hundred, in words."}]
SYSTEM = "You are the assistant of a bakery. You know its bread, its cakes, its prices and its opening hours. " * 12


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[RunningSlm]:
    with open_slm(models_dir) as opened:
        yield opened


@pytest.fixture(scope="module", params=["/v1", "/api/v1"])
def client(server: RunningSlm, request: pytest.FixtureRequest) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url + request.param, api_key="none", max_retries=0, timeout=120)


def chats_in_flight(server: RunningSlm) -> int:
    text = httpx.get(f"{server.base_url}/metrics").text
    return int(float(text.split("\nserve_chats_in_flight ")[1].split("\n")[0]))


def until_no_chat(server: RunningSlm, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while chats_in_flight(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_openai_client_chats_and_embeds(client: openai.OpenAI) -> None:
    chat, embedding = (each.id for each in client.models.list().data)

    answer = client.chat.completions.create(model=chat, messages=COUNT, max_tokens=12, temperature=0)
    found = client.embeddings.create(model=embedding, input=["a cat", "the cat", "a bank"])

    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.completion_tokens == 12
    cat, other, bank = (np.array(each.embedding) for each in found.data)
    assert cat @ other > cat @ bank + 0.2
    np.testing.assert_allclose(np.linalg.norm(cat), 1, atol=1e-5)


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT_MODEL, messages=COUNT, max_tokens=24, temperature=0)
    stream = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=COUNT,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )

    chunks = list(stream)

    texts = [each.choices[0].delta.content for each in chunks if each.choices]
    assert "".join(text or "" for text in texts) == whole.choices[0].message.content
    assert len(texts) > 10
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 24


def test_embeddings_are_answered_while_a_chat_streams(server: RunningSlm, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT_MODEL, messages=COUNT, max_tokens=120, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    ended = threading.Event()

    def read() -> None:
        for _ in stream:
            pass
        ended.set()

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        for number in range(10):
            client.embeddings.create(model="all-MiniLM-L6-v2", input=f"text number {number}")
        assert not ended.is_set()
        assert chats_in_flight(server) == 1
        reading.result()


def test_the_second_turn_s_prefill_is_short_although_embeddings_ran_between(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Do you have rye bread?"}]
    first = client.chat.completions.create(model=CHAT_MODEL, messages=messages, max_tokens=16, temperature=0)
    for number in range(20):
        client.embeddings.create(model="all-MiniLM-L6-v2", input=[f"text {number} " * 50] * 4)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And how much is it?"},
    ]
    second = client.chat.completions.create(model=CHAT_MODEL, messages=messages, max_tokens=4, temperature=0)

    assert first.usage
    assert second.usage
    assert second.usage.prompt_tokens_details
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert first.usage.prompt_tokens > 200
    assert cached >= first.usage.prompt_tokens
    assert second.model_dump()["timings"]["prompt_n"] == second.usage.prompt_tokens - cached < 60


def test_an_answer_ends_when_its_reader_is_gone(server: RunningSlm) -> None:
    body = {"messages": COUNT, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{server.base_url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        assert chats_in_flight(server) == 1
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/v1/chat/completions", json={**body, "stream": False}, timeout=1)

    until_no_chat(server)
    started = time.monotonic()
    answer = httpx.post(f"{server.base_url}/v1/chat/completions", json={"messages": COUNT, "max_tokens": 1}, timeout=60)
    assert answer.status_code == 200
    assert time.monotonic() - started < 15  # 1,500 tokens would take longer


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads a niceness each")
def test_the_chat_s_threads_stand_back(server: RunningSlm) -> None:
    niceness = {
        int((task / "stat").read_text().rpartition(")")[2].split()[16])
        for task in Path(f"/proc/{server.process.pid}/task").iterdir()
    }

    own = os.getpriority(os.PRIO_PROCESS, server.process.pid)
    assert niceness == {own, min(own + 10, 19)}


async def test_the_service_s_own_clients_are_answered(server: RunningSlm) -> None:
    embedder = HttpEmbedder(f"{server.base_url}/embed", dims=384)
    slm = VLLMClient(f"{server.base_url}/v1", name="openai", limits=Limits(budget_s=60))

    vectors = await embedder.embed(["a cat", "a bank"])
    summary = await slm.summarize("The bakery opens at seven. It sells rye bread and cakes.", 30)

    assert embedder.space.model == "all-MiniLM-L6-v2"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert slm.model == CHAT_MODEL
    assert summary
    await embedder.aclose()
    await slm.aclose()


def test_what_it_accepted_is_answered_after_sigterm(models_dir: Path) -> None:
    with open_slm(models_dir) as server, ThreadPoolExecutor(3) as callers:
        body = {"messages": COUNT, "max_tokens": 60, "ignore_eos": True}

        def ask() -> httpx.Response:
            return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=60)

        def embed() -> httpx.Response:
            texts = ["word " * 200] * 60
            return httpx.post(f"{server.base_url}/v1/embeddings", json={"input": texts}, timeout=60)

        answers = [callers.submit(ask), callers.submit(ask), callers.submit(embed)]
        deadline = time.monotonic() + 20
        while chats_in_flight(server) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status = server.stop()

        assert [each.result().status_code for each in answers] == [200, 200, 200]
        assert answers[0].result().json()["usage"]["completion_tokens"] == 60
        assert status == 0


def refusal_of(port: int | None = None, **settings: str) -> str:
    """The one line with which a start has to be refused."""
    server = RunningSlm(settings, port)
    try:
        status, errors = server.end()
    finally:
        server.kill()
    assert status == 2
    assert len(errors.splitlines()) == 1, errors
    return errors


def test_what_prevents_a_start_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert f"port {port}" in refusal_of(port)
    assert "EMBEDDING__BACKEND='tensorrt'" in refusal_of(EMBEDDING__BACKEND="tensorrt")
    assert "HOST=nowhere.invalid" in refusal_of(HOST="nowhere.invalid")
