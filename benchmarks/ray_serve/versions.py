"""Two checkpoints that differ in their vectors, in an adapter registry, and what each of them answers."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from app.domain.adapters import Adapter, Registry
from serving.backends import open_backend
from serving.llm2vec.manifest import TRAINED, Artifacts, Embedding, Manifest
from serving.pooling import Vectors, normalised
from serving.settings import ServeSettings

RUNS = {"run-a": "mean", "run-b": "cls"}
"""The checkpoints and how they pool the vectors of tokens."""

TEXTS = [f"{what} number {number}" for number in range(8) for what in ("the lamp", "a boat on the river", "x")]

_POOLING = "1_Pooling/config.json"
_LINKED = (".onnx", ".onnx.data", ".safetensors")


@dataclass(frozen=True)
class Versions:
    """The registry in a folder, and by run the vectors of TEXTS, shape (texts, dimension)."""

    folder: Path
    vectors: dict[str, Vectors]

    @property
    def registry(self) -> Path:
        """The adapter registry."""
        return self.folder / "adapters.json"

    def point_at(self, current: str) -> None:
        """Have the registry say that another one serves."""
        now = datetime.now(UTC)
        adapters = tuple(
            Adapter(
                run_id=run,
                name=run,
                path=f"{run}/adapters",
                checkpoint=run,
                sha256="0" * 64,
                base_model="base",
                created_at=now,
            )
            for run in RUNS
        )
        draft = self.folder / "draft.json"
        draft.write_text(Registry(updated_at=now, current=current, adapters=adapters).model_dump_json(), "utf8")
        draft.replace(self.registry)


def write_versions(folder: Path, model: Path) -> Versions:
    """Checkpoints around the embedding model in a folder with an ONNX graph of token vectors; `run-a` is current."""
    vectors: dict[str, Vectors] = {}
    for run, pooling in RUNS.items():
        merged = folder / run / "merged"
        shutil.copytree(model, merged, copy_function=_link_or_copy)
        (merged / "golden.json").unlink(missing_ok=True)
        (merged / _POOLING).write_text(json.dumps({"pooling_mode": pooling}), "utf8")
        backend = open_backend(ServeSettings(_env_file=None, model=merged, threads=1))  # pyright: ignore[reportCallIssue]
        rows = [backend.run([backend.split(text).ids]) for text in TEXTS]
        vectors[run] = normalised(np.concatenate(rows))
        embedding = Embedding(dimension=backend.info.dimension)
        Manifest("base", embedding, Artifacts(merged="merged")).write(folder / run / TRAINED)
        backend.close()
    made = Versions(folder, vectors)
    made.point_at("run-a")
    return made


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(_LINKED):
        Path(target).symlink_to(Path(source).resolve())
    else:
        shutil.copyfile(source, target)
