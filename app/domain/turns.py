"""Turns of a conversation become drafts of memories: what was said, and what it tells. Rules alone; no model.

The turn itself is always kept, as HISTORY; what is derived from it is beside it and never in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.domain.extraction import statements_in
from app.domain.facts import Correction
from app.domain.memory import Draft, Memory, MemoryType

TURN_CONFIDENCE = 0.9
CORRECTED_CONFIDENCE = 0.95
"""A correction by the user is surer than what was inferred."""


@dataclass(frozen=True)
class Message:
    """A turn: who said it (`user`, `assistant`), what, and when."""

    role: str
    content: str
    said_at: datetime


def drafts_of(message: Message, session: str, turn: int) -> list[Draft]:
    """What one turn leaves: itself, then what a user's sentences state, true from when it was said."""
    own = Draft(
        MemoryType.HISTORY,
        message.content,
        TURN_CONFIDENCE,
        source=f"conversation:{message.role}",
        valid_from=message.said_at,
        session=session,
        turn=turn,
        speaker=message.role,
    )
    if message.role != "user":
        return [own]
    stated = statements_in(message.content, f"turn:{session}:{turn}"[:128])
    return [own, *(replace(each, valid_from=message.said_at) for each in stated)]


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
