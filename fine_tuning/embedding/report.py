"""What a fine-tuning leaves beside the model: figures, a curve, what it was made of, a card."""

import importlib.metadata
import json
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from fine_tuning.embedding import drift
from fine_tuning.embedding.base import Base

_PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "datasets", "accelerate")


def now() -> str:
    """The moment, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What it ran on and with."""
    on_gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {os.cpu_count()} cores",
    }


def peak_memory_mb() -> float:
    """Of the GPU where there is one, else of the largest of this process and those it started."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return round(max(drift.peak_memory_mb(), children), 1)


def draw(path: Path, losses: Sequence[Mapping[str, float]], title: str) -> None:
    """The curve of the loss."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [line["step"] for line in losses], [line["loss"] for line in losses], marker="." if len(losses) < 3 else ""
    )
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def write_card(path: Path, name: str, base: Base, metrics: Mapping[str, Any]) -> None:
    """The model's card: its base and whose licence holds, its figures. It quotes no text that was trained on."""
    licence = base.licence or "unknown"
    held = metrics["rows"]["heldout"]
    lines = [
        "---",
        f"base_model: {json.dumps(base.name)}",
        f"license: {licence}",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "---",
        "",
        f"# {name}",
        "",
        f"`{base.name}`, fine-tuned on pairs of texts that belong together: {metrics['rows']['train']}.",
        "",
        "## Licence",
        "",
        f"The base model's licence is `{licence}`, as its card says. It holds for this model, too: read it before you "
        "pass the model on, and name the base model where it asks for that."
        if base.licence
        else "The base model's card names no licence. Find out what it allows before you pass this model on.",
        "",
        "## Figures",
        "",
    ]
    if metrics["before"] is None:
        lines += ["There were too few pairs to hold any out."]
    else:
        lines += [f"Retrieval on {held} held-out pairs:", "", "| | before | after |", "|---|---|---|"]
        lines += [
            f"| {figure} | {value:.4f} | {metrics['after'][figure]:.4f} |"
            for figure, value in metrics["before"].items()
            if isinstance(value, float)
        ]
    path.write_text("\n".join(lines) + "\n", "utf8")
