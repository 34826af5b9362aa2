"""One checkpoint behind the whole service: its memories are searched, and its judgements made, by the same weights."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from tests.e2e.running import open_service
from tests.serving.llm2vec.checkpoints import write_smollm2
from tests.serving.running import PROBLEM_JSON, ROOT, RunningServer, find_free_port
from tests.vllm_server import unpack_model

pytestmark = [pytest.mark.llm2vec, pytest.mark.timeout(900)]

SCRIPT = ROOT / "scripts" / "run_llm2vec_service.py"
PYTHON = ROOT / os.environ.get("EMBED_VENV", "venv-embed") / "bin/python"
MEMORIES = [
    "I am allergic to peanuts and shellfish",
    "My daughter plays the violin in the school orchestra",
    "Our database has to stay in the EU",
    "I write my services in Python with FastAPI",
]


class RunningLlm2vec(RunningServer):
    """scripts/run_llm2vec_service.py as a process of its own, in the environment that has torch."""

    def __init__(self, folder: Path, log: Path, **settings: str) -> None:
        """Starts it, on a free port."""
        self.port = find_free_port()
        self.log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "MODEL_"))}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [PYTHON, SCRIPT, "--model-dir", folder, "--port", str(self.port), "--device", "cpu"],
                env={**kept, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events it has logged by a name, oldest first."""
        lines = (line for line in self.log.read_text("utf8").splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event["event"] == name]


@contextlib.contextmanager
def open_llm2vec(folder: Path, log: Path, **settings: str) -> Iterator[RunningLlm2vec]:
    server = RunningLlm2vec(folder, log, **settings)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not there: run make train-deps")
    unpack_model()
    return write_smollm2(tmp_path_factory.mktemp("llm2vec") / "smollm2")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningLlm2vec]:
    with open_llm2vec(folder, folder.with_suffix(".log"), MODEL__THREADS="1") as opened:
        yield opened


def test_the_openai_client_chats_streams_and_embeds(server: RunningLlm2vec) -> None:
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, timeout=120)
    (model,) = (each.id for each in client.models.list().data)
    hello: Any = [{"role": "user", "content": "Say hello."}]

    whole = client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=0)
    pieces = client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=0, stream=True)
    vectors = client.embeddings.create(model=model, input=MEMORIES)

    assert whole.choices[0].message.content
    assert "".join(each.choices[0].delta.content or "" for each in pieces) == whole.choices[0].message.content
    assert np.array([each.embedding for each in vectors.data]).shape == (len(MEMORIES), 576)
    assert len([each for each in server.events("llm_runtime_load") if each["role"] == "chat and embedding"]) == 1
    assert server.events("llm_generate")[-1]["completion_tokens"] == 12
    assert server.events("llm_embed")[-1]["device"] == "cpu"


def test_memories_are_added_and_searched_by_the_checkpoint_s_vectors(server: RunningLlm2vec) -> None:
    settings = {"EMBED_ENDPOINT": f"{server.base_url}/embed"}
    with open_service(settings) as service, service.client() as http:
        kept = [{"type": "PROFILE", "content": each} for each in MEMORIES]
        added = http.post("/v1/memories", json={"user_id": "ada", "memories": kept})
        weights = {"similarity": 1, "recency": 0, "confidence": 0}
        query = {"user_id": "ada", "query": MEMORIES[1], "limit": 4, "weights": weights}
        found = http.post("/v1/memories/search", json=query).json()

    assert added.status_code in {200, 201}, added.text
    assert found["results"][0]["memory"]["content"] == MEMORIES[1]
    assert found["space"]["model"] == "smollm2" if isinstance(found["space"], dict) else "smollm2" in found["space"]
    body = {"inputs": MEMORIES, "normalise": True}
    vectors = np.array(httpx.post(f"{server.base_url}/embed", json=body, timeout=60).json()["embeddings"])
    cosines = dict(zip(MEMORIES, vectors @ vectors[1], strict=True))
    for each in found["results"]:
        assert each["parts"]["cosine"] == pytest.approx(cosines[each["memory"]["content"]], abs=5e-3)


async def test_the_service_s_client_has_its_judgements_from_it(server: RunningLlm2vec) -> None:
    client = VLLMClient(f"{server.base_url}/v1", name="openai", limits=Limits(budget_s=300.0))

    said = await client.summarize("The boat lies beside the river, and the lamp is on the table.", 24)

    moved = await client.compute_facet_updates({"comment": "too long, be brief"})

    assert said
    assert client.model == "smollm2"
    assert set(moved) <= {"concise", "formal", "code_first", "step_by_step"}
    assert [each["finish_reason"] for each in server.events("llm_generate")][-1] == "stop"
    await client.aclose()


def test_a_runtime_that_fails_is_a_problem_and_the_service_answers_without_it(folder: Path, tmp_path: Path) -> None:
    broken = write_smollm2(tmp_path / "broken")
    weights = broken / "merged" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1000])

    with open_llm2vec(broken, tmp_path / "broken.log") as server:
        body = {"messages": [{"role": "user", "content": "walrus-4711"}]}
        failed = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=120)
        settings = {"SLM_IMPL": "openai", "SLM_BASE_URL": f"{server.base_url}/v1", "REQUEST_BUDGET_S": "60"}
        with open_service(settings) as service, service.client() as http:
            asked = http.post("/v1/hypothesize", json={"user_id": "ada", "input_text": "build api"})
        log = server.log.read_text("utf8")

    assert (failed.status_code, failed.headers["content-type"]) == (503, PROBLEM_JSON)
    assert "cannot be loaded" in failed.json()["detail"]
    assert asked.status_code == 200
    assert (asked.json()["source"], asked.json()["degraded"]) == ("local", True)
    assert asked.json()["hypotheses"]
    assert "walrus-4711" not in failed.text + log


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model-dir", "/nowhere"), "/nowhere is not a folder"),
        (("--model-dir", "{folder}", "--device", "tpu"), "MODEL__DEVICE='tpu' is not usable"),
        (("--model-dir", "{folder}", "--port", "70000"), "SERVE_PORT='70000' is not usable"),
        (("--model-dir", "{folder}/merged"), "has no manifest"),
    ],
)
def test_what_it_cannot_start_with_is_one_line(folder: Path, flags: tuple[str, ...], said: str) -> None:
    given = [each.format(folder=folder) for each in flags]

    done = subprocess.run([PYTHON, SCRIPT, *given], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
