"""From samples to datasets: cleaned, without doubles, split by user and by time, and erasable.

    {output_dir}/hypotheses_chat.jsonl          what is trained on
    {output_dir}/hypotheses_chat.heldout.jsonl  users that training never sees
    {output_dir}/hypotheses_chat.later.jsonl    the other users, after the last moment of training

and the same for `preferences`, `facets_chat` and `rerank`; `dataset_summary.json` says what went in and what did not.
"""

import hashlib
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from app.domain import datasets, training
from app.domain.datasets import DATASETS, SOURCES, SPLITS, DatasetOptions, SplitKey
from app.domain.instructions import PROMPT_VERSION
from app.domain.training import Sample
from app.services.training.collector import TrainingDataCollector
from app.services.training.dataset_files import Target
from app.services.training.duplicates import SeenSamples
from app.services.training.study import Part, Rules, Spread, Student, Studied, parse, set_of

SUMMARY_VERSION = 1

_STEP = 1000
"""Samples between two reports of progress."""


@dataclass(frozen=True)
class Progress:
    """How far a preparation is, in bytes of samples; each is read twice."""

    stage: Literal["reading", "writing"]
    done: int
    total: int


OnProgress = Callable[[Progress], None]


@dataclass
class Counts:
    """What became of the samples that a dataset was offered."""

    samples_in: int = 0
    samples_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    rows_dropped: Counter[str] = field(default_factory=Counter[str])
    redacted: Counter[str] = field(default_factory=Counter[str])

    def summary(self) -> dict[str, Any]:
        return {
            "samples_in": self.samples_in,
            "samples_out": self.samples_out,
            "dropped": dict(sorted(self.dropped.items())),
            "rows_dropped": dict(sorted(self.rows_dropped.items())),
            "redacted": dict(sorted(self.redacted.items())),
        }


@dataclass
class _Survey:
    """What the first reading finds out."""

    samples: Counter[str] = field(default_factory=Counter[str])
    damaged: Counter[str] = field(default_factory=Counter[str])
    checksums: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    owned: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    """Samples by file and user; counted only where a user has a limit."""

    heldout: set[int] = field(default_factory=set[int])
    trained: set[int] = field(default_factory=set[int])
    moments: "array[int]" = field(default_factory=lambda: array("q"))
    heldout_moments: "array[int]" = field(default_factory=lambda: array("q"))
    cut: int = 0
    is_split_by_user: bool = True


