"""What an answer to a clarifying question says: yes or no, and what beyond that.

A bare "yes" or "no" says nothing without its question; words of one's own say most by themselves. Both are read here
from words; what they are worth is learned (`app.domain.belief`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.domain.catalogue import Catalogue, SlotValues
from app.domain.logit import Array
from app.domain.questions import spoken_words
from app.domain.wording import STOP_WORDS, affirmed_and_denied, stem

Polarity = Literal["yes", "no", "open"]

_YES = frozenset("yes yeah yep yea sure correct exactly definitely right ok okay absolutely indeed certainly".split())
_NO = frozenset("no nope not none nah neither never dont nothing".split())
_DENIAL_REACH = 4
"""An answer that denies within its first words is a no, though it does not open with one."""

_FILLERS = STOP_WORDS | _YES | _NO | frozenset("im id ive would like just looking information info know see".split())


@dataclass(frozen=True)
class Text:
    """A text and its vector (d,), unit length; where it is read word by word, `words` are the vectors (k, d) of its
    `told_words`."""

    text: str
    vector: Array
    words: Array = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True)
class Exchange:
    """A question and its answer. `subject` is the question without the words that questions open with, `content` the
    answer without its yes or no; both have a vector of their own."""

    question: Text
    subject: Text
    answer: Text
    content: Text

    @property
    def polarity(self) -> Polarity:
        """Whether the answer affirms the question, denies it, or does neither."""
        return polarity(self.answer.text)

    @property
    def is_bare(self) -> bool:
        """Whether the answer has no words of its own beside its yes or no."""
        return not content_stems(self.content.text)


def polarity(answer: str) -> Polarity:
    """Whether an answer affirms its question, denies it, or does neither (`open`)."""
    said = spoken_words(answer)
    if not said:
        return "open"
    if said[0] in _YES:
        return "yes"
    if said[0] in _NO or any(word in {"not", "dont", "never"} for word in said[:_DENIAL_REACH]):
        return "no"
    return "open"


def content_of(answer: str) -> str:
    """The answer without the yes or no it opens with; empty where that was all."""
    said = answer.strip().split()
    opening = spoken_words(said[0]) if said else []
    if opening and opening[0] in _YES | _NO:
        return " ".join(said[1:])
    return answer.strip()


def told_words(text: str) -> list[str]:
    """The words that say what a text is about, each once."""
    return [word for word in dict.fromkeys(spoken_words(text)) if word not in _FILLERS]


def values_told(answer: str, catalogue: Catalogue) -> tuple[SlotValues, SlotValues]:
    """The values of slots that an answer names, and those it denies. A yes or no that stands by itself, as in `no, on
    AWS`, is about what was asked and not about these."""
    opening, _, rest = answer.strip().partition(" ")
    is_apart = opening[-1:] in {",", ".", ":", ";", "!"} and polarity(opening) != "open"
    affirmed, denied = affirmed_and_denied(rest if is_apart else answer)
    return catalogue.values_in(affirmed), catalogue.values_in(denied)


def content_stems(text: str) -> frozenset[str]:
    """The stems of these words."""
    return frozenset(stem(word) for word in told_words(text))


def coverage(said: Collection[str], meant: Sequence[Collection[str]], weights: Mapping[str, float]) -> list[float]:
    """For each of the meanings, the share by weight of the stems `said` that it has; a stem without a weight has 1."""
    total = sum(weights.get(word, 1.0) for word in said)
    if total <= 0:
        return [0.0] * len(meant)
    return [sum(weights.get(word, 1.0) for word in said if word in each) / total for each in meant]
