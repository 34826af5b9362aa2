"""From the ranking log to pairs that an embedding model is fine-tuned on."""

import hashlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from app.domain import training
from app.domain.datasets import owner_of, without_secrets
from app.domain.errors import InvalidInput, NotReady
from app.domain.pairs import DEFAULT_NEGATIVES, Pair, pairs_of
from app.domain.training import Sample
from app.services.training.pair_files import Format, PairTarget, pairs_folder, place_for
from app.services.training.trainer import ModelTrainer

log = structlog.get_logger(__name__)

MOST_NEGATIVES = 50

_STEP = 500
"""Samples between two reports of progress."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and what it left out: whole samples as `dropped`, memories and rows as `rows_dropped`."""

    file: str
    is_reached: bool
    """Whether an erasure finds the file."""

    rows: int
    users: int
    without_negatives: int
    samples: int
    damaged_lines: int
    dropped: dict[str, int]
    rows_dropped: dict[str, int]
    redacted: dict[str, int]
    seconds: float

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class PairExport:
    """Makes pairs of a tenant's ranking samples, read one at a time.

    Only samples of users who consent are ever written, and an erasure takes them out of the log: what is not there
    is not exported. Memory grows by the users, not by the rows.
    """

    def __init__(self, trainer: ModelTrainer) -> None:
        self._trainer = trainer
        self._collector = trainer.collector

    def export(
        self,
        tenant_id: str,
        output: Path | None = None,
        form: Format = "jsonl",
        negatives: int = DEFAULT_NEGATIVES,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Exported:
        """Write the tenant's pairs to `output`, by default among the samples, with up to `negatives` hard negatives
        each. `on_progress` hears bytes read of how many.

        The file appears by one rename; broken off, what was there stands. Each (query, memory) is written once.
        Raises InvalidInput for an `output` that no erasure would find, NotReady where there are no pairs, OSError.
        """
        if not 0 <= negatives <= MOST_NEGATIVES:
            raise InvalidInput(f"negatives is a number from 0 to {MOST_NEGATIVES}.", field="negatives")
        started = time.monotonic()
        place = place_for(self._collector.directory, tenant_id, output, form)
        folder = pairs_folder(self._collector.directory, tenant_id)
        counts = _Counts()
        with PairTarget(folder, place, form, self._trainer.make_split_key()) as target, closing(_Seen()) as seen:
            for sample in self._collector.read(training.RANKING_FILE, _rarely(on_progress)):
                if training.is_of_tenant(sample, tenant_id):
                    counts.samples += 1
                    self._export(sample, negatives, target, seen, counts)
            if not counts.rows:
                raise NotReady(_nothing(tenant_id, counts))
            target.publish()
        counts.dropped_rows["erased"] += target.erased
        made = Exported(
            str(place),
            place.resolve().is_relative_to(folder.resolve()),
            sum(target.users.values()),
            len(target.users),
            counts.without_negatives,
            counts.samples,
            self._collector.damaged_lines[training.RANKING_FILE],
            dict(sorted(counts.dropped.items())),
            {name: count for name, count in sorted(counts.dropped_rows.items()) if count},
            dict(sorted(counts.redacted.items())),
            round(time.monotonic() - started, 3),
        )
        log.info("training_pairs_exported", rows=made.rows, users=made.users, seconds=made.seconds)
        return made

    def _export(self, sample: Sample, negatives: int, target: PairTarget, seen: "_Seen", counts: "_Counts") -> None:
        owner = owner_of(sample)
        if owner is None or sample.get("consent") is False:
            counts.dropped["malformed" if owner is None else "no_consent"] += 1
            return
        sample, found = without_secrets(sample)
        paired = pairs_of(sample, negatives)
        counts.dropped_rows["standing"] += paired.standing
        if paired.reason is not None:
            counts.dropped[paired.reason] += 1
            return
        counts.redacted.update(found)
        user = target.key.user(*owner)
        for pair in paired.pairs:
            if seen.is_new(pair):
                counts.rows += 1
                counts.without_negatives += not pair.negatives
                row = {"text_a": pair.query, "text_b": pair.memory, "negative": list(pair.negatives), "user": user}
                target.write(row)
            else:
                counts.dropped_rows["duplicate"] += 1


class _Counts:
    """What became of the samples."""

    def __init__(self) -> None:
        self.samples = self.rows = self.without_negatives = 0
        self.dropped: Counter[str] = Counter()
        self.dropped_rows: Counter[str] = Counter()
        self.redacted: Counter[str] = Counter()


class _Seen:
    """Which pairs were written before, on disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file, gone when it is closed
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE pairs (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def is_new(self, pair: Pair) -> bool:
        """Whether no earlier pair says the same but for case."""
        said = f"{pair.query}\0{pair.memory}".casefold().encode("utf-8", "replace")
        digest = hashlib.blake2b(said, digest_size=16).digest()
        return self._database.execute("INSERT OR IGNORE INTO pairs VALUES (?)", (digest,)).rowcount == 1

    def close(self) -> None:
        """Forget them."""
        self._database.close()


def _rarely(on_progress: Callable[[int, int], None] | None) -> Callable[[int, int], None] | None:
    """Every so many times, and at the end."""
    if on_progress is None:
        return None
    calls = 0

    def report(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls % _STEP == 0 or done == total:
            on_progress(done, total)

    return report


def _nothing(tenant_id: str, counts: _Counts) -> str:
    """Why there are no pairs, and what to do."""
    if not counts.samples:
        return (
            f"There are no ranking samples of the tenant {tenant_id!r}: ENABLE_TRAINING_DATA_COLLECTION=true collects "
            "them, one for each POST /v1/execute."
        )
    why = ", ".join(f"{name} {count}" for name, count in sorted((counts.dropped + counts.dropped_rows).items()))
    return f"None of the {counts.samples} ranking samples makes a pair: {why}."