class Preparation:
    """One run: everything is read once to know the users and the times, and once more to write."""

    def __init__(
        self,
        collector: TrainingDataCollector,
        key: SplitKey,
        target: Target,
        tenant_id: str | None,
        options: DatasetOptions,
        count: Callable[[str], int],
        spread: Spread | None = None,
    ) -> None:
        self._collector = collector
        self._key = key
        self._target = target
        self._rules = Rules(key, tenant_id, options)
        self._options = options
        self._count = count
        self._spread = spread
        self._survey = _Survey()
        self._counts = {name: Counts() for name in DATASETS.values()}
        self._used: Counter[tuple[str, int]] = Counter()

    def run(self, report: OnProgress) -> dict[str, Any]:
        """Write the datasets; the summary, but for what the caller knows better."""
        with _Samples(self._collector, report) as samples, closing(_TurnedDown()) as turned_down:
            for file in training.FILES:
                self._survey_file(file, samples, turned_down)
            self._settle_splits()
            for file, studies in self._studies(samples, turned_down):
                with closing(SeenSamples(self._survey.samples[file], self._options.near_duplicate)) as seen:
                    for studied in studies:
                        if studied is not None:
                            self._take(file, studied, seen)
        return self._summary()

    def _survey_file(self, file: str, samples: "_Samples", turned_down: "_TurnedDown") -> None:
        survey = self._survey
        for sample in samples.read(file, "reading"):
            if sample is None:
                survey.damaged[file] += 1
                continue
            if not self._rules.wants(sample):
                continue
            survey.samples[file] += 1
            owner, moment = datasets.owner_of(sample), datasets.moment_of(sample)
            if owner is None or moment is None:
                continue
            if file == training.FEEDBACK_FILE:
                turned_down.add(owner, sample)
                continue
            user = self._key.user(*owner)
            is_heldout = self._key.is_heldout(user, self._options.heldout_share)
            (survey.heldout if is_heldout else survey.trained).add(_number(user))
            (survey.heldout_moments if is_heldout else survey.moments).append(moment)
            if self._options.max_per_user is not None:
                survey.owned[file, _number(user)] += 1
        survey.checksums[file] = samples.checksums(file)

    def _settle_splits(self) -> None:
        """Where every user would be held out, as in the first days of a service, nobody is."""
        survey = self._survey
        if not survey.moments:
            survey.is_split_by_user = False
            survey.moments, survey.trained = survey.heldout_moments, survey.heldout
            survey.heldout = set()
        moments = sorted(survey.moments)
        survey.cut = datasets.cut_at(moments, self._options.later_share) or 0
        survey.moments = survey.heldout_moments = array("q")

    def _studies(
        self, samples: "_Samples", turned_down: "_TurnedDown"
    ) -> Iterator[tuple[str, Iterable[Studied | None]]]:
        """Each file with what its samples come to, in their order."""
        if self._spread is None:
            student = Student(self._rules, self._count, turned_down.of)
            for file in SOURCES:
                yield file, (student.study(file, each) for each in samples.read(file, "writing") if each is not None)
            return
        parts = self._spread.study(self._rules, {file: samples.opened(file) for file in SOURCES}, turned_down.all())
        for file, own in groupby(parts, key=lambda part: part.file):
            yield file, samples.passed(own)

    def _take(self, file: str, studied: Studied, seen: SeenSamples) -> None:
        """Write what a sample teaches, or count why it teaches nothing."""
        for name in SOURCES[file]:
            self._counts[name].samples_in += 1
        if studied.unfit is not None:
            self._drop(SOURCES[file], studied.unfit)
            return
        if self._is_over_limit(file, _number(studied.user)):
            self._drop(SOURCES[file], "over_limit")
            return
        for name, reason in studied.dropped.items():
            self._drop([name], reason)
        for name, count in studied.too_long.items():
            if count:
                self._counts[name].rows_dropped["too_long"] += count
        written = {name: rows for name, rows in studied.rows.items() if rows}
        self._drop([name for name in studied.rows if name not in written], "too_long")
        if studied.sketch is None:
            return
        split = self._split(studied.user, studied.moment)
        if double := seen.look_at(studied.sketch, SPLITS.index(split)):
            where = SPLITS[double.split]
            self._drop(written, double.kind if where == split else f"{double.kind}_of_{where}")
            return
        for name, rows in written.items():
            self._counts[name].samples_out += 1
            self._counts[name].redacted.update(studied.redacted)
            for row in rows:
                self._target.write(name, split, row)

    def _is_over_limit(self, file: str, user: int) -> bool:
        """Whether a user has so many newer samples in a file that this one is too many."""
        if self._options.max_per_user is None:
            return False
        self._used[file, user] += 1
        return self._survey.owned[file, user] - self._used[file, user] >= self._options.max_per_user

    def _split(self, user: str, moment: int) -> datasets.Split:
        is_heldout = self._survey.is_split_by_user and self._key.is_heldout(user, self._options.heldout_share)
        return datasets.split_of(is_heldout, moment, self._survey.cut)

    def _drop(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self._counts[name].dropped[reason] += 1

    def _summary(self) -> dict[str, Any]:
        survey = self._survey
        inputs = {
            file: {
                "samples": survey.samples[file],
                "damaged_lines": survey.damaged[file],
                "sha256": survey.checksums[file],
            }
            for file in training.FILES
        }
        has_samples = bool(survey.trained)
        return {
            "version": SUMMARY_VERSION,
            "prompt_version": PROMPT_VERSION,
            "schema_version": training.SCHEMA_VERSION,
            "datasketch": version("datasketch"),
            "key_id": self._key.key_id,
            "tenant": None if self._rules.tenant_id is None else self._key.tenant(self._rules.tenant_id),
            "options": asdict(self._options),
            "cut_at": datetime.fromtimestamp(survey.cut, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if has_samples else None,
            "users": {"train": len(survey.trained), "heldout": len(survey.heldout)},
            "inputs": inputs,
            "datasets": {name: counts.summary() for name, counts in self._counts.items()},
            "files": self._target.summary(),
            "erasures": 0,
        }


class _Samples:
    """All files of samples as they are at one moment, whatever is written, rotated or erased meanwhile."""

    def __init__(self, collector: TrainingDataCollector, report: OnProgress) -> None:
        self._collector = collector
        self._report = report
        self._stack = ExitStack()
        self._files: dict[str, list[tuple[BinaryIO, int]]] = {}
        self._hashes: dict[str, dict[str, str]] = {}
        self._done = self._total = 0

    def __enter__(self) -> "_Samples":
        with ExitStack() as stack:
            for file in training.FILES:
                self._files[file] = self._collector.open_all(file, stack)
            self._stack = stack.pop_all()
        sizes = {file: sum(size for _, size in opened) for file, opened in self._files.items()}
        self._total = sum(sizes.values()) + sum(sizes[file] for file in SOURCES)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, file: str, stage: Literal["reading", "writing"]) -> Iterator[Sample | None]:
        """The samples of a file, oldest first; None for a damaged line. The first reading works out checksums."""
        number = 0
        for opened, size in self._files[file]:
            opened.seek(0)
            digest = hashlib.sha256() if stage == "reading" else None
            left = size
            for line in opened:
                if len(line) > left:
                    break
                left -= len(line)
                if digest is not None:
                    digest.update(line)
                number += 1
                if number % _STEP == 0:
                    self._report(Progress(stage, self._done + size - left, self._total))
                if line.strip():
                    yield parse(line)
            self._done += size
            self._report(Progress(stage, self._done, self._total))
            if digest is not None:
                self._hashes.setdefault(file, {})[Path(opened.name).name] = digest.hexdigest()

    def opened(self, file: str) -> Sequence[tuple[BinaryIO, int]]:
        """The files of a name, oldest first, each with the size that counts."""
        return self._files[file]

    def passed(self, parts: Iterable[Part]) -> Iterator[Studied | None]:
        """What somebody else read and studied, reported as if it was read here."""
        for part in parts:
            yield from part.studied
            self._done += part.size
            self._report(Progress("writing", self._done, self._total))

    def checksums(self, file: str) -> dict[str, str]:
        """The sha256 of the files of a name, rotated ones too, as far as they were read."""
        return self._hashes.get(file, {})


class _TurnedDown:
    """Which hypotheses feedback turned down, by their set, on disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a temporary file, gone when it is closed
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE rejected (of BLOB, ids BLOB)")
        self._is_indexed = False

    def add(self, owner: tuple[str, str], feedback: Sample) -> None:
        """Keep the `rejected_ids` of a feedback that says which set it is about."""
        ids = feedback.get("rejected_ids")
        if isinstance(ids, list) and ids and feedback.get("hypothesis_set_id"):
            self._database.execute("INSERT INTO rejected VALUES (?, ?)", (set_of(owner, feedback), orjson.dumps(ids)))

    def of(self, owner: tuple[str, str], sample: Sample) -> frozenset[str]:
        """What was turned down of the set that a sample is about, by its owner."""
        if not sample.get("hypothesis_set_id"):
            return frozenset()
        if not self._is_indexed:
            self._database.execute("CREATE INDEX by_set ON rejected (of)")
            self._is_indexed = True
        found = self._database.execute("SELECT ids FROM rejected WHERE of = ?", (set_of(owner, sample),))
        return frozenset(str(one) for (ids,) in found for one in orjson.loads(ids))

    def all(self) -> dict[bytes, frozenset[str]]:
        """What was turned down, by `set_of`."""
        found: dict[bytes, frozenset[str]] = {}
        for of, ids in self._database.execute("SELECT of, ids FROM rejected"):
            found[of] = found.get(of, frozenset()) | {str(one) for one in orjson.loads(ids)}
        return found

    def close(self) -> None:
        """Forget everything."""
        self._database.close()


def _number(user: str) -> int:
    return int(user[:16], 16)
