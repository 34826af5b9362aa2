"""The write gate: which statements out of what was said are worth keeping as memories of their own.

What was said is kept in any case, as HISTORY. What is made of it is believed, found and put into prompts for months, so
it has to say something, to hold longer than the moment, and to be told by the words it was made of. What does not pass
is set apart, where it can be read and let through after all.
"""

import re
from collections.abc import Sequence
from typing import Literal

from app.domain import wording
from app.domain.memory import Draft, MemoryType

Reason = Literal["unspecific", "perishable", "unsupported"]
"""Why a statement is set apart."""

SUPPORTED = 0.5
"""The least share of a statement's content words that the words it was made of have too."""

ENTAILED = 0.5
"""The least relevance, by a model that reads both, of a statement that has fewer of them."""

_VAGUE = frozenset(
    """am anyone anything bad best better big bit came come cool day done enjoy enjoyed everyone everything feel feels
    felt few fine fun give given go goes going good great guy happen happened hate hated hello help hi hope i'd i'll
    i'm i've idea it's keep kept kind know knows later let's little look looking lot lots love loved loves made make
    makes making many maybe much needs new nice nothing ok okay old one ones people person plan prefer question really
    said say see somebody someone something soon sort start started stuff sure take thank thanks that's thing things
    think thought time times today tomorrow tonight took tried try trying way ways went within work
    yeah yes yesterday""".split()
)
"""Words that tell nothing by themselves."""

_PERISHABLE = re.compile(
    r"\b(?:right now|at the moment|just now|for now|for the moment|in a (?:minute|moment|second|sec|bit)|brb|"
    r"be right back|(?:gotta|got to|have to) (?:go|run)|heading (?:out|home)|on my way|until later)\b|"
    r"\b(?:i am|i'm|we are|we're) (?:(?:so|very|really|pretty|a bit|a little|still|just|too|all) )*"
    r"(?:tired|hungry|thirsty|bored|busy|sleepy|exhausted|late|cold|hot|stuck|confused|back|here|done|ready|sorry|"
    r"excited|glad|happy|sad|sure|unsure|afraid|fine|good|ok|okay|well|leaving|lost|"
    r"going to (?:bed|sleep|eat|be late|have (?:lunch|dinner|breakfast)|take a (?:break|shower|nap|walk)))(?! of\b)\b|"
    r"\b(?:i|we) (?:need|want|have|am going|'m going) to [^.]*\b(?:today|tonight|this (?:morning|afternoon|evening))\b",
    re.IGNORECASE,
)
_DATE = re.compile(r"\b(?:19|20)\d\d-\d\d(?:-\d\d)?\b|\((?:19|20)\d\d\)")
"""A date that was worked out of `last week`: its numbers need not have been said."""


def reason_against(draft: Draft, said: Sequence[str], relevance: float | None = None) -> Reason | None:
    """Why a statement is not kept; None where it is. `said`: the words it was made of, and what was said just before;
    `relevance` 0..1: what a model that reads both makes of them, where there is one."""
    if not _says_something(draft.content):
        return "unspecific"
    if draft.type is not MemoryType.STYLE and _PERISHABLE.search(draft.content.replace("’", "'")):
        return "perishable"
    if not is_supported(draft.content, said, relevance):
        return "unsupported"
    return None


def is_supported(content: str, said: Sequence[str], relevance: float | None = None) -> bool:
    """Whether what was said tells a statement: its names and numbers without exception, and of its other words most,
    or a model finds that it does."""
    heard = " ".join(said)
    plain = _DATE.sub(" ", content)
    known = wording.names(heard) | set(wording.words(heard))
    if wording.numbers(plain) - wording.numbers(heard) or _opened(wording.names(plain), content) - known:
        return False
    return support(plain, heard) >= SUPPORTED or (relevance is not None and relevance >= ENTAILED)


def support(content: str, heard: str) -> float:
    """The share 0..1 of a text's content words whose stems are in another text; 1 for a text without any."""
    stems = {wording.stem(word) for word in wording.content_words(content)}
    return len(stems & {wording.stem(word) for word in wording.words(heard)}) / len(stems) if stems else 1.0


def _says_something(content: str) -> bool:
    return any(word not in _VAGUE for word in wording.content_words(content))


def _opened(names: frozenset[str], content: str) -> frozenset[str]:
    """Names, without the word that opens the text: it is written as one whatever it is."""
    spoken = wording.words(content)
    return names - {spoken[0]} if spoken else names
