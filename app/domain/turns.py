"""Turns of a conversation become drafts of memories: what was said, and what it tells.

The turn itself is always kept, as HISTORY; what is derived from it is beside it and never in its place.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import pairwise
from uuid import UUID

from app.domain.extraction import facts_in, statements_in
from app.domain.facts import Correction, correction_in
from app.domain.memory import Draft, Memory, MemoryType
from app.domain.plans import plan_in
from app.domain.ranking import CORRECTED_WITHIN
from app.domain.remembering import is_made
from app.domain.summaries import sentences
from app.domain.times import dated
from app.domain.wording import normalise

TURN_CONFIDENCE = 0.9
SPEAKING = frozenset({"user", "assistant"})
"""Roles of those who say something."""

TURN_SOURCE = "conversation:"
"""What the source of a turn's own memory begins with; its role follows."""

MAX_SOURCE = 128
"""Characters of a memory's source."""

PIECE_WORDS = 150
"""Words of a piece of a long turn: what an embedding model that reads 256 word pieces has room for. The built-in one
reads no more of a text."""

HEARD = 3
"""Turns before a statement's own whose words it may take up: what `he`, `there` or `that one` is."""

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


@dataclass(frozen=True)
class Stated:
    """What a user states of themselves in a turn, by its position from 0: `content` can be understood alone, `quote` is
    the words of the turn that say so."""

    position: int
    type: MemoryType
    content: str
    quote: str
    confidence: float


def draft_of(said: Utterance, session: str, turn: int) -> Draft:
    """What was said, as a memory."""
    return Draft(
        MemoryType.HISTORY,
        said.content,
        TURN_CONFIDENCE,
        source=f"{TURN_SOURCE}{said.role}",
        valid_from=said.said_at,
        session=session,
        turn=turn,
        speaker=said.speaker or said.role,
    )


def pieces_of(said: Utterance, session: str, turn: int) -> list[Draft]:
    """What an embedding model does not read of a long turn, in pieces of whole sentences where these are not too long
    themselves; as memories beside the turn, which is kept whole."""
    groups: list[list[str]] = [[]]
    for sentence in sentences(said.content):
        spoken = sentence.split()
        for start in range(0, len(spoken), PIECE_WORDS):
            part = spoken[start : start + PIECE_WORDS]
            if len(groups[-1]) + len(part) > PIECE_WORDS:
                groups.append([])
            groups[-1] += part
    return [
        Draft(
            MemoryType.HISTORY,
            " ".join(group),
            TURN_CONFIDENCE,
            source=source_of(session, turn),
            valid_from=said.said_at,
            speaker=said.speaker or said.role,
        )
        for group in groups[1:]
    ]


def same_again(known: Mapping[int, Utterance], said: Sequence[Utterance]) -> int | None:
    """The number of the first of some turns, where they are `known` turns (by number, of one conversation) that are
    handed in again, perhaps with new ones behind them; None where they are new.

    They are when those at known places say the same in the same order, and are of the same moment, or two at least that
    begin where the conversation does or go on to its end: who hands in a whole conversation each time need not know
    when each turn was said."""
    worth = [at for at, each in enumerate(said) if is_worth_taking(each)]
    if not worth or not known:
        return None
    first, last = min(known), max(known)
    for start in sorted(known):
        begin = start - worth[0]
        overlap = [at for at in worth if begin + at <= last]
        if not all(_is_same(known.get(begin + at), said[at]) for at in overlap):
            continue
        is_of_then = known[start].said_at == said[worth[0]].said_at
        if is_of_then or (len(overlap) > 1 and (start == first or begin + overlap[-1] == last)):
            return begin
    return None


def _is_same(known: Utterance | None, said: Utterance) -> bool:
    return known is not None and (known.speaker, normalise(known.content)) == (
        said.speaker or said.role,
        normalise(said.content),
    )


def stated_in(said: Sequence[Utterance]) -> list[Stated]:
    """What users state by plain rules, sentence by sentence."""
    return [
        Stated(position, each.type, _dated(each.content, utterance.said_at), each.content, each.confidence)
        for position, utterance in enumerate(said)
        if utterance.role == "user"
        for each in statements_in(utterance.content, "")
    ]


def _dated(content: str, said_at: datetime) -> str:
    """A statement with the date of what it tells; a day that returns has none of its own."""
    plan = plan_in(content)
    if plan is MemoryType.PROFILE:
        return content
    return dated(content, said_at, is_ahead=plan is not None)


