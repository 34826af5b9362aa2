"""Where a run works: a folder beside the output, one process's at a time, whose result one rename puts into place."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fine_tuning.embedding.errors import FineTuningError

_RUN = "run.json"
_TRAINED = ("checkpoint-*/", "adapter/")


def work_folder(output: Path) -> Path:
    """Where a run works that is not finished."""
    return output.resolve().with_name(f".{output.resolve().name}.work")


@contextmanager
def locked(work: Path) -> Generator[None]:
    """The working folder is this process's. Raises FineTuningError where it is another's."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FineTuningError(f"another run is at work in {work}: wait for it, or name another output.") from None
        yield


def is_finished(output: Path, run_id: str, *, resume: bool, overwrite: bool) -> bool:
    """Whether the output is this very run and may be taken as it is. Raises FineTuningError for a folder in the
    way."""
    if overwrite or not output.exists():
        return False
    metadata = output / "run_metadata.json"
    if resume and metadata.is_file() and json.loads(metadata.read_text("utf8")).get("run_id") == run_id:
        return True
    raise FineTuningError(f"{output} exists: name another output, or replace it with --overwrite.")


def begin(work: Path, run_id: str, *, resume: bool, overwrite: bool) -> None:
    """Make the working folder this run's: what was trained there is gone on from, or cleared away where it may be.
    Raises FineTuningError."""
    noted = work / _RUN
    before = json.loads(noted.read_text("utf8"))["run_id"] if noted.is_file() else None
    if resume and before == run_id:
        return
    is_worth_keeping = any(found for pattern in _TRAINED for found in work.rglob(pattern))
    if before is not None and not overwrite and (resume or is_worth_keeping):
        why = "had other data or settings: give the same again" if resume else "was interrupted: go on with --resume"
        raise FineTuningError(f"the run in {work} {why}, or begin anew with --overwrite.")
    for each in work.iterdir():
        if each.name != ".lock":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    write_json(noted, {"run_id": run_id})


def once(file: Path, compute: Callable[[], Any]) -> Any:
    """What an interrupted run computed already, or else what it is now."""
    if not file.is_file():
        write_json(file, {"value": compute()})
    return json.loads(file.read_text("utf8"))["value"]


def put_in_place(work: Path, output: Path) -> None:
    """The finished folder becomes the output; the working folder goes, and with it what was there before."""
    if output.exists():
        output.rename(work / "replaced")
    (work / "finished").rename(output)
    shutil.rmtree(work)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The whole file or none of it."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
