"""Where a tenant's datasets and a run's files lie, and how what is there of a user goes away."""

import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from app.domain.datasets import SUMMARY_FILE
from app.domain.runs import is_run_id
from app.services.keys import DEFAULT_TENANT
from app.services.training.dataset_files import document, locked, write_durably

DATASETS_FOLDER = "datasets"
SCRIPT_NAME = "train_model.py"

_SAFE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ERASED = ".erased"
_LAST_LINES = 20
_TAIL_BYTES = 8192


def datasets_folder(training_dir: Path, tenant_id: str) -> Path:
    """Where the datasets of a tenant lie: those of `default` in `datasets`, any other's in a folder in there."""
    folder = training_dir / DATASETS_FOLDER
    if tenant_id == DEFAULT_TENANT:
        return folder
    if _SAFE.fullmatch(tenant_id):
        return folder / tenant_id
    return folder / f"_{hashlib.sha256(tenant_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def users_in(dataset: Path) -> frozenset[str]:
    """The names that users have in a dataset's file."""
    if not dataset.exists():
        return frozenset()
    with dataset.open("rb") as lines:
        return frozenset(user for line in lines if (user := orjson.loads(line)["meta"]["user"]))


def remove_datasets(folder: Path) -> dict[str, int]:
    """Delete the datasets of a folder whose key is lost; the rows that went, by file."""
    with locked(folder / ".lock"):
        summary = _read(folder / SUMMARY_FILE) or {"files": {}}
        for path in folder.glob("*.jsonl"):
            path.unlink()
        (folder / SUMMARY_FILE).unlink(missing_ok=True)
        return {name: held["rows"] for name, held in summary["files"].items()}


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: the script writes the model, its metadata and metrics there, and holds `.lock` while it
    works; the service writes the script and adds to the metadata."""

    path: Path

    @property
    def script(self) -> Path:
        return self.path / SCRIPT_NAME

    @property
    def log(self) -> Path:
        """All that the script said."""
        return self.path / "training.log"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def own_rows(self) -> Path:
        """Rows that were prepared for this run alone, a bundle's; their held-out ones lie beside them."""
        return self.checkpoints / "dataset.jsonl"

    @property
    def metadata_file(self) -> Path:
        return self.path / "run_metadata.json"

    @property
    def checkpoints(self) -> Path:
        """What a training needs on its way, prepared rows among it; the script deletes it at its end."""
        return self.path / "checkpoints"

    @property
    def progress_file(self) -> Path:
        return self.checkpoints / "progress.jsonl"

    @property
    def plan_file(self) -> Path:
        """What a bundle was asked to be made of, for whoever carries it on."""
        return self.path / "bundle.json"

    def plan(self) -> dict[str, Any] | None:
        """The plan of a bundle; None for any other run."""
        return _read(self.plan_file)

    def is_running(self) -> bool:
        """Whether the script works in here at this moment, whoever started it."""
        with locked(self.path / ".lock", is_waiting=False) as is_free:
            return not is_free

    def is_finished(self) -> bool:
        """Whether the script came to its end."""
        return bool((_read(self.metadata_file) or {}).get("finished_at"))

    def metadata(self) -> dict[str, Any]:
        """What the script wrote down; empty before it did."""
        return _read(self.metadata_file) or {}

    def is_made_of(self, training_dir: Path) -> bool:
        """Whether the script reads datasets that lie in there."""
        place = training_dir.resolve()
        return any(Path(path).resolve().is_relative_to(place) for path in self.metadata().get("data_sha256", ()))

    def metrics(self) -> dict[str, Any]:
        """The figures of a finished training."""
        return _read(self.path / "metrics.json") or {}

    def register(self, fields: Mapping[str, Any]) -> None:
        """Add what the registry knows to the metadata."""
        write_durably(self.metadata_file, document({**self.metadata(), **fields}))

    def forget_user(self, user_key: str) -> None:
        """Take a user's key out of the metadata."""
        metadata = self.metadata()
        users: Sequence[str] = metadata.get("users", ())
        if user_key in users:
            self.register({"users": [one for one in users if one != user_key]})

    def last_lines(self) -> list[str]:
        """The end of what the script said."""
        if not self.log.exists():
            return []
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            return [line.rstrip() for line in deque(lines, _LAST_LINES)]

    def progress(self) -> dict[str, Any] | None:
        """The newest step that the script reported."""
        if not self.progress_file.exists():
            return None
        with self.progress_file.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            lines.seek(max(0, size - _TAIL_BYTES))
            *_, last = [b"", *lines.read().split(b"\n")[:-1]]
        return cast("dict[str, Any]", orjson.loads(last)) if last else None

    def drop_checkpoints(self) -> bool:
        """Delete checkpoints and the rows in them; where the script is at work, note that they have to go when it is
        not: it deletes them itself at its end, and `drop_marked` does where it was killed."""
        if not self.checkpoints.is_dir():
            return True
        with locked(self.path / ".lock", is_waiting=False) as is_free:
            if is_free:
                shutil.rmtree(self.checkpoints)
            elif self.checkpoints.is_dir():
                (self.checkpoints / _ERASED).touch()
            return is_free

    def drop_marked(self) -> None:
        """Delete checkpoints that hold rows of someone who was erased while the script was at work."""
        if (self.checkpoints / _ERASED).exists():
            self.drop_checkpoints()


def all_marked(models_dir: Path) -> Iterator[RunFolder]:
    """The folders whose checkpoints have to go."""
    return (RunFolder(marker.parent.parent) for marker in models_dir.glob(f"*/checkpoints/{_ERASED}"))


def unregistered(models_dir: Path, training_dir: Path) -> Iterator[RunFolder]:
    """Folders with checkpoints of scripts that were run by hand on datasets of `training_dir`: nobody wrote down whose
    rows they hold."""
    folders = (RunFolder(path.parent) for path in models_dir.glob("*/checkpoints"))
    return (each for each in folders if not is_run_id(each.path.name) and each.is_made_of(training_dir))


def drop_all(folders: Iterable[RunFolder]) -> None:
    """Delete the checkpoints of folders, as `drop_checkpoints` does."""
    for folder in list(folders):
        folder.drop_checkpoints()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON document; None where it is not there."""
    try:
        return cast("dict[str, Any]", orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
