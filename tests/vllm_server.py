"""A real vLLM with a tiny real model, started by the scripts that users start it with."""

import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.running import find_free_port

ROOT = Path(__file__).parents[1]
VENV = Path(os.environ.get("VLLM_VENV", ROOT / "venv-vllm"))
MODEL = "./local-models/smollm2-135m-instruct"
READY_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class VllmServer:
    """A running vLLM. `base_url` ends in /v1; `log` is None where it was not started here."""

    base_url: str
    model: str
    log: Path | None

    @property
    def root_url(self) -> str:
        """Where /health and /metrics are."""
        return self.base_url.removesuffix("/v1")


def unpack_model() -> None:
    """Make the folder of MODEL, and the environment that makes it, where they are not there yet."""
    subprocess.run(["./setup_vllm.sh"], cwd=ROOT, check=True)
    subprocess.run([VENV / "bin/python", "scripts/unpack_smollm2.py", MODEL], cwd=ROOT, check=True)


@contextmanager
def running_vllm(folder: Path, max_lora_rank: int = 32) -> Generator[VllmServer]:
    """A ready server whose logs go to `folder`, for adapters up to a rank, which decides their pace on a CPU. Leaving
    stops it, and nothing of it lives on. VLLM_TEST_URL names a running one instead, which stays."""
    given = os.environ.get("VLLM_TEST_URL")
    if given:
        base_url = given.rstrip("/")
        served = httpx.get(f"{base_url}/models", timeout=30).raise_for_status().json()
        yield VllmServer(base_url, served["data"][0]["id"], None)
        return

    unpack_model()
    output = folder / "output.txt"
    port = find_free_port()
    env = start_environment(port, folder) | {"VLLM_MAX_LORA_RANK": str(max_lora_rank)}
    with output.open("wb") as file:
        script = subprocess.Popen(["./start_vllm.sh"], cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        wait_until_ready(script, output)
        family = psutil.Process(script.pid).children(recursive=True)
        yield VllmServer(f"http://127.0.0.1:{port}/v1", MODEL, folder / f"vllm-{port}.log")
    finally:
        family += [child for child in psutil.Process(script.pid).children(recursive=True) if child not in family]
        script.send_signal(signal.SIGTERM)
        status = script.wait(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=5)
    assert status == 0, output.read_text("utf8", "replace")[-3000:]
    assert not alive, "a part of vLLM outlived ./start_vllm.sh"


def start_environment(port: int, log_dir: Path) -> dict[str, str]:
    """What ./start_vllm.sh is told, so that little is left for a developer's .env to say."""
    ours = {
        "VLLM_VENV": str(VENV),
        "VLLM_MODEL_NAME": MODEL,
        "VLLM_HOST": "127.0.0.1",
        "VLLM_PORT": str(port),
        "VLLM_TASK": "generate",
        "VLLM_CPU_KVCACHE_GB": "1",
        "VLLM_GPU_MEMORY": "0.3",
        "VLLM_MAX_MODEL_LEN": "4096",
        "VLLM_MAX_LORAS": "2",
        "VLLM_MAX_LORA_RANK": "32",
        "VLLM_EXTRA_ARGS": "--enable-auto-tool-choice --tool-call-parser hermes",
        "LOG_DIR": str(log_dir),
    }
    return {**{name: value for name, value in os.environ.items() if name != "SLM_API_KEY"}, **ours}


def wait_until_ready(script: subprocess.Popen[bytes], output: Path) -> None:
    """Until the script says so. Fails with its last lines when it ends, or after READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while "vLLM is ready on" not in (text := output.read_text("utf8", "replace")):
        if script.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"vLLM did not become ready:\n{text[-4000:]}")
        time.sleep(0.5)
