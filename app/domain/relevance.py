"""Relevance: how likely a memory answers a query, out of several arms. Pure arithmetic over arrays.

Two arms see a memory alone, its words (BM25) and its meaning (cosine); the others see where it was said: the words of
the turns around it, the meaning of its neighbours, the best its session has to offer by words and by meaning, who says
it, and when. The lexical arms are shares of what the query could score at most, so that their say shrinks by itself
where few of the query's words are found, and the vectors decide; of memories that stand alone it shrinks further where
those with the most of its words mean something else. The weights are those of a conditional logit over the memories of
a user (McFadden), fitted and checked on sets left out as docs/decisions/0033 and 0043 tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from app.domain import wording
from app.domain.places import LOOSE, SESSION_BITS
from app.domain.times import Span, closenesses

Floats = NDArray[np.float64]

K1 = 1.2
B = 0.75
"""BM25's saturation of repeated words and its share of length normalisation (Robertson and Zaragoza 2009)."""

KERNEL = (0.5, 0.3, 0.15)
"""What a word counts that is said one, two or three turns away, as a share of a word of the turn itself."""

COSINE_FLOOR = 0.1
"""A cosine below this says nothing: two unrelated sentences have as much."""

VERBATIM_COSINE = 0.999
"""From here on a memory is the query word for word: half precision moves a cosine by less than 0.0001."""

LONGEST = 24
"""From here on more words make a memory no more informative."""

ALONE_WORDS = 12
"""A memory that stands alone is as informative as a turn of so many words, however short it is: somebody chose it."""

TRUSTED = 5
"""So many memories with the most of the query's words tell by their meaning whether these words can be trusted."""


@dataclass(frozen=True)
class Fusion:
    """Weights of the arms, in log-odds per unit of each. `verbatim` is not fitted: whoever says a memory word for word
    wants that one, whatever was said around the others."""

    words: float = 11.0
    session: float = 6.0
    cosine: float = 4.5
    neighbours: float = 4.5
    session_cosine: float = 5.5
    length: float = 0.8
    speaker: float = 0.9
    question: float = -1.9
    moment: float = 3.5
    verbatim: float = 8.0
    offset: float = -8.5


DEFAULT_FUSION = Fusion()


@dataclass(frozen=True)
class Field:
    """What is known of n of a user's memories and of the t words of a query, by position.

    `places` int64 (n,): session and turn, below 0 where a memory stands alone; `words` (n,) how many distinct words
    each has; `holds` bool (t, n); `cosines` (n,), NaN where unknown; `found` (t,) how many of all the user's `memories`
    hold each word.
    """

    places: NDArray[np.int64]
    words: Floats
    holds: NDArray[np.bool_]
    cosines: Floats
    found: Floats
    memories: int
    hours: Floats | None = None
    """When each became true, in hours since 1970, NaN where unknown; None where no time was asked for."""

    def with_cosines(self, positions: Sequence[int], cosines: Sequence[float]) -> "Field":
        """The same, with some cosines that were found since."""
        known = self.cosines.copy()
        known[list(positions)] = cosines
        return replace(self, cosines=known)


ARMS = (
    "words",
    "session",
    "cosine",
    "neighbours",
    "session_cosine",
    "length",
    "speaker",
    "question",
    "moment",
)
"""The arms whose weights can be fitted, in the order in which a memory's are told."""


@dataclass(frozen=True)
class Said:
    """What a memory's own fields say of it: who said it and when, and whether it is a turn that asks something."""

    speaker: str | None
    at: datetime
    is_question: bool


@dataclass(frozen=True)
class Arms:
    """What each arm says of n memories, each of shape (n,)."""

    words: Floats
    session: Floats
    cosine: Floats
    neighbours: Floats
    session_cosine: Floats
    length: Floats

    def at(self, positions: Sequence[int]) -> Floats:
        """The first six of ARMS for some memories, of shape (len(positions), 6)."""
        told = (self.words, self.session, self.cosine, self.neighbours, self.session_cosine, self.length)
        return np.stack(told, axis=-1)[list(positions)]

    def fused(self, weights: Fusion) -> Floats:
        """Log-odds of each memory by these arms."""
        return (
            weights.offset
            + weights.words * self.words
            + weights.session * self.session
            + weights.cosine * self.cosine
            + weights.neighbours * self.neighbours
            + weights.session_cosine * self.session_cosine
            + weights.length * self.length
            + weights.verbatim * (self.cosine >= VERBATIM_COSINE)
        )


@dataclass(frozen=True)
class Words:
    """What is known of n memories whatever their vectors say, by position: the number of the `session` of each, one of
    its own for what stands alone; `near`, the positions of the turns before and after it, -1 where there is none; and
    what its words tell."""

    session: NDArray[np.intp]
    near: Sequence[NDArray[np.intp]]
    told: Floats


def words_of(field: Field) -> Words:
    """The part of the arms that no cosine changes."""
    places = _apart(field.places)
    order = np.argsort(places, kind="stable")
    near = [(_beside(places, order, step), share) for each, share in enumerate(KERNEL, 1) for step in (each, -each)]
    _, session = np.unique(places >> SESSION_BITS, return_inverse=True)
    return Words(session, [at for at, _ in near[:2]], _by_words(field, near))


