"""Memories: what they are, when two say the same, when one replaces another."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from app.domain import wording

NEAR_DUPLICATE_COSINE = 0.95
"""At or above this, two memories of one user and type say the same, unless a detail differs."""

CONFLICT_COSINE = 0.35
"""Below this, two memories are about different things and cannot be in conflict. `I live in Paris` and `I moved
to Berlin` are at 0.45."""

SAME_KIND_COSINE = 0.7
"""From here on, two values after the same words are of one kind: `I prefer tea` and `I prefer coffee` are at 0.74,
`I prefer tea` and `I prefer trains` at 0.52."""


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
    words_a, words_b = first.names | set(wording.words(a)), second.names | set(wording.words(b))
    if (first.names - words_b) or (second.names - words_a):
        return "name"
    return None


def is_duplicate(draft: str, memory: str, cosine: float) -> bool:
    """Whether two contents of one type say the same thing."""
    if wording.normalise(draft) == wording.normalise(memory):
        return True
    return cosine >= NEAR_DUPLICATE_COSINE and differing_detail(draft, memory) is None


# What leads to a state, as that state; words that only say when.
_CONTRACTIONS = (("i'm", "i am"), ("it's", "it is"), ("'ve", ""), ("we", "i"), ("our", "my"))
_PARAPHRASES = (
    (re.compile(r"\b(?:(?:have|has|just) )*(?:moved|relocated) to\b"), "live in"),
    (re.compile(r"\b(?:(?:have|has|just) )*switched to\b"), "use"),
)
_FILLERS = frozenset("now currently recently actually just instead anymore again today already still".split())
_CHANGES = frozenset("now switched instead anymore changed".split())
_ADDITIONS = frozenset("also too additionally another both well".split())

# Frames with room for one value at a time, by what comes before it. The second ones only where both values
# are of one kind.
_ONE_VALUE = re.compile(
    r"\b(?:(?:live|lives|living|reside|resides|based|born) (?:in|at|near|on)|works? (?:at|for|as)|am from|"
    r"(?:name|job|role|title|employer|manager|boss|budget|deadline|timezone|birthday|address|editor|language) is|"
    r"(?:host|hosts|deploy|deploys)\b.* (?:on|to)|(?:favourite|favorite|preferred|default|main) .*(?:is|are))"
    r"(?: an?| the)?$"
)
_ONE_OF_A_KIND = re.compile(
    r"^(?:i|the user|user) prefers?\b|^(?:always )?(?:answer|reply|respond|write)(?: to)?(?: me)? in$|^call me$|"
    r"\bworks? in$|^(?:my|the|user's) .*\b(?:is|are)(?: an?| the)?$"
)
_ONE_NAMED_AFTER = re.compile(r"^(?:is|are) (?:my|the) ")
_JOINERS = frozenset("with on in to for using as at by and or from when during near".split())
_SCOPES = _JOINERS - {"with", "using", "and", "or", "by"}
_ARTICLES = frozenset({"a", "an", "the"})

# How claims are compared: what someone likes, uses or does are different claims about the same thing.
_LIKINGS = frozenset("lik lov enjoy prefer hat dislik favour".split())
_UNSAID = frozenset(
    """a about again all also always am an and any are as at be because been being but by did do does doing even ever
    every for from had has have i if in into is it its longer me my of on or our out over so than that the their them
    they this to too up us very was we were will with would you your used gave given giving switched moved migrated
    changed away instead rather now anymore""".split()
) | {word for word in wording.NEGATIONS if wording.stem(word) not in _LIKINGS}
_DOINGS = frozenset("lik us work liv host deploy run writ drink eat driv play speak want need hav".split())
_PAST = frozenset("born grew studi studied graduat raised met".split())


def contradiction(draft: str, memory: str, cosine: float) -> str | None:
    """Why `draft` and `memory` cannot both hold now, or None.

    Three shapes are recognised: the same claim denied (`negation`), the same statement with another number
    (`number`), and one value where another stood in a frame that has room for only one (`value`):
    `I live in Paris` / `I moved to Berlin`, `My editor is Vim` / `My editor is Emacs`. Where in doubt, None:
    two memories beside one another cost less than one that is lost.
    """
    if cosine < CONFLICT_COSINE:
        return None
    if _is_denial(draft, memory):
        return "negation"
    old, new = _statement(memory), _statement(draft)
    if wording.has_negation(draft) != wording.has_negation(memory) or old == new:
        return None
    if _has_other_number(old, new):
        return "number"
    is_change = bool(_CHANGES & set(wording.words(draft)))
    return "value" if _has_other_value(old, new, cosine, is_change) else None


def _claims(text: str) -> frozenset[str]:
    """What `text` says, as stems of its meaningful words; all likings are one."""
    said = [word for word in wording.words(text) if not {word, word.split("'")[0]} & _UNSAID]
    stems = {wording.stem(word) for word in said}
    return frozenset("lik" if each in _LIKINGS else each for each in stems)


def _is_denial(draft: str, memory: str) -> bool:
    """Whether `draft` denies all that `memory` claims, or claims all that `memory` denies."""
    held, dropped = (_claims(part) for part in wording.affirmed_and_denied(memory))
    claimed, denied = (_claims(part) for part in wording.affirmed_and_denied(draft))
    if denied and _covers(denied, held):
        is_part_of_list = bool(held - denied) and re.search(r",|\band\b|\bor\b|&", memory) is not None
        return not is_part_of_list
    return bool(dropped) and held <= claimed and _covers(dropped, claimed)


def _covers(denied: frozenset[str], claimed: frozenset[str]) -> bool:
    """Whether the claim is about just what is denied. A denial without a verb (`not Java`) touches short claims
    only, and none that stay true whatever comes later."""
    rest = claimed - denied
    if not denied <= claimed or rest & _PAST:
        return False
    return bool(denied & _DOINGS) or len(rest - _DOINGS) <= 1


def _statement(text: str) -> list[str]:
    """The words of `text` with changes as the states they lead to and without words that only say when."""
    line = " ".join(wording.words(text))
    for short, full in _CONTRACTIONS:
        line = re.sub(rf"(?<![\w'-]){short}\b" if short[0] != "'" else rf"{short}\b", full, line)
    for pattern, state in _PARAPHRASES:
        line = pattern.sub(state, line)
    return [word for word in line.split() if word not in _FILLERS]


def _has_other_number(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether two statements are the same but for their numbers."""
    rests = [{wording.stem(word) for word in each if not wording.numbers(word)} for each in (old, new)]
    numbers = [wording.numbers(" ".join(each)) for each in (old, new)]
    return rests[0] == rests[1] and len(rests[0]) > 1 and all(numbers) and numbers[0] != numbers[1]


