"""What the findings of scripts/diagnose_unsloth.py mean, in plain sentences. Pure, standard library only."""

from collections.abc import Mapping, Sequence
from typing import Any

LEAST_CAPABILITY = 7.0
"""Of the GPUs that unsloth supports (V100, T4 and newer; its README, "Install")."""

BFLOAT16_CAPABILITY = 8.0
"""From Ampere on (CUDA C++ Programming Guide, "Arithmetic Instructions")."""

Findings = Mapping[str, Any]


def advise(found: Findings) -> list[str]:
    """What to do, the most urgent first. Takes the document of `examine`."""
    training: Findings | None = found["environments"].get("TRAIN_VENV")
    return [
        *about_gpu(found["gpus"], found.get("problem"), found.get("cuda"), training),
        *about_environment(training, bool(found["gpus"])),
        *about_memory(found["model"], found["gpus"], found["memory"], training),
    ]


def about_gpu(gpus: Sequence[Findings], problem: str | None, cuda: str | None, training: Findings | None) -> list[str]:
    """What the card and its driver allow."""
    if not gpus:
        return [
            f"No NVIDIA GPU can be used ({problem}). Training runs with TRL and PEFT on the CPU, in 32 bits, and suits "
            "models of some hundred million parameters; unsloth and 4-bit loading need a GPU."
        ]
    said: list[str] = []
    for gpu in gpus:
        capability = _number(gpu["capability"])
        if capability is not None and capability < LEAST_CAPABILITY:
            said.append(f"{gpu['name']} is older than unsloth supports: train with TRL and PEFT (TRAIN_UNSLOTH=0).")
        elif capability is not None and capability < BFLOAT16_CAPABILITY:
            said.append(f"{gpu['name']} has no bfloat16: trainings use float16 by themselves.")
    torch = (training or {}).get("torch", {})
    built, driver = _number(torch.get("cuda")), _number(cuda)
    if torch.get("installed") and torch.get("loads") and not torch.get("sees_gpu"):
        if torch.get("cuda") is None:
            said.append("The training environment has torch's CPU build: TRAIN_DEVICE=gpu ./setup_training.sh")
        elif built is not None and driver is not None and int(built) > int(driver):
            said.append(
                f"torch was built for CUDA {torch['cuda']}, the driver serves CUDA {cuda} at most: update the driver."
            )
        else:
            said.append("torch does not see the GPU: look at CUDA_VISIBLE_DEVICES, and at the container's GPU access.")
    return said


def about_environment(training: Findings | None, has_gpu: bool) -> list[str]:
    """What is missing or broken in the training environment."""
    if training is None:
        return ["There is no training environment: run ./setup_training.sh"]
    said: list[str] = []
    for name in ("torch", "transformers", "peft", "trl"):
        if not training[name]["installed"] or "problem" in training[name]:
            said.append(f"{name} is missing or broken in the training environment: run ./setup_training.sh again.")
    if not has_gpu:
        return said
    for name, without in (("bitsandbytes", "models are loaded in 16 bits"), ("unsloth", "TRL and PEFT train, slower")):
        if not training[name]["installed"]:
            said.append(f"{name} is not installed, so {without}: run ./setup_training.sh on this machine.")
        elif "problem" in training[name]:
            said.append(f"{name} does not load, so {without}: {training[name]['problem']}")
    if training["triton"].get("problem"):
        said.append(f"triton does not load, which unsloth needs: {training['triton']['problem']}")
    return said


def about_memory(model: Findings, gpus: Sequence[Findings], memory: Findings, training: Findings | None) -> list[str]:
    """Whether the model fits, and what makes it fit. Without a GPU, in the machine's memory in 32 bits."""
    needs: Findings | None = model["needs"]
    if needs is None:
        return [f"How large {model['name']} is, neither its name nor this machine tells: name its folder with --model."]
    said = _disk(model["name"], needs, memory["disk"])
    if not gpus:
        return [*_on_cpu(model, memory["ram"]), *said]
    free = max((gpu["free"] for gpu in gpus if gpu["free"] is not None), default=None)
    if free is None:
        return [*said, "nvidia-smi does not tell the free memory, so nobody can say what fits."]
    return [*_training(model, needs, free), *_serving(needs, free), *said]


def _training(model: Findings, needs: Findings, free: int) -> list[str]:
    rows = f"{model['batch_size']} rows of {model['max_length']} tokens"
    if needs["train_4bit"] is None:
        return ["What a training needs can be said where the model's config.json is on this machine."]
    if needs["train_16bit"] <= free:
        return [
            f"LoRA training on {rows} fits in 16 bits; 4 bits save {_gib(needs['train_16bit'] - needs['train_4bit'])}."
        ]
    if needs["train_4bit"] <= free:
        return [f"LoRA training on {rows} fits in 4 bits (load_in_4bit, the default) and not in 16."]
    lacking = _gib(needs["train_4bit"] - free)
    return [
        f"LoRA training on {rows} needs up to {lacking} more than is free: lower --batch-size with more "
        "--gradient-accumulation, then --max-length; else take a smaller model."
    ]


def _serving(needs: Findings, free: int) -> list[str]:
    if needs["serve_16bit"] <= free:
        return ["It can be served in 16 bits."]
    if needs["serve_4bit"] <= free:
        return ["It can be served in 4 bits (quantize_4bit) and not in 16; a lower max_new_tokens saves cache only."]
    return ["It cannot be served on this GPU as it is: end what else uses it, or take a smaller model."]


def _on_cpu(model: Findings, ram: int | None) -> list[str]:
    if ram is None or model["parameters"] is None:
        return []
    weights = 4 * model["parameters"]
    if weights > ram:
        return [f"{model['name']} in 32 bits takes {_gib(weights)}, more than the {_gib(ram)} of memory that are free."]
    return [f"{model['name']} in 32 bits takes {_gib(weights)} of the {_gib(ram)} of memory that are free."]


def _disk(name: str, needs: Findings, free: int) -> list[str]:
    if needs["disk"] <= free:
        return []
    return [f"{name} and one training of it take {_gib(needs['disk'])} of disk; {_gib(free)} are free."]


def _number(text: object) -> float | None:
    try:
        return float(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
