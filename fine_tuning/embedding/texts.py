"""Texts that a model is tried out with: those that ship, or a file's.

`texts.txt` holds short English sentences, questions and scraps of code, written for this project; lines of it put
together are the longer texts.
"""

from collections.abc import Sequence
from pathlib import Path

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.pairs import BadRow, read_pairs

_SHIPPED = Path(__file__).with_name("texts.txt")
_LENGTHS = (3, 8, 20)
"""Sentences of the longer texts: some 35, 100 and 240 tokens."""

LEAST_TEXTS = 8


def shipped_texts() -> list[str]:
    """The sentences that ship, and longer texts made of them: about one in four."""
    lines = _SHIPPED.read_text("utf8").splitlines()
    longer = [" ".join(lines[at : at + size]) for size in _LENGTHS for at in range(0, len(lines), 3 * size)]
    return [*lines, *longer]


GOLDEN_TEXTS: Sequence[str] = (
    "How do I renew my passport?",
    "She moved to a smaller flat near the river last autumn, and has not been back since.",
    "café, naïve, 東京, 42 %",
    "SELECT name FROM orders;",
    " ".join(shipped_texts()[:12]),
)
"""What every exported folder's vectors are checked by."""


def read_texts(path: Path) -> list[str]:
    """The distinct texts of a file in their order: the pairs of .tsv, .csv and .jsonl, the lines of any other.
    Raises FineTuningError for a file that cannot be read or holds fewer than LEAST_TEXTS."""
    if path.suffix.lower() in {".tsv", ".csv", ".jsonl"}:
        pairs = [row for row in read_pairs(path) if not isinstance(row, BadRow)]
        found = [text for pair in pairs for text in (pair.anchor, pair.positive, *pair.negatives)]
    else:
        try:
            found = [line.strip() for line in path.read_text("utf8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise FineTuningError(f"{path} cannot be read: {error}") from None
    texts = list(dict.fromkeys(text for text in found if text))
    if len(texts) < LEAST_TEXTS:
        raise FineTuningError(f"{path} holds {len(texts)} texts: at least {LEAST_TEXTS} are needed.")
    return texts


def split_texts(texts: Sequence[str], most: int) -> tuple[list[str], list[str]]:
    """Two parts without a text in common, each of `most` texts at most and spread over all of them: what ranges are
    found by, two thirds, and what drift is measured on."""
    held_out = [text for place, text in enumerate(texts) if place % 3 == 1]
    rest = [text for place, text in enumerate(texts) if place % 3 != 1]
    return _spread(rest, most), _spread(held_out, most)


def _spread(texts: Sequence[str], most: int) -> list[str]:
    if len(texts) <= most:
        return list(texts)
    return [texts[place * len(texts) // most] for place in range(most)]
