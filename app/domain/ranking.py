"""Ranking: candidates -> score -> rank -> rerank. Pure arithmetic over values the store found."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from app.domain import wording
from app.domain.embeddings import Vector
from app.domain.errors import InvalidInput
from app.domain.facts import Correction, Fact, correction_in
from app.domain.memory import HALF_LIFE_DAYS, Memory, believed
from app.domain.statements import NEAR_DUPLICATE_COSINE, Statement, is_duplicate

RERANK_TOP = 10
"""How many of the best are given to a reranker."""

RERANK_WEIGHT = 0.5
"""Share of a reranker's relevance in the final order of those."""

OUTDATED_LOST = 8.0
"""Log-odds that a memory loses where a later one tells the same attribute with another value."""

CORRECTED_WITHIN = timedelta(days=14)
"""What was told so long before a correction is set right by it."""

SAME_THING_COSINE = 0.2
ABOUT_COSINE = 0.15
ABOUT_SHARE = 0.5
LATER = 1.0
"""Two memories tell the same kind of thing from this cosine on. Where the later one is about the question too, by its
cosine and by its share of the earlier one's, it comes before the earlier one by so many log-odds, for a question of how
things are now: the words of the earlier one, which may be the question's, do not count. What age and doubt take away
differs by less between any two of default confidence."""

MOST_LOST = 2.0
"""Log-odds that a memory of no recency and no confidence loses where only these two count."""

REPEATED = 1.0
"""Log-odds that a memory loses whose vector is that of a better one."""

LEXICAL_WEIGHT = 0.7
"""How much of the distance to certainty a full lexical match closes; see `fused_similarity`."""


@dataclass(frozen=True)
class Weights:
    """Shares of the three parts of a score, scaled so that they sum to 1."""

    similarity: float = 0.6
    recency: float = 0.25
    confidence: float = 0.15

    def scaled(self) -> "Weights":
        """The same proportions, summing to 1. Raises InvalidInput when all are zero or one is below."""
        total = self.similarity + self.recency + self.confidence
        if not (min(self.similarity, self.recency, self.confidence) >= 0 and 0 < total < math.inf):
            raise InvalidInput("weights have to be zero or more, and at least one above zero", "weights")
        return Weights(self.similarity / total, self.recency / total, self.confidence / total)


@dataclass(frozen=True)
class Candidate:
    """A memory that may be relevant: `cosine` -1..1 to the query, `lexical` 0..1, its vector, and where a search found
    it the log-odds that it is relevant (`app.domain.relevance`)."""

    memory: Memory
    cosine: float
    lexical: float
    vector: Vector
    log_odds: float | None = None
    arms: tuple[float, ...] = ()
    """What each of `relevance.ARMS` says of it."""


@dataclass(frozen=True)
class Ranked:
    """A memory with its score and the parts it is made of, each 0..1; and its `cosine` to the query, -1..1, 0 where
    one of them has no vector."""

    memory: Memory
    score: float
    similarity: float
    recency: float
    confidence: float
    rerank: float | None = None
    cosine: float = 0.0
    closeness: float | None = None
    """How close it is to the query by its own meaning and words, 0..1 (`fused_similarity`), which tells whether it has
    to do with it at all; None where that is `similarity`."""
    log_odds: float | None = None
    arms: tuple[float, ...] = ()
    redundancy: float = 0.0
    """Its largest cosine to one that stands before it, 0 at least."""

    @property
    def nearness(self) -> float:
        """Its closeness, however it was found."""
        return self.similarity if self.closeness is None else self.closeness


def recency(memory: Memory, now: datetime) -> float:
    """0.5 ** (age / half-life of its type), age counted from when it became true; 1 for the future."""
    age_days = max(0.0, (now - memory.valid_from).total_seconds() / 86400.0)
    return 0.5 ** (age_days / HALF_LIFE_DAYS[memory.type])


def fused_similarity(cosine: float, lexical: float) -> float:
    """One relevance out of two arms, by noisy-or: 1 - (1 - cosine)(1 - LEXICAL_WEIGHT * lexical).

    Never below the cosine, equal to it where no word matches, and 1 only where the cosine is.
    """
    return 1.0 - (1.0 - min(1.0, max(0.0, cosine))) * (1.0 - LEXICAL_WEIGHT * min(1.0, max(0.0, lexical)))


