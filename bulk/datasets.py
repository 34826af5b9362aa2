"""Preparing training datasets with the study of samples spread over a Ray cluster.

Samples are in files, not in the database: consent was asked when they were written, and an erasure rewrites them. What
is spread is what costs and needs no other sample (`app.services.training.study`): parsing, redaction, judging, counting
tokens, sketching. What depends on the samples before stays in this process: limits per user, doubles, the files. So the
bytes are those of `embed-service train datasets`.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from app.domain.datasets import DatasetOptions
from app.domain.training import Sample
from app.services.training.datasets import OnProgress
from app.services.training.run_files import datasets_folder
from app.services.training.study import Part, Rules, Student, Studied, parse, set_of
from app.services.training.trainer import CACHED_LINES, DEFAULT_OPTIONS
from app.settings import Settings
from app.wiring_training import build_collector, build_trainer
from bulk.cluster import CORES, cause_of, ray_module

SHARD_BYTES = 2**20
"""Of a file of samples, about: a shard ends with a line."""

Row = dict[str, Any]
TurnedDown = Mapping[bytes, frozenset[str]]


@dataclass(frozen=True)
class Shard:
    """A stretch of a file of samples as it was when the preparation began: its place, and what it has to hold."""

    file: str
    path: str
    start: int
    size: int
    sha256: bytes

    def read(self) -> bytes | None:
        """Its lines; None where the file was rotated or rewritten since, or is not on this node."""
        try:
            with open(self.path, "rb") as opened:
                opened.seek(self.start)
                lines = opened.read(self.size)
        except OSError:
            return None
        return lines if hashlib.sha256(lines).digest() == self.sha256 else None


def shards_of(file: str, opened: BinaryIO, size: int, about: int) -> Iterator[Shard]:
    """The first `size` bytes of an open file in shards of `about` so many bytes, which end with a line."""
    start = 0
    while start < size:
        opened.seek(start)
        lines = opened.read(min(about, size - start))
        if not lines.endswith(b"\n"):
            lines += opened.readline(size - start - len(lines))
        if not lines:
            return
        yield Shard(file, str(Path(opened.name).resolve()), start, len(lines), hashlib.sha256(lines).digest())
        start += len(lines)


class Studying:
    """Studies the lines of a shard; the tokenizer is loaded once."""

    def __init__(
        self, rules: Rules, turned_down: Callable[[], TurnedDown], counter: Callable[[], Callable[[str], int]]
    ) -> None:
        """`turned_down` gives what feedback turned down, `counter` what counts tokens."""
        rejected = turned_down()

        def of(owner: tuple[str, str], sample: Sample) -> frozenset[str]:
            return rejected.get(set_of(owner, sample), frozenset()) if sample.get("hypothesis_set_id") else frozenset()

        self._student = Student(rules, lru_cache(maxsize=CACHED_LINES)(counter()), of)

    def __call__(self, row: Row) -> Row:
        """`studied`, pickled, of the shard that a row names; empty where it cannot be read as it was."""
        shard = Shard(**row)
        lines = shard.read()
        return {"studied": b"" if lines is None else pickle.dumps(self.study(shard.file, lines))}

    def study(self, file: str, lines: bytes) -> list[Studied | None]:
        """Each sample of the lines, in their order; damaged ones are left out."""
        samples = (parse(line) for line in BytesIO(lines) if line.strip())
        return [self._student.study(file, each) for each in samples if each is not None]


class RaySpread:
    """The Spread port on the Ray cluster that this process has joined."""

    def __init__(
        self, workers: int, counter: Callable[[], Callable[[str], int]], shard_bytes: int = SHARD_BYTES
    ) -> None:
        """`counter` gives what counts tokens, in a process of the cluster."""
        self.read_here = 0
        """Shards that the cluster could not read as they were: they are studied here, out of the file held open."""
        self._workers = workers
        self._counter = counter
        self._shard_bytes = shard_bytes

    def study(
        self, rules: Rules, files: Mapping[str, Sequence[tuple[BinaryIO, int]]], turned_down: TurnedDown
    ) -> Iterator[Part]:
        """As the port promises, shard by shard. Raises JobFailed."""
        held = [
            (opened, shard)
            for file, several in files.items()
            for opened, size in several
            for shard in shards_of(file, opened, size, self._shard_bytes)
        ]
        if not held:
            return
        here: Studying | None = None
        rows = self._rows([shard for _, shard in held], rules, turned_down)
        for opened, shard in held:
            try:
                pickled: bytes = next(rows)["studied"]
            except Exception as error:
                raise cause_of(error) from error
            if pickled:
                studied = pickle.loads(pickled)  # noqa: S301 - made by a process of this job
            else:
                here = here or Studying(rules, lambda: turned_down, self._counter)
                opened.seek(shard.start)
                studied = here.study(shard.file, opened.read(shard.size))
                self.read_here += 1
            yield Part(shard.file, shard.size, studied)

    def _rows(self, shards: Sequence[Shard], rules: Rules, turned_down: TurnedDown) -> Iterator[Any]:
        ray, data = ray_module(), ray_module("ray.data")
        data.DataContext.get_current().execution_options.preserve_order = True
        told = ray.put(turned_down)
        return iter(
            data.from_items([asdict(each) for each in shards], override_num_blocks=len(shards))
            .map(
                Studying,
                fn_constructor_args=(rules, partial(ray.get, told), self._counter),
                compute=data.ActorPoolStrategy(size=self._workers),
                num_cpus=CORES,
            )
            .iter_rows()
        )


async def prepare(
    settings: Settings,
    tenant_id: str,
    workers: int,
    *,
    options: DatasetOptions = DEFAULT_OPTIONS,
    tokenizer_file: Path | None = None,
    is_dry_run: bool = False,
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """`ModelTrainer.prepare_training_dataset` for a tenant on the Ray cluster that this process has joined, with
    `read_here` beside what that returns: shards that the cluster could not read, as where the samples' folder is not at
    the same place on every node. Raises as that does, and JobFailed."""
    spread = RaySpread(workers, partial(_counter, settings, tokenizer_file), shard_bytes)
    made = await build_trainer(build_collector(settings)).prepare_training_dataset(
        datasets_folder(settings.training_dir, tenant_id),
        tenant_id,
        is_dry_run,
        on_progress,
        options=options,
        tokenizer_file=tokenizer_file,
        spread=spread,
    )
    return {**made, "read_here": spread.read_here}


def _counter(settings: Settings, tokenizer_file: Path | None) -> Callable[[str], int]:
    return build_trainer(build_collector(settings)).counter(tokenizer_file)[0]
