"""Memories: what they are, when two say the same, when one replaces another."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    is_set_right: bool = False
    """Whether the user set it right: what is only inferred does not replace it."""
    told_at: tuple[datetime, ...] = ()
    """Later moments than `valid_from` of which it was told again, the earliest first; only where it is compared with
    what arrives."""
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
        return self.holds_at(moment) and (self.expires_at is None or moment < self.expires_at)

    def holds_at(self, moment: datetime) -> bool:
        """Whether the fact was true at `moment`, expired by now or not."""
        return self.valid_from <= moment and (self.valid_to is None or moment < self.valid_to)


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
    also_at: tuple[datetime, ...] = ()
    """Later moments of which the same is told: of what is set right, that of the correction."""
    replaces: UUID | None = None
    """The memory that it sets right."""
    is_inferred: bool = False
    """Whether it was worked out of what somebody said, who did not say it."""


@dataclass(frozen=True)
class Neighbour:
    """A memory already held, and how close it is to a draft."""

    memory: Memory
    cosine: float


@dataclass(frozen=True)
class Resolution:
    """What to do with a draft: `add` it, `merge` it into a memory that says the same, `supersede` the
    memories it contradicts, store it as `outdated` by a newer memory that contradicts it, or leave it as `overruled` by
    what the user set right."""

    action: Literal["add", "merge", "supersede", "outdated", "overruled"]
    targets: tuple[UUID, ...] = ()
    reason: str = ""
    rivals: Sequence[Memory] = field(default=(), compare=False)
    """All that cannot hold beside the draft."""


MOST_TOLD = 100
"""Of how many moments it is kept that a memory was told again of them; beyond, the latest ones."""

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
    """What to do with `draft`, true from `valid_from`, given the memories of its user and type, nearest first: those
    that are live, and of a state also those that are over.

    It is merged into a memory that says the same at that moment, or from a later one on with nothing that contradicts
    it in between. `parse` lets many drafts share the reading of the same memories.
    """
    said = parse(draft.content)
    again = [_is_told_again(draft, said, each, parse) for each in neighbours]
    same = [each.memory for each, is_same in zip(neighbours, again, strict=True) if is_same]
    if draft.type not in STATES:
        return Resolution("merge", (same[0].memory_id,), "duplicate") if same else Resolution("add")
    others = [each for each, is_same in zip(neighbours, again, strict=True) if not is_same]
    reasons = _contradicted(draft, said, others, parse)
    rivals = [each.memory for each in neighbours if each.memory.memory_id in reasons]
    after = next_of(rivals, valid_from)
    into = _told_before(draft, valid_from, same, rivals, after[0] if after else None)
    if into is not None:
        return Resolution("merge", (into.memory_id,), "duplicate", rivals)
    overruling = [rival for rival in rivals if rival.is_set_right and rival.holds_at(valid_from)]
    if draft.is_inferred and overruling:
        return Resolution("overruled", (overruling[0].memory_id,), reasons[overruling[0].memory_id], rivals)
    if after is not None:
        return Resolution("outdated", (after[1].memory_id,), reasons[after[1].memory_id], rivals)
    targets = tuple(rival.memory_id for rival in rivals if rival.holds_at(valid_from))
    if not targets:
        return Resolution("add", rivals=rivals)
    return Resolution("supersede", targets, reasons[targets[0]], rivals)


def _contradicted(
    draft: Draft, said: Statement, others: Sequence[Neighbour], parse: Callable[[str], Statement]
) -> dict[UUID, str]:
    """Which of the memories that do not say the same as a draft cannot hold beside it, and why."""
    reasons: dict[UUID, str] = {}
    for each in others:
        reason = contradiction(said, parse(each.memory.content), each.cosine)
        if each.memory.memory_id == draft.replaces:
            reason = "correction"
        if reason is not None:
            reasons[each.memory.memory_id] = reason
    return reasons


def next_of(memories: Sequence[Memory], moment: datetime) -> tuple[datetime, Memory] | None:
    """The first moment after `moment` at which one of some memories begins to hold or was told again, and which."""
    told = (
        (at, memory)
        for memory in memories
        for at in (memory.valid_from, *memory.told_at)
        if at > moment and memory.holds_at(at)
    )
    return min(told, key=lambda each: each[0], default=None)


def _told_before(
    draft: Draft, moment: datetime, same: Sequence[Memory], rivals: Sequence[Memory], until: datetime | None
) -> Memory | None:
    """Which of the memories that say the same as a draft was meant by it: one that holds at that moment, one that ended
    just then, or the next one, where no rival was told `until` then."""
    holding = [each for each in same if each.holds_at(moment)]
    if holding:
        return holding[0]
    if not any(rival.holds_at(moment) for rival in rivals):
        ended = [each for each in same if each.valid_from < moment == each.valid_to and each.superseded_by is None]
        if ended:
            return ended[0]
    later = min((each for each in same if each.valid_from > moment), key=lambda each: each.valid_from, default=None)
    if later is None or (until is not None and until <= later.valid_from):
        return None
    return later if draft.valid_to is None or draft.valid_to >= later.valid_from else None


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
    held: Memory,
    again: Draft,
    now: datetime,
    times: int = 1,
    also_at: Sequence[datetime] = (),
    evidence: Sequence[Evidence] | None = None,
) -> Memory:
    """A memory after the same was told again, so many `times`: surer, oftener, and for as long as either, with the
    `evidence` (None: the draft) beside its own. A state holds from the first moment of which it was told; the later
    ones are kept, for what may turn out to lie between them."""
    told = again.valid_from or now
    valid_from, told_at = held.valid_from, held.told_at
    if held.type in STATES:
        valid_from, *later = sorted({valid_from, *told_at, told, *also_at})
        told_at = tuple(later[-MOST_TOLD:])
    heard = dict.fromkeys(evidence or [Evidence(again.source, again.quote)])
    new = [each for each in heard if each not in held.evidence]
    return replace(
        held,
        confidence=merged_confidence(held.confidence, again.confidence),
        proof_count=held.proof_count + times,
        is_set_right=held.is_set_right or again.replaces is not None,
        later_evidence=(*held.later_evidence, *new)[-MAX_EVIDENCE:],
        tags=tuple(dict.fromkeys((*held.tags, *again.tags))),
        expires_at=_later(held.expires_at, again.expires_at),
        valid_from=valid_from,
        valid_to=_end_of_both(held, again, told, now),
        told_at=told_at,
        updated_at=now,
    )


def says_so_still(then: Memory, current: Memory, now: datetime) -> bool:
    """Whether what a memory said then is true now; worded anew since, it is until the new wording holds."""
    if (then.type, then.content) == (current.type, current.content):
        return current.is_valid_at(now)
    return then.is_valid_at(now) and now < current.valid_from


def _end_of_both(held: Memory, again: Draft, told: datetime, now: datetime) -> datetime | None:
    """When a memory that was told again ends: with the later of both. What replaced it still does, and that it was true
    at a moment before its end says nothing against the end."""
    is_over = held.valid_to is not None and told < held.valid_to <= now
    if held.superseded_by is not None or (is_over and again.valid_to is None):
        return held.valid_to
    return _later(held.valid_to, again.valid_to)


def replaced_by(old: Memory, by: Memory, at: datetime | None = None) -> Memory:
    """A memory that another one replaces from a moment on, or from the moment that one is true."""
    end = earlier(old.valid_to, by.valid_from if at is None else at)
    told_at = tuple(moment for moment in old.told_at if moment < end)
    return replace(old, superseded_by=by.memory_id, valid_to=end, told_at=told_at)


def parted(memory: Memory, at: datetime, by: Memory, part_id: UUID) -> tuple[Memory, Memory] | None:
    """What is left of a memory that another one interrupts at a moment, where it was told again of a later one: what it
    is from then on, and the part before it as a memory of its own. None where it was not."""
    later = [moment for moment in memory.told_at if moment > at]
    if not later:
        return None
    before = replace(replaced_by(memory, by, at), memory_id=part_id)
    return replace(memory, valid_from=later[0], told_at=tuple(later[1:])), before


def earlier(a: datetime | None, b: datetime) -> datetime:
    """The earlier of two ends; None means never."""
    return b if a is None else min(a, b)


def _later(a: datetime | None, b: datetime | None) -> datetime | None:
    return None if a is None or b is None else max(a, b)