def outdated(memories: Sequence[Memory], facts: Callable[[str], Sequence[Fact]]) -> set[int]:
    """The positions of the memories that tell an attribute with another value than the latest that tells it, by
    `valid_from` and, of a correction, by `created_at`; one that tells the latest value of any is none of them."""
    told = [facts(memory.content) for memory in memories]
    latest: dict[str, tuple[tuple[datetime, datetime], str]] = {}
    for memory, each in zip(memories, told, strict=True):
        at = (memory.valid_from, memory.created_at)
        for fact in each:
            if fact.attribute not in latest or latest[fact.attribute][0] <= at:
                latest[fact.attribute] = (at, fact.value)
    past = {
        position
        for position, each in enumerate(told)
        if each and all(latest[fact.attribute][1] != fact.value for fact in each)
    }
    for correcting in memories:
        correction = correction_in(correcting.content)
        if correction is not None:
            past |= {at for at, memory in enumerate(memories) if _is_set_right(memory, correction, correcting)}
    return past


def _is_set_right(memory: Memory, correction: Correction, correcting: Memory) -> bool:
    """Whether a memory told shortly before a correction names what was wrong, and not what is right."""
    told = wording.words(memory.content)
    return (
        timedelta(0) <= correcting.valid_from - memory.valid_from <= CORRECTED_WITHIN
        and set(wording.words(correction.old)) <= set(told)
        and not set(wording.words(correction.new)) <= set(told)
    )


def set_right(memories: Sequence[Memory], tells: Sequence[bool], corrects: Sequence[bool]) -> dict[int, int]:
    """Which memory each correction sets right, by positions: of those told shortly before it the last that says one of
    its names, else the last that tells what is asked for."""
    found: dict[int, int] = {}
    for at, memory in enumerate(memories):
        if not corrects[at] and correction_in(memory.content) is None:
            continue
        before = [
            other
            for other, earlier in enumerate(memories)
            if timedelta(0) < memory.valid_from - earlier.valid_from <= CORRECTED_WITHIN and not corrects[other]
        ]
        names = wording.names(memory.content)
        named = [other for other in before if names & wording.names(memories[other].content)]
        candidates = named or [other for other in before if tells[other]]
        if candidates:
            found[at] = max(candidates, key=lambda other: _told(memories[other]))
    return found


def newer_first(
    candidates: Sequence[Candidate], log_odds: Sequence[float], tells: Sequence[bool] | None = None
) -> list[float]:
    """The log-odds where of two candidates that tell the same kind of thing the later is more likely than the earlier:
    for a question of how things are now. `tells`: which of them tell what is asked for, where that is known; else it is
    guessed from the vectors."""
    if not candidates:
        return []
    if tells is not None and any(tells):
        return _latest_first(candidates, log_odds, tells)
    matrix = np.asarray([candidate.vector for candidate in candidates])
    cosines = matrix @ matrix.T
    raised = list(log_odds)
    order = sorted(range(len(candidates)), key=lambda at: _told(candidates[at].memory))
    for place, later in enumerate(order):
        rivals = (
            raised[earlier]
            for earlier in order[:place]
            if cosines[earlier, later] >= SAME_THING_COSINE
            and candidates[later].cosine >= max(ABOUT_COSINE, ABOUT_SHARE * candidates[earlier].cosine)
            and candidates[earlier].memory.valid_from < candidates[later].memory.valid_from
        )
        raised[later] = max(raised[later], max(rivals, default=-math.inf) + LATER)
    return raised


def _latest_first(candidates: Sequence[Candidate], log_odds: Sequence[float], tells: Sequence[bool]) -> list[float]:
    """The log-odds where the latest that tells something is by LATER more likely than any other that does, and none of
    these more likely than a later one."""
    raised = list(log_odds)
    telling = [at for at, each in enumerate(tells) if each]
    telling.sort(key=lambda at: _told(candidates[at].memory), reverse=True)
    most = max(raised[at] for at in telling) + LATER
    for at in telling:
        raised[at] = min(raised[at], most) if at != telling[0] else most
        most = raised[at]
    return raised


def _told(memory: Memory) -> tuple[datetime, datetime, int]:
    return memory.valid_from, memory.created_at, memory.memory_id.int


