"""Memories: what they are, when two say the same, when one replaces another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from app.domain import wording

NEAR_DUPLICATE_COSINE = 0.95
"""At or above this, two memories of one user and type say the same, unless a detail differs."""

CONFLICT_COSINE = 0.5
"""Below this, two memories are about different things and cannot be in conflict."""


class MemoryType(StrEnum):
    """The kinds of fact worth remembering."""

    PROFILE = "PROFILE"
    PREFERENCE = "PREFERENCE"
    GOAL = "GOAL"
    HISTORY = "HISTORY"
    ARTIFACT = "ARTIFACT"
    STYLE = "STYLE"
    CONSTRAINT = "CONSTRAINT"


HALF_LIFE_DAYS: Mapping[MemoryType, float] = {
    MemoryType.PROFILE: 730.0,
    MemoryType.CONSTRAINT: 365.0,
    MemoryType.PREFERENCE: 180.0,
    MemoryType.STYLE: 180.0,
    MemoryType.ARTIFACT: 60.0,
    MemoryType.GOAL: 30.0,
    MemoryType.HISTORY: 30.0,
}
"""After this many days a memory's recency has fallen to one half: who someone is fades slowly, what they
did or wanted fades in weeks."""

STATES = frozenset(
    {
        MemoryType.PROFILE,
        MemoryType.PREFERENCE,
        MemoryType.GOAL,
        MemoryType.STYLE,
        MemoryType.CONSTRAINT,
    }
)
"""Types that say how things are, so that a newer one can make an older one untrue. What happened
(HISTORY) and what exists (ARTIFACT) stay true beside one another."""


@dataclass(frozen=True)
class Memory:
    """One remembered fact. All moments are aware and in UTC."""

    memory_id: UUID
    user_id: str
    type: MemoryType
    content: str
    confidence: float
    tags: tuple[str, ...]
    source: str
    created_at: datetime
    updated_at: datetime
    valid_from: datetime
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    superseded_by: UUID | None = None
    version_of: UUID | None = None

    def is_valid_at(self, moment: datetime) -> bool:
        """Whether the fact held, and had not expired, at `moment`."""
        return (
            self.valid_from <= moment
            and (self.valid_to is None or moment < self.valid_to)
            and (self.expires_at is None or moment < self.expires_at)
        )


@dataclass(frozen=True)
class Draft:
    """A memory as it arrives, before it is compared with what is known."""

    type: MemoryType
    content: str
    confidence: float = 0.8
    tags: tuple[str, ...] = ()
    source: str = "api"
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Neighbour:
    """A memory already held, and how close it is to a draft."""

    memory: Memory
    cosine: float


@dataclass(frozen=True)
class Resolution:
    """What to do with a draft: `add` it, `merge` it into a memory that says the same, `supersede` the
    memories it contradicts, or store it as `outdated` by a newer memory that contradicts it."""

    action: Literal["add", "merge", "supersede", "outdated"]
    targets: tuple[UUID, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Detail:
    numbers: frozenset[str] = field(default_factory=frozenset[str])
    names: frozenset[str] = field(default_factory=frozenset[str])
    is_negated: bool = False


def _detail(text: str) -> _Detail:
    return _Detail(wording.numbers(text), wording.names(text), wording.has_negation(text))


def differing_detail(a: str, b: str) -> str | None:
    """The detail in which two similar texts differ: `number`, `name` or `negation`; None when in none.

    A word that is a name in one text and the same word in lower case in the other does not differ.
    """
    first, second = _detail(a), _detail(b)
    if first.numbers != second.numbers:
        return "number"
    if first.is_negated != second.is_negated:
        return "negation"
    words_a, words_b = set(wording.words(a)), set(wording.words(b))
    if (first.names - words_b) or (second.names - words_a):
        return "name"
    return None


def is_duplicate(draft: str, memory: str, cosine: float) -> bool:
    """Whether two contents of one type say the same thing."""
    if wording.normalise(draft) == wording.normalise(memory):
        return True
    return cosine >= NEAR_DUPLICATE_COSINE and differing_detail(draft, memory) is None


# Frames whose value is one at a time: a second value makes the first untrue. What comes before the value,
# as content words; `my X is V` is always one.
_EXCLUSIVE_VERBS = frozenset(
    """live lives living reside resides work works working job prefer prefers favourite favorite name
    called born moved relocated birthday age aged timezone deploy deploys host hosts speak native""".split()
)
_CHANGE_WORDS = frozenset({"now", "anymore", "longer", "switched", "instead", "changed", "moved", "replaced"})
_VALUE_JOINERS = frozenset({"with", "on", "in", "to", "for", "using", "as", "at", "by", "and", "or"})


def contradiction(draft: str, memory: str, cosine: float) -> str | None:
    """Why `draft` and `memory` cannot both hold now, or None.

    Three shapes are recognised: the same statement denied (`negation`), the same statement with another
    number (`number`), and one value where another stood in a frame that has room for only one (`value`):
    `I live in Paris` / `I live in Berlin`, `My editor is Vim` / `My editor is Emacs`.
    """
    if cosine < CONFLICT_COSINE:
        return None
    old_words, new_words = wording.words(memory), wording.words(draft)
    old_content, new_content = set(wording.content_words(memory)), set(wording.content_words(draft))
    if not old_content or not new_content:
        return None
    overlap = len(old_content & new_content) / min(len(old_content), len(new_content))
    if wording.has_negation(draft) != wording.has_negation(memory):
        return "negation" if overlap >= 0.6 else None
    prefix, old_value, new_value, suffix = _differing_middle(old_words, new_words)
    if not old_value or not new_value or len(old_value) > 6 or len(new_value) > 6:
        return None
    shared = [word for word in (*prefix, *suffix) if word not in _VALUE_JOINERS]
    if wording.numbers(" ".join(old_value)) and wording.numbers(" ".join(new_value)):
        return "number" if len(shared) >= 2 else None
    has_room_for_one = bool(_EXCLUSIVE_VERBS & set(shared)) or _is_possessive_frame(prefix)
    announces_change = bool(_CHANGE_WORDS & set(new_words)) and overlap >= 0.5
    return "value" if has_room_for_one or announces_change else None


def _differing_middle(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """(common prefix, the old middle, the new middle, common suffix) of two word sequences."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return (
        list(old[:start]),
        list(old[start : len(old) - end]),
        list(new[start : len(new) - end]),
        list(old[len(old) - end :]),
    )


