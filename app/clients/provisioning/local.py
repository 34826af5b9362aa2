"""Models in a folder of this machine, put there by hand or by a training: checked file by file."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from app.clients.provisioning.downloads import PARTIAL, sha256_of
from app.clients.provisioning.web import counted
from app.clients.provisioning.weights import check_weights
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress, Provisioned

WEIGHTS = frozenset({".safetensors", ".gguf", ".onnx", ".bin", ".pt", ".pth", ".xml"})
INDEX = ".safetensors.index.json"
MAX_JSON = 256 * 1024 * 1024


class LocalProvider:
    """Looks at a folder; brings nothing."""

    def __init__(self, models_dir: Path) -> None:
        """`models_dir`: where paths begin, and what they never leave."""
        self._models_dir = models_dir

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """Whether the folder holds a whole model: the manifest's files with their hashes, weights that are as long as
        their headers say, the shards of an index. `force` changes nothing: every byte is read each time."""
        return await asyncio.to_thread(self._check, model, tell)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _check(self, model: Model, tell: Callable[[Progress], None]) -> Provisioned:
        path = model.path or model.name
        folder = inside(self._models_dir, self._models_dir / path, path)
        if not folder.is_dir():
            raise ProvisionFailed(f"{path} is no folder in {self._models_dir.name}: put the model's files there")
        files = _files(folder)
        for name in dict(model.files):
            if name not in files:
                raise ProvisionFailed(f"{path}/{name} is missing")
        if not any(Path(name).suffix in WEIGHTS for name in files):
            raise ProvisionFailed(f"{path} holds no weights: no file ends in {', '.join(sorted(WEIGHTS))}")
        total = sum(file.stat().st_size for file in files.values())
        done, hashes = 0, dict[str, str]()
        wanted = dict(model.files)
        for name, file in sorted(files.items()):
            tell(Progress("checking files", done, total))
            _check_file(file, f"{path}/{name}", files)
            hashes[name] = sha256_of(file)
            if wanted.get(name) not in {None, hashes[name]}:
                raise ProvisionFailed(f"{path}/{name} has the SHA-256 {hashes[name]}, not the one of the manifest")
            done += file.stat().st_size
        pinned = sum(held is not None for held in wanted.values())
        detail = f"whole: {counted(len(files), 'file')}, {total:,} bytes, checked against the manifest: {pinned}"
        return Provisioned("present", detail, place=folder, hashes=hashes)


def inside(root: Path, path: Path, name: str) -> Path:
    """`path` without symbolic links. Raises ProvisionFailed where they lead out of `root`."""
    whole, found = root.resolve(), path.resolve()
    if not found.is_relative_to(whole):
        raise ProvisionFailed(f"{name} leads out of {root.name} by a symbolic link")
    return found


def _files(folder: Path) -> Mapping[str, Path]:
    """Every file by its path in the folder, but unfinished ones. Raises ProvisionFailed for a link that leads out."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place) / name
            shown = path.relative_to(folder).as_posix()
            if path.is_symlink():
                inside(folder, path, f"{folder.name}/{shown}")
            if path.is_file() and not name.endswith((PARTIAL, ".incomplete", ".lock")):
                found[shown] = path
            elif name in names and not path.is_file():
                raise ProvisionFailed(f"{folder.name}/{shown} is no file")
    return found


def _check_file(file: Path, name: str, files: Mapping[str, Path]) -> None:
    if file.suffix in WEIGHTS:
        check_weights(file, name)
    if file.name.endswith(INDEX):
        shards: Any = _document(file, name).get("weight_map")
        if not isinstance(shards, dict):
            raise ProvisionFailed(f"{name} is damaged: it has no weight_map")
        for shard in sorted({str(each) for each in cast("dict[str, Any]", shards).values()}):
            if not (file.parent / shard).is_file() or file.parent / shard not in files.values():
                raise ProvisionFailed(f"{name} names {shard}, which is missing")
    elif file.name == "config.json":
        _document(file, name)


def _document(file: Path, name: str) -> Mapping[str, Any]:
    """A JSON object in a file."""
    try:
        if file.stat().st_size > MAX_JSON:
            raise ValueError
        document = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ProvisionFailed(f"{name} is damaged: it is not JSON") from None
    if not isinstance(document, dict):
        raise ProvisionFailed(f"{name} is damaged: it is no JSON object")
    return cast("dict[str, Any]", document)
