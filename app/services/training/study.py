"""What each sample comes to by itself: studied here one after the other, or by a `Spread` somewhere else."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, cast

import orjson

from app.domain import datasets, training
from app.domain.datasets import DatasetOptions, Row, SplitKey
from app.domain.lessons import Lesson, taught_by
from app.domain.training import Sample
from app.services.training.duplicates import Sketch, Sketcher


@dataclass(frozen=True)
class Rules:
    """What samples are studied by: of which tenant (None: of all), and how."""

    key: SplitKey
    tenant_id: str | None
    options: DatasetOptions

    def wants(self, sample: Sample) -> bool:
        """Whether a sample is of the tenant."""
        return self.tenant_id is None or training.is_of_tenant(sample, self.tenant_id)


@dataclass(frozen=True)
class Studied:
    """What a sample comes to by itself: the rows that it would give each dataset, how many more were too long, and
    why there are none. Everything else about it is decided beside the others."""

    unfit: str | None = None
    user: str = ""
    moment: int = 0
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, Sequence[Row]])
    too_long: Mapping[str, int] = field(default_factory=dict[str, int])
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])
    redacted: Mapping[str, int] = field(default_factory=dict[str, int])
    sketch: Sketch | None = None


class Student:
    """Studies samples one by one: redacted again, judged, counted and sketched. Nothing that it finds depends on
    another sample, but for what feedback turned down."""

    def __init__(
        self,
        rules: Rules,
        count: Callable[[str], int],
        turned_down: Callable[[tuple[str, str], Sample], frozenset[str]],
    ) -> None:
        """`count` counts tokens; `turned_down` gives the ids that feedback turned down of a sample's set."""
        self._rules = rules
        self._count = count
        self._turned_down = turned_down
        self._sketcher = Sketcher()

    def study(self, file: str, sample: Sample) -> Studied | None:
        """None for a sample of another tenant."""
        if not self._rules.wants(sample):
            return None
        owner, moment = datasets.owner_of(sample), datasets.moment_of(sample)
        if owner is None or moment is None:
            return Studied(unfit="malformed")
        if sample.get("consent") is False:
            return Studied(unfit="no_consent")
        meta = datasets.meta_of(sample, self._rules.key, owner)
        sample, found = datasets.without_secrets(sample)
        rejected = self._turned_down(owner, sample) if file == training.HYPOTHESES_FILE else frozenset[str]()
        taught = taught_by(file, sample, self._rules.key, rejected)
        dropped = {name: each.reason for name, each in taught.lessons.items() if not isinstance(each, Lesson)}
        rows: dict[str, list[Row]] = {}
        too_long: dict[str, int] = {}
        for name, lesson in taught.lessons.items():
            if isinstance(lesson, Lesson):
                rows[name] = self._fitting(lesson, meta)
                too_long[name] = len(lesson.rows) - len(rows[name])
        is_any = any(rows.values())
        sketch = self._sketcher.sketch(taught.said, taught.known) if is_any else None
        return Studied(None, meta["user"], moment, rows, too_long, dropped, found, sketch)

    def _fitting(self, lesson: Lesson, meta: Row) -> list[Row]:
        """The rows of a lesson that are not too long, with their `meta`."""
        rows: list[Row] = []
        for row, label in lesson.rows:
            tokens = datasets.tokens_in(row, self._count)
            if tokens <= self._rules.options.max_tokens:
                rows.append({**row, "meta": {**meta, "label": label, "tokens": tokens}})
        return rows


@dataclass(frozen=True)
class Part:
    """Samples of a file that were studied together, in their order, and how many bytes they were."""

    file: str
    size: int
    studied: Sequence[Studied | None]


class Spread(Protocol):
    """Studies samples somewhere else."""

    def study(
        self,
        rules: Rules,
        files: Mapping[str, Sequence[tuple[BinaryIO, int]]],
        turned_down: Mapping[bytes, frozenset[str]],
    ) -> Iterator[Part]:
        """The samples of the files, each read up to its size, file by file in their order; `turned_down` by
        `set_of`."""
        ...


def parse(line: bytes) -> Sample | None:
    """The sample in a line; None for a damaged one."""
    try:
        sample = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return cast("Sample", sample) if isinstance(sample, dict) else None


def set_of(owner: tuple[str, str], sample: Sample) -> bytes:
    """Which set of hypotheses of whom a sample is about. It has to say so."""
    return hashlib.blake2b(orjson.dumps([*owner, str(sample["hypothesis_set_id"])]), digest_size=16).digest()
