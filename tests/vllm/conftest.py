"""A real vLLM with a tiny real model, started by the scripts that users start it with, once per session.

VLLM_TEST_URL=http://host:port/v1 takes a running server instead; LoRA tests need it on this machine.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs vLLM, and time for its installation."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The session's server, with SmolLM2; tests share it, and leave no adapter behind."""
    given = os.environ.get("VLLM_TEST_URL")
    if given:
        base_url = given.rstrip("/")
        served = httpx.get(f"{base_url}/models", timeout=30).raise_for_status().json()
        yield VllmServer(base_url, served["data"][0]["id"], None)
        return

    subprocess.run(["./setup_vllm.sh"], cwd=ROOT, check=True)
    subprocess.run([VENV / "bin/python", "scripts/unpack_smollm2.py", MODEL], cwd=ROOT, check=True)
    folder = tmp_path_factory.mktemp("vllm")
    output = folder / "output.txt"
    port = find_free_port()
    env = start_environment(port, folder)
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


def find_free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


LORA_SCRIPT = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
folder, strength = Path(sys.argv[1]), float(sys.argv[3])
config = json.loads(Path(sys.argv[2], "config.json").read_text())
torch.manual_seed(7)
hidden, rank = config["hidden_size"], 8
width = config["num_attention_heads"] * config["head_dim"]
tensors = {}
for layer in range(config["num_hidden_layers"]):
    prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
    tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden) * strength
    tensors[f"{prefix}.lora_B.weight"] = torch.randn(width, rank) * strength
folder.mkdir(parents=True)
save_file(tensors, folder / "adapter_model.safetensors")
(folder / "adapter_config.json").write_text(json.dumps({
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none",
    "target_modules": ["q_proj"], "base_model_name_or_path": sys.argv[2],
}))
"""


@pytest.fixture(scope="session")
def lora_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of SmolLM2 that was drawn at random, strong enough to change every answer."""
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    command = [VENV / "bin/python", "-c", LORA_SCRIPT, folder, MODEL, "0.5"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    return folder