def _is_possessive_frame(prefix: Sequence[str]) -> bool:
    return len(prefix) >= 3 and prefix[0] in {"my", "our", "the", "user's"} and prefix[-1] in {"is", "are", "was"}


def resolve(draft: Draft, valid_from: datetime, neighbours: Sequence[Neighbour]) -> Resolution:
    """What to do with `draft`, true from `valid_from`, given the live memories of its user and type."""
    for neighbour in neighbours:
        if is_duplicate(draft.content, neighbour.memory.content, neighbour.cosine):
            return Resolution("merge", (neighbour.memory.memory_id,), "duplicate")
    if draft.type not in STATES:
        return Resolution("add")
    older: list[UUID] = []
    reason = ""
    for neighbour in neighbours:
        found = contradiction(draft.content, neighbour.memory.content, neighbour.cosine)
        if found is None:
            continue
        if neighbour.memory.valid_from > valid_from:
            return Resolution("outdated", (neighbour.memory.memory_id,), found)
        older.append(neighbour.memory.memory_id)
        reason = found
    return Resolution("supersede", tuple(older), reason) if older else Resolution("add")


def merged_confidence(held: float, again: float) -> float:
    """Confidence after hearing a fact again: repeated evidence never lowers it, and each repeat closes a
    quarter of what is left to certainty, weighted by how sure the repeat is."""
    return min(1.0, max(held, again) + 0.25 * min(held, again) * (1.0 - max(held, again)))
