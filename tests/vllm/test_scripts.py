"""What ./start_vllm.sh promises of the server that it starts, seen on the real one."""

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.vllm_server import ROOT, VllmServer, start_environment


@pytest.fixture
def http(vllm_server: VllmServer) -> httpx.Client:
    """A client of the server; paths begin after /v1."""
    return httpx.Client(base_url=vllm_server.base_url, timeout=120)


def chat(http: httpx.Client, model: str, text: str, **more: object) -> dict[str, object]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **more}
    return http.post("/chat/completions", json=body).raise_for_status().json()


def said(answer: dict[str, object]) -> str:
    return answer["choices"][0]["message"]["content"]  # type: ignore[index]


def test_the_model_is_served_under_exactly_the_name_given(http: httpx.Client, vllm_server: VllmServer) -> None:
    served = http.get("/models").raise_for_status().json()["data"]
    assert vllm_server.model in [model["id"] for model in served]
    assert "Paris" in said(chat(http, vllm_server.model, "What is the capital of France?"))


def test_json_schema_binds_the_answer(http: httpx.Client, vllm_server: VllmServer) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["glad", "sad"]}, "degree": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["mood", "degree"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}}
    text = said(chat(http, vllm_server.model, "I won the lottery!", response_format=response_format, max_tokens=60))
    answer = json.loads(text)
    assert answer["mood"] in ("glad", "sad")
    assert answer["degree"] in range(10)
    assert len(text) < 40, "no white space to run on for ever"


def test_usage_tells_which_tokens_were_cached(http: httpx.Client, vllm_server: VllmServer) -> None:
    long = "The quick brown fox jumps over the lazy dog. " * 40
    chat(http, vllm_server.model, long, max_tokens=1)
    usage = chat(http, vllm_server.model, long, max_tokens=1)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 128  # type: ignore[index]


def test_adapters_are_loaded_and_unloaded_while_it_runs(
    http: httpx.Client, vllm_server: VllmServer, lora_adapter: Path
) -> None:
    missing = http.post("/load_lora_adapter", json={"lora_name": "none", "lora_path": "/nowhere"})
    assert missing.status_code in (400, 404)
    assert "/nowhere" in missing.text, "the adapter is not found; the endpoint is"

    question = "What is the capital of France?"
    plain = said(chat(http, vllm_server.model, question))
    loaded = http.post("/load_lora_adapter", json={"lora_name": "random-1", "lora_path": str(lora_adapter)})
    assert loaded.status_code == 200, loaded.text
    try:
        assert "random-1" in [model["id"] for model in http.get("/models").json()["data"]]
        assert said(chat(http, "random-1", question)) != plain
        assert said(chat(http, vllm_server.model, question)) == plain, "the model itself is as it was"
    finally:
        assert http.post("/unload_lora_adapter", json={"lora_name": "random-1"}).status_code == 200
    assert "random-1" not in [model["id"] for model in http.get("/models").json()["data"]]


def test_metrics_without_the_developers_endpoints(vllm_server: VllmServer) -> None:
    assert "vllm:num_requests_running" in httpx.get(f"{vllm_server.root_url}/metrics").text
    for path in ("sleep", "reset_prefix_cache", "collective_rpc"):
        assert httpx.post(f"{vllm_server.root_url}/{path}").status_code == 404


def test_a_second_start_on_the_same_port_says_who_has_it(vllm_server: VllmServer, tmp_path: Path) -> None:
    if vllm_server.log is None:
        pytest.skip("the server was not started here")
    port = urlsplit(vllm_server.base_url).port
    assert port is not None
    env = start_environment(port, tmp_path)
    done = subprocess.run(["./start_vllm.sh"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
    assert f"VLLM_PORT={port + 1} ./start_vllm.sh" in done.stderr


def test_no_key_and_no_statistics_in_the_log(vllm_server: VllmServer) -> None:
    if vllm_server.log is None:
        pytest.skip("the server was not started here")
    log = vllm_server.log.read_text("utf8", "replace")
    assert "Unknown vLLM environment variable" not in log
    assert "stats.vllm.ai" not in log
