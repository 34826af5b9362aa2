"""From a file of pairs to rows to train on, in one pass and bounded memory: checked, without duplicates, split.

Rows lie on disk as Arrow files, which are mapped and not read. Columns: `anchor`, `positive`, `negatives`, `group`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from fine_tuning.embedding.duplicates import SeenPairs
from fine_tuning.embedding.errors import BadRows, FineTuningError
from fine_tuning.embedding.pairs import BadRow, Pair, read_pairs

LEAST_FOR_SPLIT = 20
"""Of fewer rows none are held out."""

LARGEST_SHARE = 0.2
"""Of the rows, held out at most where single rows are; whole groups may be a little more."""

MOST_NEGATIVES = 8
"""Of one pair; further ones are left out."""

_SHOWN = 10
_FEATURES = Features(
    {
        "anchor": Value("string"),
        "positive": Value("string"),
        "negatives": List(Value("string")),
        "group": Value("string"),
    }
)
_DONE = "rows.json"


@dataclass(frozen=True)
class Rows:
    """What there is to train on and to compare by."""

    train: Dataset
    heldout: Dataset | None
    counts: dict[str, int]
    """Rows read, of each kind left out, trained on and held out."""


@dataclass
class _Reading:
    """One pass over a file."""

    skips_bad_rows: bool
    seen: SeenPairs
    counts: Counter[str] = field(default_factory=Counter[str])
    bad: list[str] = field(default_factory=list[str])

    def new_pairs(self, path: Path, prefix: str = "") -> Iterator[Pair]:
        """Pairs that are worth keeping. Raises BadRows at the end of the file where there were bad ones."""
        for row in read_pairs(path):
            self.counts[prefix + "read"] += 1
            if isinstance(row, BadRow):
                self.counts[prefix + "bad"] += 1
                if len(self.bad) < _SHOWN:
                    self.bad.append(str(row))
                continue
            same = "same_text" if row.anchor.strip() == row.positive.strip() else self.seen.look(row)
            if same:
                self.counts[prefix + same] += 1
            else:
                yield row
        if self.bad and not self.skips_bad_rows:
            rest = self.counts[prefix + "bad"] - len(self.bad)
            more = [f"and {rest} more"] if rest else []
            found = f"{path} has {self.counts[prefix + 'bad']} bad rows of {self.counts[prefix + 'read']}"
            raise BadRows("\n".join([*self.bad, *more, f"{found}; mend them, or leave them out with --skip-bad-rows."]))


def prepare_rows(folder: Path, data: Path, heldout_data: Path | None, most_heldout: int, skips_bad_rows: bool) -> Rows:
    """The rows of `data`, kept in `folder`; taken from there where an earlier call has finished.

    At most about `most_heldout` rows are held out: those of `heldout_data`, of which no copy is trained on, or else
    whole groups of `data`, in an order that depends on their names only. A pair without a group is in one with all
    pairs of its anchor. Raises BadRows, FineTuningError.
    """
    done = folder / _DONE
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        reading = _Reading(skips_bad_rows, SeenPairs(_count_lines(data) + _count_lines(heldout_data)))
        if heldout_data:
            kept = write_rows(folder / "heldout.arrow", reading.new_pairs(heldout_data, "heldout_"))
            if not kept:
                raise FineTuningError(f"{heldout_data} holds no pair to compare by.")
        if not write_rows(folder / "train.arrow", reading.new_pairs(data)):
            raise FineTuningError(f"{data} holds no pair to train on.")
        if not heldout_data:
            _split(folder, most_heldout)
        done.write_text(json.dumps(reading.counts), "utf8")
    train = Dataset.from_file(str(folder / "train.arrow"))
    heldout = Dataset.from_file(str(folder / "heldout.arrow")) if (folder / "heldout.arrow").is_file() else None
    counts: dict[str, int] = json.loads(done.read_text("utf8"))
    counts |= {"train": len(train), "heldout": len(heldout or [])}
    if heldout is not None and len(heldout) > most_heldout:
        heldout = heldout.shuffle(seed=0).select(range(most_heldout)) if most_heldout else None
    return Rows(train, heldout, counts)


def write_rows(file: Path, pairs: Iterable[Pair]) -> int:
    """Keep the pairs as an Arrow file; how many they were."""
    with ArrowWriter(features=_FEATURES, path=str(file)) as writer:
        for pair in pairs:
            row = {"anchor": pair.anchor, "positive": pair.positive, "group": pair.group}
            writer.write(row | {"negatives": list(pair.negatives[:MOST_NEGATIVES])})
        return writer.finalize()[0]


def pairs_of(rows: Dataset) -> Iterator[Pair]:
    """The rows as pairs."""
    for row in rows:
        yield Pair(row["anchor"], row["positive"], tuple(row["negatives"]), row["group"])


def training_sets(rows: Dataset, folder: Path) -> Dataset | DatasetDict:
    """The rows as a trainer takes them: `anchor`, `positive`, `negative_1`, …; a set for each number of negatives."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[int, ArrowWriter] = {}
    for pair in pairs_of(rows):
        count = len(pair.negatives)
        names = ["anchor", "positive", *(f"negative_{number}" for number in range(1, count + 1))]
        if count not in writers:
            features = Features({name: Value("string") for name in names})
            writers[count] = ArrowWriter(features=features, path=str(folder / f"{count}.arrow"))
        writers[count].write(dict(zip(names, (pair.anchor, pair.positive, *pair.negatives), strict=True)))
    for writer in writers.values():
        writer.finalize()
        writer.close()
    sets = {f"negatives_{count}": Dataset.from_file(str(folder / f"{count}.arrow")) for count in sorted(writers)}
    return DatasetDict(sets) if len(sets) > 1 else next(iter(sets.values()))


def _split(folder: Path, most_heldout: int) -> None:
    """Move whole groups from train.arrow to heldout.arrow."""
    whole = Dataset.from_file(str(folder / "train.arrow"))
    wanted = min(most_heldout, int(LARGEST_SHARE * len(whole)))
    if wanted == 0 or len(whole) < LEAST_FOR_SPLIT:
        return
    sizes = Counter(_group_of(pair) for pair in pairs_of(whole))
    chosen: set[int] = set()
    held = 0
    for group, size in sorted(sizes.items()):
        if held >= wanted:
            break
        if held + size <= len(whole) / 2:  # a group that is most of the data stays with training
            chosen.add(group)
            held += size
    for name, is_heldout in (("heldout", True), ("rest", False)):
        kept = (pair for pair in pairs_of(whole) if (_group_of(pair) in chosen) == is_heldout)
        write_rows(folder / f"{name}.arrow", kept)
    if not chosen:
        (folder / "heldout.arrow").unlink()
    (folder / "rest.arrow").replace(folder / "train.arrow")


def _group_of(pair: Pair) -> int:
    """A group's place in the order in which groups are held out."""
    name = f"anchor\0{pair.anchor}" if pair.group is None else f"group\0{pair.group}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _count_lines(path: Path | None) -> int:
    """About as many rows as the file has; 0 where there is none."""
    if path is None or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b"")) + 1
