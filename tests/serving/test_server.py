"""The server as a process of its own: how it starts, what stops the start, how it ends."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.clients.embeddings.http import HttpEmbedder
from tests.serving.folders import CROSS_ENCODER, link_folder
from tests.serving.running import RunningServer, find_free_port, open_server

pytestmark = pytest.mark.slow

LINE = "The quick brown fox jumps over the lazy dog and runs through the forest until the night has come. " * 2


@pytest.fixture(scope="module")
def server(minilm_folder: Path) -> Iterator[RunningServer]:
    with open_server("--model", str(minilm_folder), "--normalize", "--device", "cpu") as opened:
        yield opened


def test_a_server_answers_and_says_what_it_is(server: RunningServer) -> None:
    found = httpx.post(f"{server.base_url}/embed", json={"inputs": ["a text"]}).json()
    info = httpx.get(f"{server.base_url}/info").json()

    assert (found["dim"], found["model"], found["normalised"]) == (384, "minilm", True)
    assert (info["backend"], info["max_tokens"], info["pooling"]) == ("onnx", 256, "mean")


def test_the_openai_client_gets_its_vectors(server: RunningServer) -> None:
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none")

    found = client.embeddings.create(model=client.models.list().data[0].id, input=["a cat", "the cat", "a bank"])

    cat, other, bank = (np.array(each.embedding) for each in found.data)
    assert cat @ other > cat @ bank + 0.2


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
async def test_the_service_s_own_client_gets_its_vectors(server: RunningServer, path: str) -> None:
    embedder = HttpEmbedder(server.base_url + path, dims=384)

    vectors = await embedder.embed(["a cat", "a bank"])

    assert embedder.space.model == "minilm"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    await embedder.aclose()


def test_what_it_accepted_is_answered_after_sigterm(minilm_folder: Path) -> None:
    limits = httpx.Limits(max_connections=60)
    with (
        open_server("--model", str(minilm_folder), "--device", "cpu") as server,
        httpx.Client(base_url=server.base_url, limits=limits, timeout=200) as client,
        ThreadPoolExecutor(50) as callers,
    ):

        def call(number: int) -> httpx.Response:
            return client.post("/embed", json={"inputs": [f"{number} {place} {LINE}" for place in range(12)]})

        answers = [callers.submit(call, number) for number in range(50)]
        _wait_for_requests(client, 50)
        unanswered = sum(not answer.done() for answer in answers)
        status = server.stop()

        assert unanswered >= 10
        assert [answer.result().status_code for answer in answers] == [200] * 50
        assert all(answer.result().json()["count"] == 12 for answer in answers)
        assert status == 0


def _wait_for_requests(client: httpx.Client, count: int) -> None:
    """Return when so many requests to `/embed` have come in, answered or not."""
    deadline = time.monotonic() + 60
    seen = 0.0
    while seen < count:
        assert time.monotonic() < deadline, f"only {seen} came in"
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = [each for family in families for each in family.samples]
        answered = sum(
            each.value for each in samples if each.name == "serve_requests_total" and each.labels["route"] == "/embed"
        )
        in_flight = next(each.value for each in samples if each.name == "serve_requests_in_flight")
        seen = answered + in_flight - 1  # without the one that asks


def test_flags_win_over_variables(minilm_folder: Path) -> None:
    port = find_free_port()
    env = {"SERVE_MODEL": str(CROSS_ENCODER), "SERVE_NORMALIZE": "1", "SERVE_BATCH_SIZE": "7", "SERVE_PORT": "1"}
    server = RunningServer("--model", str(minilm_folder), "--batch-size", "5", env=env, port=port)
    try:
        server.wait_until_listening()
        info = httpx.get(f"{server.base_url}/info").json()
    finally:
        server.kill()

    assert (info["model"], info["batch_size"], info["normalised"]) == ("minilm", 5, True)


def refusal_of(*flags: str, env: dict[str, str] | None = None, port: int | None = None) -> str:
    """The one line with which a start has to be refused."""
    server = RunningServer(*flags, env=env, port=port)
    try:
        status, errors = server.end()
    finally:
        server.kill()
    assert status == 2
    assert len(errors.splitlines()) == 1, errors
    return errors


def test_a_port_in_use_is_said_in_one_line(minilm_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert f"port {port}" in refusal_of("--model", str(minilm_folder), port=port)


def test_a_missing_file_is_said_in_one_line(minilm_folder: Path, tmp_path: Path) -> None:
    folder = link_folder(minilm_folder, tmp_path / "model")
    (folder / "tokenizer.json").unlink()

    assert "tokenizer.json is missing" in refusal_of("--model", str(folder))


def test_a_start_without_a_model_or_with_a_wrong_value_is_refused(minilm_folder: Path) -> None:
    assert "SERVE_MODEL" in refusal_of()
    assert "SERVE_BATCH_SIZE='many'" in refusal_of("--model", str(minilm_folder), "--batch-size", "many")
    assert "SERVE_DEVICE='tpu'" in refusal_of("--model", str(minilm_folder), env={"SERVE_DEVICE": "tpu"})
    assert "cuda" in refusal_of("--model", str(minilm_folder), "--device", "cuda:7").lower()
