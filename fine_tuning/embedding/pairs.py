"""Training pairs as files have them: TSV, CSV or JSONL, read row by row in bounded memory.

TSV     text_a<TAB>text_b[<TAB>negative], no header, no quoting
CSV     the same with commas and quotes; a first line `text_a,text_b[,negative]` is a header
JSONL   {"text_a": ..., "text_b": ...} or {"a": ..., "b": ...}; optional "negative": a text or a list of them, and
        "user" or "group": rows of one group are never split between training and held-out rows
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from fine_tuning.embedding.errors import FineTuningError

LONGEST_LINE = 2**22
"""In bytes; a longer one is a bad row."""

_HEADERS = ("text_a", "text_b", "negative"), ("a", "b", "negative")
_SURROGATE = re.compile("[\ud800-\udfff]")
_COLUMNS = "2 columns, or 3 with a negative, are needed"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that belong together."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    """Texts that do not belong to the anchor, though they may look so."""
    group: str | None = None
    """Whom or what the pair comes from."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no pair."""

    file: Path
    line: int
    """Where the row begins, from 1."""
    why: str

    def __str__(self) -> str:
        """`file:line: why`, without any of the row's text."""
        return f"{self.file}:{self.line}: {self.why}"


class _Unusable(Exception):
    """Why a row is none."""


def read_pairs(path: Path) -> Iterator[Pair | BadRow]:
    """Every row of the file in its order, blank lines aside. Raises FineTuningError for a file that cannot be read."""
    read = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix.lower())
    if read is None:
        raise FineTuningError(f"{path} is not usable: the name of a file of pairs ends in .tsv, .csv or .jsonl.")
    try:
        with path.open("rb") as file:
            for line, row in read(_lines(file)):
                yield BadRow(path, line, str(row)) if isinstance(row, _Unusable) else row
    except OSError as error:
        raise FineTuningError(f"{path} cannot be read: {error.strerror}.") from None


def _lines(file: BinaryIO) -> Iterator[str | _Unusable]:
    """The lines, bytes that are not UTF-8 as lone surrogates."""
    is_first = True
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield _Unusable(f"the line is longer than {LONGEST_LINE} bytes")
        else:
            text = line.decode("utf-8", "surrogateescape")
            yield text.removeprefix("\ufeff") if is_first else text
        is_first = False


def _tsv_rows(lines: Iterable[str | _Unusable]) -> Iterator[tuple[int, Pair | _Unusable]]:
    for number, line in enumerate(lines, start=1):
        if isinstance(line, _Unusable):
            yield number, line
        elif line.strip():
            yield number, _from_columns(line.rstrip("\r\n").split("\t"))


def _csv_rows(lines: Iterator[str | _Unusable]) -> Iterator[tuple[int, Pair | _Unusable]]:
    # A line that is too long comes to the reader as one column, which is too few.
    reader = csv.reader((str(line) for line in lines), strict=True)
    begin = 1
    while True:
        row: Pair | _Unusable | None = None
        try:
            columns = next(reader)
            if columns and not (begin == 1 and _is_header(columns)):
                row = _from_columns(columns)
        except StopIteration:
            return
        except csv.Error as error:
            row = _Unusable(f"this is not CSV: {error}")
        if row is not None:
            yield begin, row
        begin = reader.line_num + 1


def _jsonl_rows(lines: Iterable[str | _Unusable]) -> Iterator[tuple[int, Pair | _Unusable]]:
    for number, line in enumerate(lines, start=1):
        if isinstance(line, _Unusable):
            yield number, line
        elif line.strip():
            try:
                document: Any = json.loads(line)
            except (ValueError, RecursionError):
                yield number, _Unusable("this is not JSON")
            else:
                yield number, _from_document(document)


def _is_header(columns: list[str]) -> bool:
    names = tuple(column.strip().lower() for column in columns)
    return any(names == header[: len(names)] and len(names) >= 2 for header in _HEADERS)


def _from_columns(columns: list[str]) -> Pair | _Unusable:
    if not 2 <= len(columns) <= 3:
        return _Unusable(f"{_COLUMNS}; there {'is' if len(columns) == 1 else 'are'} {len(columns)}")
    return _checked(columns[0], columns[1], [text for text in columns[2:] if text.strip()], None)


def _from_document(document: Any) -> Pair | _Unusable:
    if not isinstance(document, dict):
        return _Unusable("this is not a JSON object")
    row = cast("dict[str, Any]", document)
    first, second = ("text_a", "text_b") if "text_a" in row else ("a", "b")
    if first not in row or second not in row:
        return _Unusable("the keys text_a and text_b, or a and b, are needed")
    negatives = row.get("negative")
    if negatives is None:
        negatives = []
    group = row.get("group", row.get("user"))
    return _checked(row[first], row[second], negatives if isinstance(negatives, list) else [negatives], group)


def _checked(anchor: Any, positive: Any, negatives: list[Any], group: Any) -> Pair | _Unusable:
    texts = {"text_a": anchor, "text_b": positive} | {f"negative {n}": text for n, text in enumerate(negatives, 1)}
    for name, text in texts.items():
        why = _what_is_wrong(text)
        if why:
            return _Unusable(f"{name} {why}")
    if group is not None and not isinstance(group, str | int):
        return _Unusable("group is neither a text nor a whole number")
    if positive in negatives:
        return _Unusable("a negative is the same text as text_b")
    return Pair(anchor, positive, tuple(dict.fromkeys(negatives)), None if group is None else str(group))


def _what_is_wrong(text: Any) -> str | None:
    if not isinstance(text, str):
        return "is not a text"
    if not text.strip():
        return "is empty"
    if "\0" in text:
        return "contains the character NUL"
    if _SURROGATE.search(text):
        return "is not UTF-8, or half of a surrogate pair"
    return None
