"""Attributes: what somebody tells of themselves that is one thing at a time, recognised by meaning.

`facts.py` reads values out of sentences it has patterns for; people word things in more ways than anybody lists. Here
a sentence tells an attribute where its vector is like those of example sentences of it (`attributes.yaml`), and a
question asks for one likewise. That is enough to know which memories are about the same thing, and so which of them
holds: the latest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from app.domain.embeddings import Vector, Vectors

CORRECTION = "correction"

ASKED_COSINE = 0.5
"""From here on a question asks for the attribute whose example it is nearest to."""

AS_GOOD_AS = 0.05
"""How much less a sentence may be like an attribute's examples than like another's, and still tell it."""

CORRECTS_SCORE = 0.35
"""From here on a sentence may set something right, whatever else it is like; it does only where there is something."""

RIDGE = 3.0
"""How strongly the weights of the classifier are held to 0."""


_PERSON = (
    "friends?|cousin|sister|brother|neighbou?rs?|colleagues?|co-?workers?|boss|manager|mother|father|mum|mom|dad|son|"
    "daughter|uncle|aunt|grandmother|grandfather|grandma|grandpa|parents|kids|flatmate|roommate|ex|customer|client"
)
_OF_OTHERS = re.compile(
    rf"\W*(?:(?:my|our|a|an|one of my|some) (?:\w+ ){{0,2}}?(?:{_PERSON})\b|(?:he|she|they)\b)"
    r"(?!.*\b(?:i|i'm|we|we're)\b)",
    re.IGNORECASE,
)
_ONESELF = re.compile(r"\b(?:i|i'm|i've|my|mine|me|we|we're|we've|our|us)\b", re.IGNORECASE)
_VISIT = re.compile(
    r"\b(?:visit(?:ed|ing)?|weekend (?:in|at)|trip|holidays?|vacation|flew|fly(?:ing)? to|flight|conference|wedding|"
    r"concert|museum|hotel|airbnb|layover|passing through|for a meeting)\b",
    re.IGNORECASE,
)
_STAYS = re.compile(r"\b(?:moved?|moving|live|living|lives|home|settled|relocated|resident|new place)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Attribute:
    """How an attribute is asked for, and how it is told."""

    name: str
    asked: tuple[str, ...]
    told: tuple[str, ...]


@cache
def attributes() -> tuple[Attribute, ...]:
    """Those that come with the service."""
    document: Mapping[str, Mapping[str, Sequence[str]]] = yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return tuple(Attribute(name, tuple(each["asked"]), tuple(each["told"])) for name, each in document.items())


@cache
def examples() -> tuple[str, ...]:
    """All example sentences, attribute by attribute, how it is asked before how it is told."""
    return tuple(text for each in attributes() for text in (*each.asked, *each.told))


class AttributeVectors:
    """Recognises attributes in one space, by the vectors of `examples()`, of shape (n, d).

    What is told is recognised by a linear classifier, ridge regression on which attribute an example is of (Hoerl and
    Kennard 1970): it knows more ways to word a thing than the nearest example does. Examples of attributes that have
    many count less each. Left out one by one, 81 to 94 % of the examples of the four largest attributes are
    recognised, and 6 to 18 % of those that tell none, two thirds of which were made to look like one.
    """

    def __init__(self, vectors: Vectors) -> None:
        told, owners, asked = list[int](), list[int](), dict[str, slice]()
        start = 0
        for place, each in enumerate(attributes()):
            middle, end = start + len(each.asked), start + len(each.asked) + len(each.told)
            if each.asked:
                asked[each.name] = slice(start, middle)
            told += range(middle, end)
            owners += [place] * (end - middle)
            start = end
        self._asked = {name: vectors[part] for name, part in asked.items()}
        self._weights = _ridge(vectors[told], np.array(owners))

    def asked_for(self, question: Vector) -> str | None:
        """The attribute that a question asks for, if any."""
        best = {name: float((near @ question).max()) for name, near in self._asked.items()}
        name = max(best, key=best.__getitem__)
        return name if best[name] >= ASKED_COSINE else None

    def told(self, name: str, memories: Vectors) -> NDArray[np.bool_]:
        """Which memories tell an attribute, of shape (n,)."""
        scores = self._scores(memories)
        told: NDArray[np.bool_] = scores[:, _place(name)] >= scores.max(axis=1) - AS_GOOD_AS
        return told

    def corrects(self, memories: Vectors) -> NDArray[np.bool_]:
        """Which memories may set right something that was said before, of shape (n,)."""
        corrects: NDArray[np.bool_] = self._scores(memories)[:, _place(CORRECTION)] >= CORRECTS_SCORE
        return corrects

    def _scores(self, memories: Vectors) -> NDArray[np.float64]:
        """How much each memory is like the examples of each attribute, of shape (n, attributes)."""
        return np.hstack([memories, np.ones((len(memories), 1), memories.dtype)]) @ self._weights


def is_of_another(text: str) -> bool:
    """Whether a sentence is plainly about somebody else, about a visit, or a question about anything: vectors hardly
    tell."""
    if text.rstrip().endswith("?") and not _ONESELF.search(text):
        return True
    return is_of_somebody_else(text) or (_VISIT.search(text) is not None and not _STAYS.search(text))


def is_of_somebody_else(text: str) -> bool:
    """Whether a sentence is plainly about another person, and not about who says it."""
    return _OF_OTHERS.match(text) is not None


def _place(name: str) -> int:
    return next(at for at, each in enumerate(attributes()) if each.name == name)


def _ridge(vectors: Vectors, owners: NDArray[np.int_]) -> NDArray[np.float64]:
    """The weights (d + 1, attributes) that give an example 1 for its own attribute and 0 for the others."""
    rows = np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])
    share = 1.0 / np.sqrt(np.bincount(owners)[owners])
    wanted = np.eye(len(attributes()))[owners]
    held = RIDGE * share.mean() * np.eye(rows.shape[1])
    weighed = (rows * share[:, None]).T
    return np.asarray(np.linalg.solve(weighed @ rows + held, weighed @ wanted), dtype=np.float64)