def _has_other_value(old: Sequence[str], new: Sequence[str], cosine: float, is_change: bool) -> bool:
    """Whether two statements differ in one value only, and have room for only one."""
    prefix, old_middle, new_middle, suffix = _differing_middle(old, new)
    old_value, old_scope = _value_and_scope(old_middle)
    new_value, new_scope = _value_and_scope(new_middle)
    is_number = bool(wording.numbers(" ".join(old_value)))
    is_comparable = (
        bool(old_value and new_value)
        and max(len(old_value), len(new_value)) <= 6
        and old_scope == new_scope
        and (is_number or not set(old_value) & set(new_value))
        and (old_value[0] in _ARTICLES) == (new_value[0] in _ARTICLES)
        and is_number == bool(wording.numbers(" ".join(new_value)))
        and not _ADDITIONS & set(new_middle + suffix)
    )
    if not is_comparable:
        return False
    before, after = " ".join(prefix), " ".join(suffix)
    if _ONE_VALUE.search(before):
        return True
    is_framed = is_change or bool(_ONE_OF_A_KIND.search(before)) or bool(not before and _ONE_NAMED_AFTER.search(after))
    return is_framed and cosine >= SAME_KIND_COSINE


def _value_and_scope(middle: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a value up to the first joiner, and where it narrows the statement, what follows:
    `Rust for systems` gives (`Rust`, `for systems`)."""
    at = next((index for index, word in enumerate(middle) if word in _JOINERS), len(middle))
    rest = list(middle[at:])
    return list(middle[:at]), rest if rest and rest[0] in _SCOPES else []


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


def resolve(draft: Draft, valid_from: datetime, neighbours: Sequence[Neighbour]) -> Resolution:
    """What to do with `draft`, true from `valid_from`, given the live memories of its user and type."""
    for neighbour in neighbours:
        if is_duplicate(draft.content, neighbour.memory.content, neighbour.cosine):
            return Resolution("merge", (neighbour.memory.memory_id,), "duplicate")
    if draft.type not in STATES:
        return Resolution("add")
    older: list[Memory] = []
    newer: list[Memory] = []
    reasons: dict[UUID, str] = {}
    for neighbour in neighbours:
        reason = contradiction(draft.content, neighbour.memory.content, neighbour.cosine)
        if reason is not None:
            (newer if neighbour.memory.valid_from > valid_from else older).append(neighbour.memory)
            reasons[neighbour.memory.memory_id] = reason
    if newer:
        first = min(newer, key=lambda memory: memory.valid_from)
        return Resolution("outdated", (first.memory_id,), reasons[first.memory_id])
    targets = tuple(memory.memory_id for memory in older)
    return Resolution("supersede", targets, reasons[targets[0]]) if targets else Resolution("add")


def merged_confidence(held: float, again: float) -> float:
    """Confidence after hearing a fact again: repeated evidence never lowers it, and each repeat closes a
    quarter of what is left to certainty, weighted by how sure the repeat is."""
    return min(1.0, max(held, again) + 0.25 * min(held, again) * (1.0 - max(held, again)))
