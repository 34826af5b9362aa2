"""A file of conversations before it is trained on: without secrets and doubles, nothing too long, nothing of what it is
evaluated on. The same rules as for the service's own datasets, by the same code.

    {folder}/dataset.jsonl          what is trained on: prompt, completion, meta
    {folder}/dataset.heldout.jsonl  what is evaluated on, where there is something
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import orjson

from app.domain.conversations import Conversation, conversation_of
from app.domain.datasets import Row, quantiles, tokens_of, without_secrets
from app.domain.errors import InvalidInput
from app.services.training.dataset_files import Writer
from app.services.training.datasets import Counts
from app.services.training.duplicates import SeenSamples

SUMMARY_VERSION = 1
TRAIN_FILE, EVAL_FILE = "dataset.jsonl", "dataset.heldout.jsonl"

Part = Literal["train", "eval"]
PARTS: tuple[Part, ...] = ("train", "eval")
_FILES = {"train": TRAIN_FILE, "eval": EVAL_FILE}

_STEP = 500
_CACHED_LINES = 1 << 15
_SHOWN_LINES = 5

OnRows = Callable[[int, int], None]
"""Called with the lines that were read and all there are."""


@dataclass(frozen=True)
class Source:
    """A file of conversations, and what the summary calls it."""

    path: Path
    name: str


@dataclass
class _Input:
    """What became of a file."""

    lines: int
    damaged: int = 0
    damaged_at: list[int] = field(default_factory=list[int])
    counts: Counts = field(default_factory=Counts)
    prompts: Counter[int] = field(default_factory=Counter[int])
    completions: Counter[int] = field(default_factory=Counter[int])
    turns: Counter[int] = field(default_factory=Counter[int])
    sha256: str = ""

    def summary(self, held: dict[str, Any]) -> dict[str, Any]:
        """`held` is what the written file holds."""
        doubles = sum(count for reason, count in self.counts.dropped.items() if "duplicate" in reason)
        labels: dict[str, int] = {label: count for label, count in held["labels"].items() if label}
        return {
            **self.counts.summary(),
            "damaged_lines": {"count": self.damaged, "first": self.damaged_at},
            "duplicate_rate": round(doubles / self.counts.samples_in, 4) if self.counts.samples_in else 0.0,
            "label_balance": {
                "labels": len(labels),
                "largest_share": round(max(labels.values()) / sum(labels.values()), 4) if labels else 0.0,
                "unlabelled": held["labels"].get("", 0),
            },
            "prompt": {"tokens": quantiles(self.prompts), "messages": quantiles(self.turns)},
            "completion": {"tokens": quantiles(self.completions)},
        }


class RowCheck:
    """One pass over the rows; those for evaluation come first, so that what is in both stays there only."""

    def __init__(self, count: Callable[[str], int], *, max_tokens: int, near_duplicate: float) -> None:
        """`count` counts the tokens of a text."""
        self._count = lru_cache(maxsize=_CACHED_LINES)(count)
        self._max_tokens = max_tokens
        self._near_duplicate = near_duplicate

    def run(self, train: Source, evaluation: Source | None, folder: Path | None, report: OnRows) -> dict[str, Any]:
        """Write the rows that may be trained on into `folder` (None: nowhere); the summary. Raises InvalidInput where
        a file is missing or not a single row is left to train on, with the reasons."""
        sources: dict[Part, Source] = {"train": train} if evaluation is None else {"eval": evaluation, "train": train}
        lines = {part: _count_lines(source.path) for part, source in sources.items()}
        inputs = {part: _Input(lines[part]) for part in sources}
        held: dict[str, dict[str, Any]] = {}
        total, done = sum(lines.values()), 0
        with closing(SeenSamples(max(1, total), self._near_duplicate)) as seen:
            for part, source in sources.items():
                path = None if folder is None else folder / _FILES[part]
                with closing(Writer(path)) as writer:
                    for number, row in enumerate(_read(source.path, inputs[part]), start=1):
                        if number % _STEP == 0:
                            report(done + number, total)
                        self._take(row, part, inputs[part], seen, writer)
                    writer.sync()
                    held[part] = writer.summary()
                done += lines[part]
                report(done, total)
        if not held["train"]["rows"]:
            raise InvalidInput(f"{train.name} has no row to train on: {_reasons(inputs['train'])}.", "dataset_path")
        return {
            "version": SUMMARY_VERSION,
            "options": {"max_tokens": self._max_tokens, "near_duplicate": self._near_duplicate},
            "inputs": {
                part: {"name": source.name, "lines": lines[part], "sha256": inputs[part].sha256}
                for part, source in sources.items()
            },
            "datasets": {part: inputs[part].summary(held[part]) for part in sources},
            "files": {_FILES[part]: held[part] for part in sources},
        }

    def _take(self, given: object, part: Part, into: _Input, seen: SeenSamples, writer: Writer) -> None:
        """Write a row, or count why it is left out."""
        counts = into.counts
        counts.samples_in += 1
        conversation = conversation_of(given)
        if conversation is None:
            counts.dropped["malformed"] += 1
            return
        row, found = without_secrets({"prompt": conversation.prompt, "completion": conversation.completion})
        conversation = Conversation(row["prompt"], row["completion"], conversation.label, conversation.user)
        prompt, completion = tokens_of(row["prompt"], self._count), tokens_of(row["completion"], self._count)
        if prompt + completion > self._max_tokens:
            counts.dropped["too_long"] += 1
            return
        if double := seen.look(conversation.said, conversation.known, PARTS.index(part)):
            where = PARTS[double.split]
            counts.dropped[double.kind if where == part else f"{double.kind}_of_{where}"] += 1
            return
        counts.samples_out += 1
        counts.redacted.update(found)
        into.prompts[prompt] += 1
        into.completions[completion] += 1
        into.turns[len(conversation.prompt)] += 1
        writer.write(_row(conversation, prompt + completion))


def _row(conversation: Conversation, tokens: int) -> Row:
    return {
        "prompt": list(conversation.prompt),
        "completion": list(conversation.completion),
        "meta": {"user": conversation.user, "label": conversation.label, "tokens": tokens},
    }


def _count_lines(path: Path) -> int:
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", "dataset_path")
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _read(path: Path, into: _Input) -> Generator[Any]:
    """The rows of a file; its checksum at the end. Blank lines are passed over, lines that are no JSON counted."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            if not line.strip():
                continue
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                into.damaged += 1
                into.damaged_at += [number] if len(into.damaged_at) < _SHOWN_LINES else []
    into.sha256 = digest.hexdigest()


def _reasons(read: _Input) -> str:
    reasons = {**({"no JSON": read.damaged} if read.damaged else {}), **read.counts.dropped}
    told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return f"of {read.lines} lines {told}" if told else "it is empty"


def tokenizer_of(base_model: str, hub_cache: Path) -> Path | None:
    """The `tokenizer.json` of a base model: in its folder, or in the hub's cache; None where it is in neither."""
    cached = (hub_cache / f"models--{base_model.replace('/', '--')}" / "snapshots").glob("*/tokenizer.json")
    return next((path for path in (Path(base_model) / "tokenizer.json", *sorted(cached)) if path.is_file()), None)


def names_in(path: Path) -> frozenset[str]:
    """The keys of the service's users whose rows are in a file that was written here."""
    with path.open("rb") as lines:
        return frozenset(user for line in lines if (user := orjson.loads(line)["meta"]["user"]))
