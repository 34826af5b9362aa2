"""The files of datasets: written aside, put in place together, and rewritten without whoever is erased."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from app.domain.datasets import DATASETS, SPLITS, SUMMARY_FILE, Row, Split, Tally

UNFINISHED = ".preparing"
"""Where a preparation writes; beside it its lock."""

ERASED = "erased"
"""In there: who was erased since it began."""


class Target:
    """Where the rows go: files aside that take their places together, or for a dry run nowhere but into counts."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._writers: dict[str, Writer] = {}

    def __enter__(self) -> "Target":
        with ExitStack() as stack:
            aside: Path | None = None
            if self._folder is not None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder / f"{UNFINISHED}.lock"))
                with locked(self._folder / ".lock"):
                    settle(self._folder, is_preparing=True)
                    aside = self._folder / UNFINISHED
                    aside.mkdir(mode=0o700)
            for name in (_file_name(dataset, split) for dataset in DATASETS.values() for split in SPLITS):
                writer = Writer(None if aside is None else aside / name)
                self._writers[name] = stack.enter_context(closing(writer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None and not (self._folder / UNFINISHED / SUMMARY_FILE).exists():
            shutil.rmtree(self._folder / UNFINISHED, ignore_errors=True)  # else the next call finishes the change
        self._stack.close()

    def write(self, dataset: str, split: Split, row: Row) -> None:
        """Add a row to a file."""
        self._writers[_file_name(dataset, split)].write(row)

    def summary(self) -> dict[str, Any]:
        """What the files hold."""
        return {name: writer.summary() for name, writer in self._writers.items()}

    def publish(self, summary: dict[str, Any]) -> None:
        """Make all files durable and put them in the old ones' places, without whom was erased meanwhile."""
        if self._folder is None:
            return
        for writer in self._writers.values():
            writer.sync()
        aside = self._folder / UNFINISHED
        with locked(self._folder / ".lock"):
            erased = aside / ERASED
            if erased.exists():
                erase(aside, frozenset(erased.read_text().split()), summary)
            write_durably(aside / SUMMARY_FILE, document(summary))
            settle(self._folder, is_preparing=True)


class Writer:
    """A file of rows, its checksum and its counts; without a path only these."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else _create(path)
        self._digest = hashlib.sha256()
        self._tally = Tally()
        self._bytes = 0

    def write(self, row: Row) -> None:
        self.add(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), row)

    def add(self, line: bytes, row: Row) -> None:
        """Add a row as it stands in a file."""
        if self._file is not None:
            self._file.write(line)
        self._digest.update(line)
        self._tally.add(row)
        self._bytes += len(line)

    def summary(self) -> dict[str, Any]:
        return {**self._tally.summary(), "bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def erase(folder: Path, users: frozenset[str], summary: dict[str, Any]) -> dict[str, int]:
    """Rewrite the files of a folder without users' rows, and `summary` with them; the rows removed by file."""
    removed: dict[str, int] = {}
    for unfinished in folder.glob("*.new"):
        unfinished.unlink()  # an erasure that was killed left it
    for name in summary["files"]:
        path = folder / name
        removed[name] = _count_rows(path, users)
        is_stale = path.exists() and path.stat().st_size != summary["files"][name]["bytes"]  # broken off before
        if removed[name] or is_stale:
            new = path.with_name(f"{name}.new")
            with closing(Writer(new)) as writer:
                for line, row in _rows(path):
                    if row["meta"]["user"] not in users:
                        writer.add(line, row)
                writer.sync()
            new.replace(path)
            summary["files"][name] = writer.summary()
    if any(removed.values()):
        summary["erasures"] += len(users)
        _sync_directory(folder)
    return removed


def _count_rows(path: Path, users: frozenset[str]) -> int:
    """How many rows are of these users; only lines that hold a name are taken apart."""
    if not path.exists():
        return 0
    names = [user.encode() for user in users]
    with path.open("rb") as opened:
        found = (line for line in opened if any(name in line for name in names))
        return sum(orjson.loads(line)["meta"]["user"] in users for line in found)


def _rows(path: Path) -> Iterator[tuple[bytes, Row]]:
    with path.open("rb") as opened:
        for line in opened:
            yield line, orjson.loads(line)


def settle(folder: Path, is_preparing: bool = False) -> None:
    """Finish a change of files that was broken off, or clear away what a killed preparation left. The caller holds
    the folder's lock, and where it is `is_preparing` the preparation's too."""
    aside = folder / UNFINISHED
    if not aside.is_dir():
        return
    with ExitStack() as stack:
        if not is_preparing and not stack.enter_context(locked(folder / f"{UNFINISHED}.lock", is_waiting=False)):
            return  # somebody is at work in there
        if (aside / SUMMARY_FILE).exists():
            for dataset in DATASETS.values():
                for split in SPLITS:
                    with suppress(FileNotFoundError):  # moved before it was broken off
                        (aside / _file_name(dataset, split)).replace(folder / _file_name(dataset, split))
            (aside / SUMMARY_FILE).replace(folder / SUMMARY_FILE)
            _sync_directory(folder)
        shutil.rmtree(aside)


@contextmanager
def locked(path: Path, is_waiting: bool = True) -> Generator[bool]:
    """Hold a lock file, against other processes and other threads; False where it is held and nobody waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def read_summary(folder: Path) -> dict[str, Any] | None:
    path = folder / SUMMARY_FILE
    return cast("dict[str, Any]", orjson.loads(path.read_bytes())) if path.exists() else None


def document(summary: dict[str, Any]) -> bytes:
    return orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def write_durably(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with _create(new) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> BinaryIO:
    """An empty file that only its owner may read."""
    return open(path, "wb", buffering=1 << 18, opener=lambda name, flags: os.open(name, flags, 0o600))


def _file_name(dataset: str, split: Split) -> str:
    return f"{dataset}.jsonl" if split == "train" else f"{dataset}.{split}.jsonl"
