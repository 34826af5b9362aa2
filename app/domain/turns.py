"""Turns of a conversation become drafts of memories: what was said, and what it tells. Rules alone; no model.

The turn itself is always kept, as HISTORY; what is derived from it is beside it and never in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from app.domain.extraction import statements_in
from app.domain.facts import Correction, correction_in
from app.domain.memory import Draft, Memory, MemoryType
from app.domain.remembering import is_made

TURN_CONFIDENCE = 0.9
SPEAKING = frozenset({"user", "assistant"})
"""Roles of those who say something."""

MAX_SOURCE = 128
"""Characters of a memory's source."""

CORRECTED_CONFIDENCE = 0.95
"""A correction by the user is surer than what was inferred."""


@dataclass(frozen=True)
class Utterance:
    """One turn of a conversation: who said it (`user`, `assistant`, …), what, and when."""

    role: str
    content: str
    said_at: datetime
    speaker: str | None = None
    """Their name, where it is known."""


def drafts_of(said: Utterance, session: str, turn: int) -> list[Draft]:
    """What one turn leaves: itself, then what a user's sentences state, true from when it was said."""
    own = Draft(
        MemoryType.HISTORY,
        said.content,
        TURN_CONFIDENCE,
        source=f"conversation:{said.role}",
        valid_from=said.said_at,
        session=session,
        turn=turn,
        speaker=said.speaker or said.role,
    )
    if said.role != "user":
        return [own]
    stated = statements_in(said.content, source_of(session, turn))
    return [own, *(replace(each, valid_from=said.said_at) for each in stated)]


def is_worth_taking(said: Utterance) -> bool:
    """Whether somebody said it: instructions and results of tools are not, nor is what holds recalled memories, which
    would be learned once more from itself."""
    return said.role in SPEAKING and not is_made(said.content)


def session_of(ingest_id: UUID) -> str:
    """The conversation of turns whose conversation nobody named."""
    return f"ingest:{ingest_id}"


def source_of(session: str, turn: int) -> str:
    """The source of what a turn tells: it names the turn."""
    return f"turn:{session}:{turn}"[:MAX_SOURCE]


def batches(said: Sequence[Utterance]) -> list[Sequence[Utterance]]:
    """Consecutive turns that can be remembered together. One that sets something right comes after what was said
    before it is remembered, and so begins a batch."""
    starts = [0, *(at for at, each in enumerate(said) if at and correction_of(each)), len(said)]
    return [said[start:end] for start, end in pairwise(starts) if start < end]


def correction_of(said: Utterance) -> Correction | None:
    """What a user sets right, if anything."""
    return correction_in(said.content) if said.role == "user" else None


def corrected(correction: Correction, known: Sequence[Memory], source: str) -> Draft | None:
    """The memory that a correction sets right, said anew: the first that holds the wrong value, with the right one in
    its place, true from when the wrong one was taken to be."""
    for memory in known:
        at = memory.content.lower().find(correction.old.lower())
        if memory.type is MemoryType.HISTORY or at < 0:
            continue
        content = memory.content[:at] + correction.new + memory.content[at + len(correction.old) :]
        return Draft(memory.type, content, CORRECTED_CONFIDENCE, memory.tags, source, memory.valid_from)
    return None
