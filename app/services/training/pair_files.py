"""The files of exported pairs: one rename puts each in place, and an erasure reaches those that are among the samples.

    {training_dir}/pairs/pairs.jsonl           of `default`; another tenant's lie in a folder in there
    {training_dir}/pairs/.exporting            while an export is under way: who was erased since it began
    {training_dir}/pairs/.key                  which split.key the users' names were made with

A row of JSON lines names its user by a keyed hash. A TSV names nobody, so an erasure deletes it whole.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import orjson

from app.domain.datasets import Row, SplitKey
from app.domain.errors import InvalidInput
from app.services.training.dataset_files import locked, write_durably
from app.services.training.run_files import DATASETS_FOLDER, datasets_folder

PAIRS_FOLDER = "pairs"
PAIRS_NAME = "pairs"

Format = Literal["jsonl", "tsv"]

_MARK, _ROWS, _KEY, _LOCK = ".exporting", ".exporting.rows", ".key", ".lock"


def pairs_folder(training_dir: Path, tenant_id: str) -> Path:
    """Where the pairs of a tenant lie that an erasure reaches."""
    return (
        training_dir
        / PAIRS_FOLDER
        / datasets_folder(training_dir, tenant_id).relative_to(training_dir / DATASETS_FOLDER)
    )


def place_for(training_dir: Path, tenant_id: str, output: Path | None, form: Format) -> Path:
    """The file to write. Raises InvalidInput for one among the samples where no erasure would look for it."""
    folder = pairs_folder(training_dir, tenant_id)
    place = folder / f"{PAIRS_NAME}.{form}" if output is None else output
    real = place.resolve()
    if not real.is_relative_to(training_dir.resolve()):
        return place
    if real.parent != folder.resolve() or real.suffix != f".{form}" or real.name.startswith("."):
        raise InvalidInput(
            f"{place} is in the training folder, where erasures find pairs as {folder}/NAME.{form} only: name it so, "
            "or choose a place outside.",
            field="output",
        )
    return place


@dataclass
class PairTarget:
    """An export under way: rows go aside first, then in their format, without whom was erased meanwhile, into place.

    One export of a tenant runs at a time; another waits."""

    folder: Path
    place: Path
    form: Format
    key: SplitKey
    erased: int = 0
    """Rows that were left out at the end, because their users were erased meanwhile."""

    users: Counter[str] = field(default_factory=Counter[str])
    """Rows by user, as they were written into place."""

    _stack: ExitStack = field(default_factory=ExitStack)
    _rows: BinaryIO | None = None

    def __enter__(self) -> "PairTarget":
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(locked(self.folder / f"{_MARK}.lock"))
            stack.callback(self._clear)
            with locked(self.folder / _LOCK):
                write_durably(self.folder / _MARK, b"")
            self._rows = stack.enter_context(_create(self.folder / _ROWS))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, row: Row) -> None:
        """Add a row."""
        assert self._rows is not None, "the export has begun"
        self._rows.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def publish(self) -> None:
        """Put the file in place, durably. Raises OSError; what was there before stands then."""
        assert self._rows is not None, "the export has begun"
        self._rows.flush()
        with locked(self.folder / _LOCK):
            gone = frozenset((self.folder / _MARK).read_text().split())
            self._settle_key()
            self.place.parent.mkdir(parents=True, exist_ok=True)
            new = self.place.with_name(f"{self.place.name}.new")
            try:
                with _create(new) as out:
                    for row in _read(self.folder / _ROWS):
                        if row["user"] in gone:
                            self.erased += 1
                        else:
                            self.users[row["user"]] += 1
                            out.write(_line(row, self.form))
                    out.flush()
                    os.fsync(out.fileno())
                new.replace(self.place)
            finally:
                new.unlink(missing_ok=True)

    def _settle_key(self) -> None:
        """Files made with another key go: nobody can tell whose rows are in them."""
        if _key_id(self.folder) not in {None, self.key.key_id}:
            _remove(self.folder, Counter())
        write_durably(self.folder / _KEY, self.key.key_id.encode())

    def _clear(self) -> None:
        with locked(self.folder / _LOCK):
            (self.folder / _ROWS).unlink(missing_ok=True)
            (self.folder / _MARK).unlink(missing_ok=True)


def erase_pairs(folder: Path, key: SplitKey | None, tenant_id: str, user_id: str) -> tuple[dict[str, int], bool]:
    """Take a user out of a tenant's exported pairs, and out of the export under way; the rows removed by file, and
    whether files went whole because their key is lost. Erase the samples first. It can be called again."""
    removed: Counter[str] = Counter()
    if not folder.is_dir():
        return {}, False
    with locked(folder / _LOCK):
        user = None if key is None else key.user(tenant_id, user_id)
        with locked(folder / f"{_MARK}.lock", is_waiting=False) as is_free:
            if is_free:  # what a killed export left
                (folder / _ROWS).unlink(missing_ok=True)
                (folder / _MARK).unlink(missing_ok=True)
            elif user is not None and (folder / _MARK).exists():
                with (folder / _MARK).open("a") as out:
                    out.write(f"{user}\n")
        for unfinished in folder.glob("*.new"):
            unfinished.unlink()
        if key is None or _key_id(folder) != key.key_id:
            has_any = any(True for _ in _files(folder))
            _remove(folder, removed)
            return dict(removed), has_any
        for path in list(_files(folder)):
            if path.suffix == ".jsonl":
                removed[path.name] = _without(path, cast(str, user))
            else:
                removed[path.name] = _count(path)
                path.unlink()
    return {name: count for name, count in removed.items() if count}, False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _remove(folder: Path, removed: Counter[str]) -> None:
    for path in list(_files(folder)):
        removed[path.name] = _count(path)
        path.unlink()


def _without(path: Path, user: str) -> int:
    """Rewrite a file of JSON lines without a user's rows; how many there were."""
    name = user.encode()
    with path.open("rb") as lines:
        found = sum(name in line and orjson.loads(line)["user"] == user for line in lines)
    if not found:
        return 0
    new = path.with_name(f"{path.name}.new")
    with path.open("rb") as lines, _create(new) as out:
        for line in lines:
            if name not in line or orjson.loads(line)["user"] != user:
                out.write(line)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
    return found


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _key_id(folder: Path) -> str | None:
    path = folder / _KEY
    return path.read_text() if path.exists() else None


def _read(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def _line(row: Row, form: Format) -> bytes:
    """A row as it stands in a file. The guide's TSV has no header; a third column is the hardest negative."""
    if form == "jsonl":
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    columns: list[str] = [row["text_a"], row["text_b"], *row["negative"][:1]]
    return ("\t".join(columns) + "\n").encode()


def _create(path: Path) -> BinaryIO:
    """An empty file that only its owner may read."""
    return open(path, "wb", buffering=1 << 18, opener=lambda name, flags: os.open(name, flags, 0o600))
