"""Whether what was made of turns is told by them, by a rule of this benchmark's own.

It knows nothing of how the service decides: words are compared by their first letters, and names and numbers as they
are written. It can only say that something was not said, not that it was understood as it was meant.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SHARED = 2 / 3
"""Of the longer words of a memory, the share that its turn has too."""
NEAR = 5
"""Turns before it whose words a memory may take up: what `it` or `there` is."""
_LONG, _BEGINNING = 4, 5
"""Letters of a longer word, and those by which two are compared: `moved` and `moving` are one."""

_WORD = re.compile(r"[^\W_]+")
_VALUE = re.compile(r"(?<![.!?] )(?<=[ (\"])[A-Z][\w&-]*|\b\w*\d[\w.,:/-]*")
"""A name, which has a capital where no sentence begins; or what has a digit in it."""
_DATE = re.compile(r"\b(?:19|20)\d\d-\d\d(?:-\d\d)?\b")
_TIME = re.compile(
    r"\b(?:today|tonight|yesterday|tomorrow|now|ago|last|next|this|past|since|few|couple|week\w*|month\w*|year\w*|day\w*|"
    r"morning|evening|night|spring|summer|autumn|fall|winter|\w+day|jan\w*|feb\w*|mar\w*|apr\w*|may|june?|july?|aug\w*|"
    r"sep\w*|oct\w*|nov\w*|dec\w*)\b",
    re.IGNORECASE,
)
"""What a date can be worked out of."""
_DENIAL = re.compile(r"\b(?:not|never|no longer|cannot|\w+n['’]?t)\b", re.IGNORECASE)
_NO_NAMES = frozenset({"i"})


@dataclass(frozen=True)
class Derived:
    """A memory that was made of a turn: what it says, the words to tell it, and which turn has them, from 1."""

    content: str
    quote: str | None
    session: str
    turn: int


def is_told(derived: Derived, turn: str, before: Sequence[str]) -> bool:
    """Whether a memory is told by its turn, and by what was said `before` it.

    Its quote is in the turn, and what that denies the memory does not say. Its names and numbers were said, then or
    before; a date may be worked out of words about time. Of its longer words two in three are in the turn or just
    before it; of one that sets something right, in all that was said.
    """
    said = [*before, turn]
    if derived.quote is not None and f" {_plain(derived.quote)} " not in f" {_plain(turn)} ":
        return False
    if _denied(derived) & set(_plain(derived.content).split()):
        return False
    return _has_values(derived.content, turn, said) and _shared(derived, turn, said) >= LEAST_SHARED


def _denied(derived: Derived) -> set[str]:
    """The words that a quote denies, of a memory that denies nothing: those behind the denial, to the next stop."""
    parts = _DENIAL.split(derived.quote or "")[1:] if not _DENIAL.search(derived.content) else []
    return {word for part in parts for word in _plain(re.split(r"[,.;!?]", part)[0]).split()} - _NO_NAMES


def _has_values(content: str, turn: str, said: Sequence[str]) -> bool:
    known = {word for text in said for word in _plain(text).split()}
    unsaid_dates = [date for date in _DATE.findall(content) if not any(date in text for text in said)]
    if unsaid_dates and not _TIME.search(turn):
        return False
    values = {word for found in _VALUE.findall(_DATE.sub(" ", content)) for word in _plain(found).split()}
    return values - _NO_NAMES <= known


def _shared(derived: Derived, turn: str, said: Sequence[str]) -> float:
    wanted = _beginnings(_DATE.sub(" ", derived.content))
    sets_right = derived.quote is None or _denied(derived)
    held = _beginnings(" ".join(said if sets_right else said[-NEAR - 1 :]))
    return len(wanted & held) / len(wanted) if wanted else 1.0


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _beginnings(text: str) -> set[str]:
    return {word[:_BEGINNING] for word in _plain(text).split() if len(word) >= _LONG}
