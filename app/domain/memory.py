"""Memories: what they are, when two say the same, when one replaces another."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from app.domain.statements import Statement, contradiction, is_duplicate


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


MAX_EVIDENCE = 16
"""Most tellings of a memory that are kept beside the first: the latest."""


@dataclass(frozen=True)
class Evidence:
    """One telling of a memory: where it is from (`turn:SESSION:TURN` for a turn of a conversation), and the words that
    tell it, where they are known."""

    source: str
    quote: str | None = None


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
    session: str | None = None
    turn: int | None = None
    speaker: str | None = None
    place: int | None = None
    """Where in which conversation it was said (`places.place_of`); None where it stands alone."""
    quote: str | None = None
    """The words that tell it, where it was made of what somebody said."""
    proof_count: int = 1
    """How often it was told."""
    later_evidence: tuple[Evidence, ...] = ()
    """What told it after the first, oldest first."""

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What tells it, oldest first."""
        return (Evidence(self.source, self.quote), *self.later_evidence)

    @property
    def told_as(self) -> str | None:
        """The words that tell it, those that were known first; None where none are."""
        return next((each.quote for each in self.evidence if each.quote), None)

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
    session: str | None = None
    """The conversation it is from, as the tenant names it."""
    turn: int | None = None
    """Which turn of it says so; without one the next."""
    speaker: str | None = None
    quote: str | None = None
    """The words that tell it."""


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


LEAST_BELIEVED = 0.5
"""What is left of a confidence after any silence: a share of it."""


def believed(memory: Memory, at: datetime) -> float:
    """How sure a memory still is at a moment, 0..1: its confidence, which silence lowers by up to a half, with the
    half-life of its type; each doubling of how often it was told makes that half-life longer by itself."""
    told_at = memory.valid_from if memory.proof_count <= 1 else max(memory.valid_from, memory.updated_at)
    silence_days = max(0.0, (at - told_at).total_seconds() / 86400.0)
    half_life = HALF_LIFE_DAYS[memory.type] * (1.0 + math.log2(max(1, memory.proof_count)))
    return memory.confidence * (LEAST_BELIEVED + (1.0 - LEAST_BELIEVED) * 0.5 ** (silence_days / half_life))


def resolve(
    draft: Draft,
    valid_from: datetime,
    neighbours: Sequence[Neighbour],
    parse: Callable[[str], Statement] = Statement,
) -> Resolution:
    """What to do with `draft`, true from `valid_from`, given the live memories of its user and type.

    `parse` lets many drafts share the reading of the same memories.
    """
    said = parse(draft.content)
    for neighbour in neighbours:
        if _is_told_again(draft, said, neighbour, parse):
            return Resolution("merge", (neighbour.memory.memory_id,), "duplicate")
    if draft.type not in STATES:
        return Resolution("add")
    older: list[Memory] = []
    newer: list[Memory] = []
    reasons: dict[UUID, str] = {}
    for neighbour in neighbours:
        reason = contradiction(said, parse(neighbour.memory.content), neighbour.cosine)
        if reason is not None:
            (newer if neighbour.memory.valid_from > valid_from else older).append(neighbour.memory)
            reasons[neighbour.memory.memory_id] = reason
    if newer:
        first = min(newer, key=lambda memory: memory.valid_from)
        return Resolution("outdated", (first.memory_id,), reasons[first.memory_id])
    targets = tuple(memory.memory_id for memory in older)
    return Resolution("supersede", targets, reasons[targets[0]]) if targets else Resolution("add")


def _is_told_again(draft: Draft, said: Statement, held: Neighbour, parse: Callable[[str], Statement]) -> bool:
    """Whether a memory says what a draft says. A turn of a conversation is only the same turn, handed in again: what is
    said in two conversations was said twice."""
    memory, known = held.memory, parse(held.memory.content)
    if draft.type is MemoryType.HISTORY and (draft.session or memory.session):
        is_alike = draft.session == memory.session and draft.speaker == memory.speaker and said.normal == known.normal
        return is_alike and _is_same_turn(draft, memory)
    return is_duplicate(said, known, held.cosine)


def _is_same_turn(draft: Draft, memory: Memory) -> bool:
    """Whether a draft is the turn that a memory is, by its number or its moment; where it has neither, nothing says
    that it is another one."""
    if draft.turn is None and draft.valid_from is None:
        return True
    return memory.turn == draft.turn or memory.valid_from == draft.valid_from


def merged_confidence(held: float, again: float) -> float:
    """Confidence after hearing a fact again: repeated evidence never lowers it, and each repeat closes a
    quarter of what is left to certainty, weighted by how sure the repeat is."""
    return min(1.0, max(held, again) + 0.25 * min(held, again) * (1.0 - max(held, again)))


def told_again(
    held: Memory, again: Draft, now: datetime, times: int = 1, evidence: Sequence[Evidence] | None = None
) -> Memory:
    """A memory after the same was told again, so many `times`: surer, oftener, and for as long as either, with the
    `evidence` (None: the draft) beside its own."""
    told = evidence or [Evidence(again.source, again.quote)]
    new = [each for each in dict.fromkeys(told) if each not in held.evidence]
    return replace(
        held,
        confidence=merged_confidence(held.confidence, again.confidence),
        proof_count=held.proof_count + times,
        later_evidence=(*held.later_evidence, *new)[-MAX_EVIDENCE:],
        tags=tuple(dict.fromkeys((*held.tags, *again.tags))),
        expires_at=_later(held.expires_at, again.expires_at),
        valid_to=_later(held.valid_to, again.valid_to),
        updated_at=now,
    )


def says_so_still(then: Memory, current: Memory, now: datetime) -> bool:
    """Whether what a memory said then is true now; worded anew since, it is until the new wording holds."""
    if (then.type, then.content) == (current.type, current.content):
        return current.is_valid_at(now)
    return then.is_valid_at(now) and now < current.valid_from


def replaced_by(old: Memory, by: Memory) -> Memory:
    """A memory that another one replaces from the moment that one is true."""
    return replace(old, superseded_by=by.memory_id, valid_to=earlier(old.valid_to, by.valid_from))


def earlier(a: datetime | None, b: datetime) -> datetime:
    """The earlier of two ends; None means never."""
    return b if a is None else min(a, b)


def _later(a: datetime | None, b: datetime | None) -> datetime | None:
    return None if a is None or b is None else max(a, b)