def arms(field: Field, words: Words | None = None) -> Arms:
    """Every arm that needs nothing but the field; `words`: what is known of it already."""
    words = words_of(field) if words is None else words
    stands_alone = field.places < 0
    told = np.where(stands_alone, words.told * _trust(words.told, field.cosines, stands_alone), words.told)
    cosines = np.nan_to_num(field.cosines, nan=0.0)
    meant = np.maximum(cosines - COSINE_FLOOR, 0.0)
    beside = np.maximum(*(_shifted(meant, at) for at in words.near))
    # Whoever tells a single fact chose it; among the turns of a conversation most say little.
    is_alone = stands_alone | (field.places & LOOSE != 0)
    length = np.log1p(np.where(is_alone, ALONE_WORDS, np.minimum(field.words, LONGEST)))
    best_told, best_meant = (np.where(is_alone, each, _best_of(words.session, each)) for each in (told, meant))
    return Arms(told, best_told, cosines, beside, best_meant, length)


def best(log_odds: Floats, count: int) -> list[int]:
    """The positions of the `count` highest, best first; equal ones in their order."""
    return np.argsort(-log_odds, kind="stable")[:count].tolist()


def said_arms(said: Sequence[Said], query: str, spans: Sequence[Span]) -> Floats:
    """The last three of ARMS: what the speaker, the form and the moment of each memory say, of shape (n, 3). A speaker
    counts where the query names some of those who speak, and not all of them."""
    asked = set(wording.words(query))
    speakers = {each.speaker for each in said if each.speaker}
    named = {speaker for speaker in speakers if _names(speaker) & asked}
    named = named if named != speakers or len(speakers) == 1 else set[str]()
    speaks = np.array([each.speaker in named for each in said], float)
    asks = np.array([each.is_question for each in said], float)
    near = closenesses(np.array([each.at.timestamp() / 3600.0 for each in said]), spans)
    return np.stack([speaks, asks, near], axis=-1).reshape(-1, 3)


def weights_of(fusion: Fusion) -> Floats:
    """The weights of ARMS, in their order."""
    return np.array([getattr(fusion, name) for name in ARMS])


def fusion_of(weights: Sequence[float]) -> Fusion:
    """The same the other way round; the default where they were learned for other arms than there are now."""
    return Fusion(**dict(zip(ARMS, weights, strict=True))) if len(weights) == len(ARMS) else DEFAULT_FUSION


def _names(speaker: str) -> set[str]:
    return set(wording.words(speaker))


def _by_words(field: Field, near: Sequence[tuple[NDArray[np.intp], float]]) -> Floats:
    """BM25 of each memory with the words around it, as a share of the most the query can score."""
    if not len(field.found) or not field.memories:
        return np.zeros(len(field.places))
    rarity = np.log1p((field.memories - field.found + 0.5).clip(min=0.5) / (field.found + 0.5))
    own, own_lengths = np.ascontiguousarray(field.holds.T, dtype=float), field.words.astype(float)
    counts, lengths = own.copy(), own_lengths.copy()
    for at, share in near:
        to = np.flatnonzero(at >= 0)
        counts[to] += share * own[at[to]]
        lengths[to] += share * own_lengths[at[to]]
    typical = lengths.mean() if len(lengths) else 1.0
    norm = K1 * (1.0 - B + B * lengths / max(typical, 1e-9))
    weighed = (counts * (K1 + 1.0) / (counts + norm[:, None])) @ rarity
    return weighed / (rarity.sum() * (K1 + 1.0) + 1e-9)


def _trust(by_words: Floats, cosines: Floats, is_alone: NDArray[np.bool_]) -> float:
    """How far the words of a query can be trusted among memories that stand alone, 0 to 1: the cosines of the TRUSTED
    with the most of them, as a share of as many of the nearest. 1 where no cosine is known."""
    meant = np.maximum(cosines - COSINE_FLOOR, 0.0)[is_alone & ~np.isnan(cosines)]
    told = by_words[is_alone & ~np.isnan(cosines)]
    most = np.argsort(-told, kind="stable")[:TRUSTED]
    most = most[told[most] > 0]
    nearest = np.sort(meant)[::-1][: len(most)].sum()
    return float(meant[most].sum() / nearest) if nearest > 0 else 1.0


def _best_of(session: NDArray[np.intp], values: Floats) -> Floats:
    """The highest of some values (0 or more) in the session of each."""
    highest = np.zeros(session.max(initial=-1) + 1)
    np.maximum.at(highest, session, values)
    return highest[session]


def _apart(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places in which each memory that stands alone has a session of its own."""
    alone = places < 0
    if not alone.any():
        return places
    apart = places.copy()
    apart[alone] = -((np.arange(alone.sum(), dtype=np.int64) + 1) << SESSION_BITS)
    return apart


def _beside(places: NDArray[np.int64], order: NDArray[np.intp], step: int) -> NDArray[np.intp]:
    """For each of some places the position of the one `step` further in its session, or -1; `order` sorts them."""
    if not len(places):
        return np.zeros(0, np.intp)
    wanted, held = places + step, places[order]
    at = np.searchsorted(held, wanted)
    at[at == len(held)] = 0
    is_there = (held[at] == wanted) & (wanted >> SESSION_BITS == places >> SESSION_BITS)
    return np.where(is_there, order[at], -1)


def _shifted(values: Floats, at: NDArray[np.intp]) -> Floats:
    """Values (…, n) as they are at other positions, 0 where there is none."""
    return np.where(at >= 0, values[..., at], 0.0)
