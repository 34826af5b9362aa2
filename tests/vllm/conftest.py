"""A real vLLM, started once per session, and an adapter for it.

VLLM_TEST_URL=http://host:port/v1 takes a running server instead; LoRA tests need it on this machine.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm_server import MODEL, ROOT, VENV, VllmServer, running_vllm

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs vLLM, and time for its installation."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The session's server, with SmolLM2; tests share it, and leave no adapter behind."""
    with running_vllm(tmp_path_factory.mktemp("vllm")) as server:
        yield server


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