def score(candidate: Candidate, weights: Weights, now: datetime) -> Ranked:
    """`weights` (already scaled) applied to similarity, recency and confidence.

    A candidate with log-odds gets them with what its age and doubt take away, at most MOST_LOST in all: bounded
    multipliers of the odds, so that what is fresh never passes what is far more likely. Another one, the weighted sum.
    """
    fresh, sure = recency(candidate.memory, now), believed(candidate.memory, now)
    similarity = fused_similarity(candidate.cosine, candidate.lexical)
    if candidate.log_odds is None:
        total = weights.similarity * similarity + weights.recency * fresh + weights.confidence * sure
        return Ranked(candidate.memory, total, similarity, fresh, sure, cosine=candidate.cosine)
    return Ranked(
        candidate.memory,
        _logistic(_weighed(candidate.log_odds, fresh, sure, weights)),
        _logistic(candidate.log_odds),
        fresh,
        sure,
        cosine=candidate.cosine,
        closeness=similarity,
        log_odds=candidate.log_odds,
        arms=candidate.arms,
    )


def _logistic(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-35.0, min(35.0, log_odds))))


def rank(candidates: Sequence[Candidate], weights: Weights, now: datetime, limit: int) -> list[Ranked]:
    """The best `limit` candidates, best first, leaving out what a better one already says.

    Those with log-odds are taken by marginal relevance (Carbonell and Goldstein 1998): one loses up to REPEATED by its
    largest cosine to one that was taken before it, and its score is what is left. Ties are broken by the newer memory
    and then by id, so that equal input gives equal output.
    """
    scaled = weights.scaled()
    scored = [(score(candidate, scaled, now), candidate) for candidate in candidates]
    scored.sort(key=lambda pair: (-pair[0].score, -pair[0].memory.valid_from.timestamp(), pair[0].memory.memory_id.int))
    if not scored:
        return []
    matrix = np.asarray([candidate.vector for _, candidate in scored])
    cosines = matrix @ matrix.T
    lost = np.array([0.0 if ranked.log_odds is None else scaled.similarity * REPEATED for ranked, _ in scored])
    odds = np.array([_odds(ranked, scaled) for ranked, _ in scored])
    nearest = np.zeros(len(scored))
    is_left = np.ones(len(scored), dtype=bool)
    kept: dict[int, Ranked] = {}
    while len(kept) < limit and is_left.any():
        marginal = np.where(is_left, odds - lost * nearest, -np.inf)
        place = int(marginal.argmax())
        is_left[place] = False
        ranked = scored[place][0]
        twins = [other for other in kept if cosines[place, other] >= NEAR_DUPLICATE_COSINE]
        if any(_says_the_same(ranked, kept[other], float(cosines[place, other])) for other in twins):
            continue
        if lost[place]:
            ranked = replace(ranked, score=_logistic(float(marginal[place])), redundancy=float(nearest[place]))
        kept[place] = ranked
        nearest = np.maximum(nearest, cosines[place])
    return list(kept.values())


def _odds(ranked: Ranked, weights: Weights) -> float:
    """What candidates are put in order by: the log-odds behind a score, or where there are none the score itself."""
    if ranked.log_odds is None:
        return ranked.score
    return _weighed(ranked.log_odds, ranked.recency, ranked.confidence, weights)


def _weighed(log_odds: float, fresh: float, sure: float, weights: Weights) -> float:
    """Log-odds with what age and doubt take away."""
    lost = weights.recency * (1.0 - fresh) + weights.confidence * (1.0 - sure)
    return weights.similarity * log_odds - MOST_LOST * lost


def _says_the_same(a: Ranked, b: Ranked, cosine: float) -> bool:
    return is_duplicate(Statement(a.memory.content), Statement(b.memory.content), cosine)


def within(ranked: Sequence[Ranked], token_budget: int, count: Callable[[str], int]) -> list[Ranked]:
    """Those of `ranked`, in their order, whose contents fit into a budget together; what does not fit is left out
    whole, and what comes after it may fit."""
    kept: list[Ranked] = []
    left = token_budget
    for item in ranked:
        cost = count(item.memory.content)
        if cost <= left:
            kept.append(item)
            left -= cost
    return kept


def apply_rerank(ranked: Sequence[Ranked], relevances: Sequence[float]) -> list[Ranked]:
    """`ranked` with its first len(relevances) reordered by a blend of score and the reranker's relevance."""
    head = [
        replace(
            item,
            rerank=float(relevance),
            score=(1 - RERANK_WEIGHT) * item.score + RERANK_WEIGHT * float(relevance),
        )
        for item, relevance in zip(ranked, relevances, strict=False)
    ]
    head.sort(key=lambda item: -item.score)
    return [*head, *ranked[len(head) :]]
