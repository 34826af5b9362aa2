"""The write gate: which statements out of what was said are worth keeping as memories of their own.

What was said is kept in any case, as HISTORY. What is made of it is believed, found and put into prompts for months, so
it has to say something, to hold longer than the moment, and to be told by the words it was made of. What does not pass
is set apart, where it can be read and let through after all.
"""

import re
from collections.abc import Sequence
from typing import Literal

from app.domain import wording
from app.domain.attributes import is_of_somebody_else
from app.domain.extraction import facts_in
from app.domain.facts import is_wish
from app.domain.memory import Draft, MemoryType
from app.domain.summaries import sentences
from app.domain.wording import normalise

Reason = Literal["unspecific", "perishable", "unsupported"]
"""Why a statement is set apart."""

SUPPORTED = 0.5
"""The least share of a statement's content words that the words it was made of have too."""

ENTAILED = 0.5
"""The least relevance, by a model that reads both, of a statement that has fewer of them."""

DENIED = 0.05
"""Below this relevance, a statement that is more than a sentence that was said is not told by it after all."""

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
_PARTS = re.compile(r"[,;:]|\b(?:and|but|so|because)\b", re.IGNORECASE)
_DATE = re.compile(r"\b(?:19|20)\d\d-\d\d(?:-\d\d)?\b|\((?:19|20)\d\d\)")
"""A date that was worked out of `last week`: its numbers need not have been said."""


def reason_against(draft: Draft, said: Sequence[str], relevance: float | None = None) -> Reason | None:
    """Why a statement is not kept; None where it is. `said`: the words it was made of, and what was said just before;
    `relevance` 0..1: what a model that reads both makes of them, where there is one."""
    if not _says_something(draft.content):
        return "unspecific"
    if draft.type is not MemoryType.STYLE and _PERISHABLE.search(draft.content.replace("’", "'")):
        return "perishable"
    if not is_supported(draft.content, said, relevance) or is_belied(draft, said):
        return "unsupported"
    if is_reworded(draft, said) and relevance is not None and relevance < DENIED:
        return "unsupported"
    return None


def is_reworded(draft: Draft, said: Sequence[str]) -> bool:
    """Whether a statement is not simply a sentence that was said."""
    return _is_more_than(_told_by(draft, said), draft)


def _is_more_than(sentence: str, draft: Draft) -> bool:
    return not normalise(draft.content).startswith(normalise(sentence))


def is_belied(draft: Draft, said: Sequence[str]) -> bool:
    """Whether the sentence that a statement was made of tells something else in the same words: denies what it affirms
    or affirms what it denies, is about somebody else, or is a wish of what it says of the user as a fact. A question
    affirms nothing."""
    sentence = _told_by(draft, said)
    if not _is_more_than(sentence, draft) or sentence.endswith("?"):
        return False
    if is_of_somebody_else(sentence) and not is_of_somebody_else(draft.content):
        return True
    told, heard = facts_in(draft.content), facts_in(sentence)
    if told and all(fact in heard for fact in told):
        return False
    if draft.type is MemoryType.PROFILE and not is_wish(draft.content) and _is_wished(draft.content, sentence):
        return True
    affirmed, denied = (_stems(part) for part in wording.affirmed_and_denied(draft.content))
    heard_affirmed, heard_denied = (_stems(part) for part in wording.affirmed_and_denied(sentence))
    crossed = (affirmed & heard_denied - heard_affirmed) | (denied & heard_affirmed - heard_denied)
    return bool(crossed) and len(crossed) >= SUPPORTED * len(affirmed | denied)


def _told_by(draft: Draft, said: Sequence[str]) -> str:
    """The sentence that has a statement's quote, the last one; where none has it, the quote, or the last words."""
    quote = normalise(draft.quote or draft.content)
    found = [each for text in said for each in sentences(text) if quote in normalise(each)]
    return found[-1] if found else draft.quote or said[-1]


def _is_wished(content: str, sentence: str) -> bool:
    """Whether every part of a sentence that has words of a statement is a wish."""
    stems = _stems(content)
    parts = [part for part in _PARTS.split(sentence) if stems & _stems(part)]
    return bool(parts) and all(is_wish(part) for part in parts)


def _stems(text: str) -> set[str]:
    return {wording.stem(word) for word in wording.content_words(text)}


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
    stems = _stems(content)
    return len(stems & {wording.stem(word) for word in wording.words(heard)}) / len(stems) if stems else 1.0


def _says_something(content: str) -> bool:
    return any(word not in _VAGUE for word in wording.content_words(content))


def _opened(names: frozenset[str], content: str) -> frozenset[str]:
    """Names, without the word that opens the text: it is written as one whatever it is."""
    spoken = wording.words(content)
    return names - {spoken[0]} if spoken else names
