"""Collecting training samples: JSON lines in `data/training`, safe with several processes writing."""

import fcntl
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, Unpack, cast

import orjson
import structlog

from app.domain import training as samples
from app.domain.training import Id, Label, Maker, Preferred, Proposed, Sample
from app.ports import Clock, SystemClock
from app.settings import load_settings

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

_BLOCK = 1 << 16


class Origin(TypedDict, total=False):
    """Where a sample comes from: the tenant (`default`), the set of hypotheses, what made it (nobody says), and
    whether the user consents to its being kept (they do)."""

    tenant_id: str
    hypothesis_set_id: Id | None
    maker: Maker
    has_consent: bool


class TrainingDataCollector:
    """Appends redacted samples to JSON-lines files, reads them back, counts them, and erases a user's.

    Each `log_*` writes one line and returns whether it did: nothing is written while collection is off or
    `has_consent` is false. All of it is synchronous and short (tens of microseconds; a rotation waits for
    the disk); from async code call it with `asyncio.to_thread`.

    **Files.** `NAME.jsonl` is written; at `max_bytes` it becomes `NAME.1.jsonl`, the next one
    `NAME.2.jsonl` and so on: a higher number is newer. A line is never split over two files.
    **Processes.** Whoever writes, rotates or erases holds an exclusive lock on `NAME.jsonl.lock`, so any
    number of processes and threads may share a directory. Readers hold it only to open the files.
    **Durability.** A line is one write of the operating system: when `log_*` has returned True, killing the
    process loses nothing. There is no fsync per line; a file is synced at rotation, by `erase_user` and by
    `close`, so a power cut may lose the lines since. A line torn by a kill in mid-write is cut off before
    the next append and skipped by readers.

    Raises OSError when the disk refuses; then no part of the line stays in the file.
    """

    def __init__(
        self,
        directory: Path | None = None,
        is_enabled: bool | None = None,
        max_bytes: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        """What is None comes from the settings (TRAINING_DATA_DIR or DATA_DIR/training,
        ENABLE_TRAINING_DATA_COLLECTION, TRAINING_FILE_MAX_MB). Touches no file."""
        if directory is None or is_enabled is None or max_bytes is None:
            settings = load_settings()
            directory = settings.training_dir if directory is None else directory
            is_enabled = settings.enable_training_data_collection if is_enabled is None else is_enabled
            max_bytes = int(settings.training_file_max_mb * 1024 * 1024) if max_bytes is None else max_bytes
        self.directory = Path(directory)
        self.is_enabled = is_enabled
        self.damaged_lines: dict[str, int] = {}
        """Lines that are no sample, by file, as the last complete reading or erasure of it found them."""
        self._max_bytes = max_bytes
        self._clock = clock or SystemClock()

    def log_hypotheses(
        self,
        *,
        user_id: str,
        user_input: str,
        hypotheses: Sequence[Proposed | Mapping[str, Any]],
        selected_id: str | None,
        persona_facets: Mapping[str, float] | None = None,
        recent_goals: Sequence[str] = (),
        preferences: Sequence[str] = (),
        label: Label | None = None,
        memories: Sequence[Mapping[str, Any]] = (),
        **origin: Unpack[Origin],
    ) -> bool:
        """Hypotheses shown for an input and the choice. Raises InvalidInput as `hypotheses_sample` does."""
        return self._log(
            samples.HYPOTHESES_FILE,
            user_id,
            origin,
            lambda about: samples.hypotheses_sample(
                about,
                user_input,
                persona_facets or {},
                recent_goals,
                preferences,
                hypotheses,
                selected_id,
                label,
                memories,
            ),
        )

    def log_persona_update(
        self,
        *,
        user_id: str,
        signal: Mapping[str, Any],
        facets_before: Mapping[str, float],
        updates: Mapping[str, float],
        facets_after: Mapping[str, float],
        source: str | None = None,
        **origin: Unpack[Origin],
    ) -> bool:
        """A signal and the facets it moved."""
        return self._log(
            samples.PERSONA_FILE,
            user_id,
            origin,
            lambda about: samples.persona_sample(
                about,
                signal,
                facets_before,
                updates,
                facets_after,
                source,
            ),
        )

    def log_ranking(
        self,
        *,
        user_id: str,
        query: str,
        candidates: Sequence[Mapping[str, Any]],
        used_ids: Sequence[Id] = (),
        is_success: bool | None = None,
        **origin: Unpack[Origin],
    ) -> bool:
        """The memories found for a query, best first, each with an `id`, and which of them were used."""
        return self._log(
            samples.RANKING_FILE,
            user_id,
            origin,
            lambda about: samples.ranking_sample(about, query, candidates, used_ids, is_success),
        )

    def log_feedback(
        self,
        *,
        user_id: str,
        execution_id: Id | None = None,
        is_success: bool | None = None,
        rating: float | None = None,
        comment: str | None = None,
        rejected_ids: Sequence[str] = (),
        **origin: Unpack[Origin],
    ) -> bool:
        """What a user said of an answer."""
        return self._log(
            samples.FEEDBACK_FILE,
            user_id,
            origin,
            lambda about: samples.feedback_sample(
                about,
                execution_id,
                is_success,
                rating,
                comment,
                rejected_ids,
            ),
        )

    def log_preference_comparison(
        self,
        user_id: str,
        hypothesis_a: str,
        hypothesis_b: str,
        preferred: Preferred | str,
        reward: float | None = None,
        **origin: Unpack[Origin],
    ) -> bool:
        """Which of two hypotheses a user prefers: `hypothesis_a`, `hypothesis_b` or `tie`, else InvalidInput."""
        return self._log(
            samples.PREFERENCES_FILE,
            user_id,
            origin,
            lambda about: samples.preference_sample(about, hypothesis_a, hypothesis_b, preferred, reward),
        )

    def get_training_stats(self, tenant_id: str | None = None) -> dict[str, int]:
        """How many samples there are of each kind, of one tenant or of all, rotated files included; damaged
        lines do not count."""
        names = {
            "hypotheses_count": samples.HYPOTHESES_FILE,
            "persona_updates_count": samples.PERSONA_FILE,
            "ranking_samples_count": samples.RANKING_FILE,
            "feedback_count": samples.FEEDBACK_FILE,
            "preferences_count": samples.PREFERENCES_FILE,
        }
        return {
            count: sum(tenant_id is None or samples.is_of_tenant(one, tenant_id) for one in self.read(file))
            for count, file in names.items()
        }

    def get_preference_data(self) -> Iterator[Sample]:
        """The preference comparisons, oldest first, one at a time."""
        return self.read(samples.PREFERENCES_FILE)

    def get_interaction_data(self) -> Iterator[Sample]:
        """The hypotheses shown and what was chosen, oldest first, one at a time."""
        return self.read(samples.HYPOTHESES_FILE)

    def read(self, file: str, on_read: Callable[[int, int], None] | None = None) -> Iterator[Sample]:
        """The samples of one of `app.domain.training.FILES`, oldest first, in constant memory.

        What is written after the first step is not seen. Damaged lines are skipped, counted in
        `damaged_lines` and logged once, at the end. `on_read` hears after every line how many bytes of how many
        were read.
        """
        damaged = done = 0
        with ExitStack() as stack:
            files = self.open_all(file, stack)
            total = sum(size for _, size in files)
            for opened, size in files:
                for line in _lines(opened, size):
                    done += len(line)
                    if on_read is not None:
                        on_read(done, total)
                    sample = _parse(line)
                    if sample is None:
                        damaged += 1
                    else:
                        yield sample
        self._report_damaged(file, damaged)

    def erase_user(self, tenant_id: str, user_id: str) -> dict[str, int]:
        """Remove every sample of a user, and every damaged line; returns the samples removed by file.

        Works while collection is off, too. Each file is replaced as a whole and is durable when this
        returns; broken off halfway, it can be called again.
        """
        removed = dict.fromkeys(samples.FILES, 0)
        if not self.directory.is_dir():
            return removed
        for file in samples.FILES:
            damaged = 0
            with self._locked(file):
                for unfinished in self.directory.glob(f"{file.removesuffix('.jsonl')}.*.new"):
                    unfinished.unlink()
                for path in self._paths(file):
                    of_user, broken = _rewrite(path, lambda one: not samples.is_of_user(one, tenant_id, user_id))
                    removed[file] += of_user
                    damaged += broken
            self._report_damaged(file, damaged)
        return removed

    def close(self) -> None:
        """Make what was written durable. The collector can be used afterwards."""
        for file in samples.FILES:
            with suppress(FileNotFoundError), (self.directory / file).open("rb") as opened:
                os.fsync(opened.fileno())

    def _log(self, file: str, user_id: str, origin: Origin, build: Callable[[samples.About], Sample]) -> bool:
        if unknown := set(origin) - set(Origin.__annotations__):
            raise TypeError(f"unexpected keyword argument {', '.join(sorted(unknown))}")
        if not self.is_enabled or not origin.get("has_consent", True):
            return False
        tenant_id, set_id = origin.get("tenant_id", "default"), origin.get("hypothesis_set_id")
        about = samples.About(self._clock.now(), user_id, tenant_id, set_id, origin.get("maker", Maker()))
        line = orjson.dumps(build(about), option=orjson.OPT_APPEND_NEWLINE)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(file):
            self._append(file, line)
        _log.info("training_data_logged", file=file, bytes=len(line))
        return True

    def _append(self, file: str, line: bytes) -> None:
        path = self.directory / file
        with _opened_to_append(path) as descriptor:
            size = _without_torn_line(descriptor)
            if size == 0 or size + len(line) <= self._max_bytes:
                _write_whole(descriptor, line, size)
                return
            os.fsync(descriptor)
        path.rename(self._next_rotated(file))
        _sync_directory(self.directory)
        with _opened_to_append(path) as descriptor:
            _write_whole(descriptor, line, 0)

    @contextmanager
    def _locked(self, file: str) -> Generator[None]:
        """Hold the file's lock, against other processes and other threads."""
        lock = os.open(self.directory / f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _rotated(self, file: str) -> list[tuple[int, Path]]:
        """The full files of a name, oldest first, with their numbers."""
        stem = file.removesuffix(".jsonl")
        pattern = re.compile(rf"{re.escape(stem)}\.([1-9]\d*)\.jsonl")
        found = [(match, path) for path in self.directory.iterdir() if (match := pattern.fullmatch(path.name))]
        return sorted((int(match[1]), path) for match, path in found)

    def _next_rotated(self, file: str) -> Path:
        rotated = self._rotated(file)
        number = rotated[-1][0] + 1 if rotated else 1
        return self.directory / f"{file.removesuffix('.jsonl')}.{number}.jsonl"

    def _paths(self, file: str) -> list[Path]:
        """All files of a name that exist, oldest first."""
        paths = [path for _, path in self._rotated(file)]
        active = self.directory / file
        return [*paths, active] if active.exists() else paths

    def open_all(self, file: str, stack: ExitStack) -> list[tuple[BinaryIO, int]]:
        """All files of a name, opened at one moment, with their sizes then."""
        if not self.directory.is_dir():
            return []
        with self._locked(file):
            opened: list[BinaryIO] = [stack.enter_context(path.open("rb")) for path in self._paths(file)]
            return [(one, os.fstat(one.fileno()).st_size) for one in opened]

    def _report_damaged(self, file: str, damaged: int) -> None:
        self.damaged_lines[file] = damaged
        if damaged:
            _log.warning("training_lines_damaged", file=file, lines=damaged)


def _lines(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines in the first `size` bytes, without blank ones."""
    for line in opened:
        size -= len(line)
        if size < 0:
            return
        if line.strip():
            yield line


def _parse(line: bytes) -> Sample | None:
    """The sample in a line; None for a damaged one."""
    try:
        sample = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return cast("Sample", sample) if isinstance(sample, dict) else None


@contextmanager
def _opened_to_append(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _without_torn_line(descriptor: int) -> int:
    """Cut off a line without an end, where a writer was killed; the size then, in bytes.

    A last line that is whole but for its newline (an edited file) gets one.
    """
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if _parse(os.pread(descriptor, size - end, end)) is not None:
        _write_whole(descriptor, b"\n", size)
        return size + 1
    os.ftruncate(descriptor, end)
    _log.warning("training_line_repaired", bytes=size - end)
    return end


def _write_whole(descriptor: int, line: bytes, size: int) -> None:
    """Append a line to a file of `size` bytes, all of it or (raising OSError) nothing."""
    try:
        written = os.write(descriptor, line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written")
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _rewrite(path: Path, is_kept: Callable[[Sample], bool]) -> tuple[int, int]:
    """Replace a file by one with only the samples to keep: (samples left out, damaged lines left out).

    A file that loses nothing is left as it is, one that loses everything is deleted.
    """
    kept = left_out = damaged = 0
    with path.open("rb") as old:
        for line in _lines(old, os.fstat(old.fileno()).st_size):
            sample = _parse(line)
            damaged += sample is None
            left_out += sample is not None and not is_kept(sample)
            kept += sample is not None and is_kept(sample)
    if left_out + damaged == 0:
        return 0, 0
    if kept:
        _copy_kept(path, is_kept)
    else:
        path.unlink()
    _sync_directory(path.parent)
    return left_out, damaged


def _copy_kept(path: Path, is_kept: Callable[[Sample], bool]) -> None:
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with path.open("rb") as old, open(descriptor, "wb") as out:
        for line in _lines(old, os.fstat(old.fileno()).st_size):
            sample = _parse(line)
            if sample is not None and is_kept(sample):
                out.write(line.rstrip(b"\n") + b"\n")
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
