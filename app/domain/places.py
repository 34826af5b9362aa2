"""Places: where in which conversation a memory was said, as one number in which turns lie beside one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from app.domain.memory import Draft, MemoryType

SESSION_BITS = 21
"""A place is the conversation's number times 2 ** 21, and the turn's."""

_LOOSE_SESSION = 1 << 40
LOOSE = _LOOSE_SESSION << SESSION_BITS
"""The bit of a place that says that nobody named the conversation."""

MAX_TURN = (1 << SESSION_BITS) - 8
"""The last turn there can be; the ones after it are taken as it."""


@dataclass(frozen=True)
class Place:
    """A turn of a conversation, and the number for both."""

    turn: int
    number: int


def conversation_of(kind: MemoryType, session: str | None, source: str, valid_from: datetime) -> int | None:
    """The number of what a memory is a part of: its session; without one, what was said or happened on one day, from
    one source, lies together loosely. None where it stands alone."""
    if session is not None:
        return number_of(session)
    return _hash(f"{source}\n{valid_from.date()}") | _LOOSE_SESSION if kind is MemoryType.HISTORY else None


def number_of(session: str) -> int:
    """The number of a conversation that was named."""
    return _hash(session)


def place_of(conversation: int, turn: int) -> int:
    """Where a turn lies: conversations far apart, turns of one beside each other."""
    return (conversation << SESSION_BITS) | min(turn, MAX_TURN)


def _hash(name: str) -> int:
    """A number below 2 ** 40."""
    return int.from_bytes(blake2b(name.encode(), digest_size=5).digest())


def unnumbered(drafts: Sequence[Draft], now: datetime) -> set[int]:
    """The conversations whose last turn has to be known before their drafts can be placed."""
    found = ((_conversation(draft, now), draft.turn) for draft in drafts)
    return {conversation for conversation, turn in found if conversation is not None and turn is None}


def placed(drafts: Sequence[Draft], last: Mapping[int, int], now: datetime) -> list[Place | None]:
    """Where each draft lies, None for those that stand alone; one without a turn comes after the `last` of its
    conversation."""
    turns = dict(last)
    places: list[Place | None] = []
    for draft in drafts:
        conversation = _conversation(draft, now)
        if conversation is None:
            places.append(None)
            continue
        said_before = turns.get(conversation, 0)
        turn = min(said_before + 1 if draft.turn is None else draft.turn, MAX_TURN)
        turns[conversation] = max(said_before, turn)
        places.append(Place(turn, place_of(conversation, turn)))
    return places


def _conversation(draft: Draft, now: datetime) -> int | None:
    return conversation_of(draft.type, draft.session, draft.source, draft.valid_from or now)
