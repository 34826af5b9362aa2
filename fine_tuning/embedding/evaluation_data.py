"""What models are evaluated on: a file of pairs, or a folder in BEIR's layout.

BEIR's layout (https://github.com/beir-cellar/beir) is `queries.jsonl` and `corpus.jsonl` with `_id`, `text` and, in the
corpus, perhaps a `title`; and `qrels.tsv`, or `qrels/test.tsv`, with the columns query-id, corpus-id, score.
"""

import csv
import json
from pathlib import Path
from typing import Any

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import EvaluationRow, RetrievalSet
from fine_tuning.embedding.pairs import BadRow, read_pairs


def read_evaluation(path: Path) -> list[EvaluationRow] | RetrievalSet:
    """The rows of a file of pairs, or the retrieval set of a folder. Raises FineTuningError, which names the file and
    the line of what cannot be used."""
    return _read_set(path) if path.is_dir() else _read_rows(path)


def _read_rows(path: Path) -> list[EvaluationRow]:
    rows: list[EvaluationRow] = []
    for found in read_pairs(path):
        if isinstance(found, BadRow):
            raise FineTuningError(str(found))
        rows.append(EvaluationRow(found.anchor, found.positive, found.negatives, found.group))
    if not rows:
        raise FineTuningError(f"{path} holds no pairs.")
    return rows


def _read_set(folder: Path) -> RetrievalSet:
    queries, corpus = _texts_in(folder / "queries.jsonl"), _texts_in(folder / "corpus.jsonl")
    file = folder / "qrels.tsv"
    file = file if file.is_file() else folder / "qrels" / "test.tsv"
    relevance: dict[str, dict[str, float]] = {}
    try:
        with file.open(encoding="utf8", newline="") as opened:
            for number, columns in enumerate(csv.reader(opened, delimiter="\t"), start=1):
                if not columns or (number == 1 and not _is_number(columns[-1])):
                    continue
                if len(columns) != 3 or not _is_number(columns[2]):
                    raise FineTuningError(f"{file}:{number}: the columns query-id, corpus-id, score are needed")
                query, text, score = columns
                if query not in queries or text not in corpus:
                    raise FineTuningError(f"{file}:{number}: there is no such query or text")
                relevance.setdefault(query, {})[text] = float(score)
    except (OSError, UnicodeDecodeError) as error:
        raise FineTuningError(f"{file} cannot be read: {error}") from None
    if not any(score > 0 for scores in relevance.values() for score in scores.values()):
        raise FineTuningError(f"{file} names no relevant text.")
    return RetrievalSet(queries, corpus, relevance)


def _texts_in(file: Path) -> dict[str, str]:
    """Text by `_id`, the title before it."""
    found: dict[str, str] = {}
    try:
        with file.open(encoding="utf8") as opened:
            for number, line in enumerate(opened, start=1):
                try:
                    document: Any = json.loads(line)
                    title, text = document.get("title") or "", document["text"]
                    found[str(document["_id"])] = f"{title} {text}".strip()
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise FineTuningError(f"{file}:{number}: an object with _id and text is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FineTuningError(f"{file} cannot be read: {error}") from None
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