def with_facts(found: Sequence[Stated], by_rules: Sequence[Stated]) -> list[Stated]:
    """A model's statements, and of the rules' those that tell an attribute of which the model says nothing: a home, a
    job, a name are too important to be left to chance."""
    told = {(each.position, fact.attribute) for each in found for fact in facts_in(each.content)}
    return [
        *found,
        *(
            each
            for each in by_rules
            if any((each.position, fact.attribute) not in told for fact in facts_in(each.quote))
        ),
    ]


def draft_of_statement(stated: Stated, said: Utterance, session: str, turn: int) -> Draft:
    """A statement as a memory, true from when it was said."""
    return Draft(
        stated.type,
        stated.content,
        stated.confidence,
        source=source_of(session, turn),
        valid_from=said.said_at,
        quote=stated.quote,
        is_inferred=_is_inferred(stated),
    )


def _is_inferred(stated: Stated) -> bool:
    """Whether a statement is more than its quote with other words around: a fact that the quote does not tell."""
    if normalise(stated.content).startswith(normalise(stated.quote)):
        return False
    told, said = facts_in(stated.content), facts_in(stated.quote)
    return not told or any(fact not in said for fact in told)


def heard_before(said: Sequence[Utterance], position: int, earlier: Sequence[str] = ()) -> list[str]:
    """What a statement may rest on: its turn, and the ones just before it; `earlier`: what was said before these
    turns."""
    heard = [*earlier, *(each.content for each in said[: position + 1])]
    return heard[-HEARD - 1 :]


def is_worth_taking(said: Utterance) -> bool:
    """Whether somebody said it: instructions and results of tools are not, nor is what holds recalled memories, which
    would be learned once more from itself."""
    return said.role in SPEAKING and not is_made(said.content)


def session_of(ingest_id: UUID) -> str:
    """The conversation of turns whose conversation nobody named."""
    return f"ingest:{ingest_id}"


def source_of(session: str, turn: int) -> str:
    """The source of what a turn tells: it names the turn, and a session whose name is too long by its beginning and a
    hash of the whole."""
    source = f"turn:{session}:{turn}"
    if len(source) <= MAX_SOURCE:
        return source
    ending = f"#{blake2b(session.encode(), digest_size=8).hexdigest()}:{turn}"
    return f"{source[: MAX_SOURCE - len(ending)]}{ending}"


def batches(said: Sequence[Utterance]) -> list[Sequence[Utterance]]:
    """Consecutive turns that can be remembered together. One that sets something right comes after what was said
    before it is remembered, and so begins a batch."""
    starts = [0, *(at for at, each in enumerate(said) if at and correction_of(each)), len(said)]
    return [said[start:end] for start, end in pairwise(starts) if start < end]


def correction_of(said: Utterance) -> Correction | None:
    """What a user sets right, if anything."""
    return correction_in(said.content) if said.role == "user" else None


def corrected(
    correction: Correction, known: Sequence[Memory], said: str, said_at: datetime, source: str
) -> Draft | None:
    """The memory that a correction sets right, said anew: of those that have the wrong value as words of their own, and
    were told shortly before or tell an attribute whose value it is, the last one. With the right value in its place it
    is true from when the wrong one was taken to be, and told again of now."""
    word = re.compile(rf"(?<![\w#+]){re.escape(correction.old)}(?![\w#+])", re.IGNORECASE)
    meant = [memory for memory in known if _may_be_meant(memory, correction, said_at) and word.search(memory.content)]
    if not meant:
        return None
    wrong = max(meant, key=lambda memory: (memory.valid_from, memory.created_at, memory.memory_id.int))
    content = word.sub(lambda _: correction.new, wrong.content, count=1)
    return Draft(
        wrong.type,
        content,
        CORRECTED_CONFIDENCE,
        wrong.tags,
        source,
        wrong.valid_from,
        quote=said,
        also_at=(said_at,),
        replaces=wrong.memory_id,
    )


def _may_be_meant(memory: Memory, correction: Correction, said_at: datetime) -> bool:
    if memory.type is MemoryType.HISTORY or memory.valid_from > said_at:
        return False
    is_fresh = said_at - memory.valid_from <= CORRECTED_WITHIN
    return is_fresh or any(fact.value == correction.old.lower() for fact in facts_in(memory.content))
