"""Ranking: candidates -> score -> rank -> rerank. Pure arithmetic over values the store found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from app.domain.embeddings import Vector
from app.domain.errors import InvalidInput
from app.domain.memory import HALF_LIFE_DAYS, Memory
from app.domain.statements import NEAR_DUPLICATE_COSINE, Statement, is_duplicate

RERANK_TOP = 10
"""How many of the best are given to a reranker."""

RERANK_WEIGHT = 0.5
"""Share of a reranker's relevance in the final order of those."""

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
    """A memory that may be relevant: `cosine` -1..1 to the query, `lexical` 0..1, its vector."""

    memory: Memory
    cosine: float
    lexical: float
    vector: Vector


@dataclass(frozen=True)
class Ranked:
    """A memory with its score and the parts it is made of, each 0..1."""

    memory: Memory
    score: float
    similarity: float
    recency: float
    confidence: float
    rerank: float | None = None


def recency(memory: Memory, now: datetime) -> float:
    """0.5 ** (age / half-life of its type), age counted from when it became true; 1 for the future."""
    age_days = max(0.0, (now - memory.valid_from).total_seconds() / 86400.0)
    return 0.5 ** (age_days / HALF_LIFE_DAYS[memory.type])


def fused_similarity(cosine: float, lexical: float) -> float:
    """One relevance out of two arms, by noisy-or: 1 - (1 - cosine)(1 - LEXICAL_WEIGHT * lexical).

    Never below the cosine, equal to it where no word matches, and 1 only where the cosine is.
    """
    return 1.0 - (1.0 - min(1.0, max(0.0, cosine))) * (1.0 - LEXICAL_WEIGHT * min(1.0, max(0.0, lexical)))


def score(candidate: Candidate, weights: Weights, now: datetime) -> Ranked:
    """`weights` (already scaled) applied to similarity, recency and confidence."""
    similarity = fused_similarity(candidate.cosine, candidate.lexical)
    fresh = recency(candidate.memory, now)
    sure = candidate.memory.confidence
    total = weights.similarity * similarity + weights.recency * fresh + weights.confidence * sure
    return Ranked(candidate.memory, total, similarity, fresh, sure)


def rank(candidates: Sequence[Candidate], weights: Weights, now: datetime, limit: int) -> list[Ranked]:
    """The best `limit` candidates, best first, leaving out what a better one already says.

    Ties are broken by the newer memory and then by id, so that equal input gives equal output.
    """
    scaled = weights.scaled()
    scored = [(score(candidate, scaled, now), candidate) for candidate in candidates]
    scored.sort(key=lambda pair: (-pair[0].score, -pair[0].memory.valid_from.timestamp(), pair[0].memory.memory_id.int))
    repeats = _repeats([candidate.vector for _, candidate in scored])
    kept: dict[int, Ranked] = {}
    for place, (ranked, _) in enumerate(scored):
        if len(kept) == limit:
            break
        earlier = [(kept[better], cosine) for better, cosine in repeats.get(place, ()) if better in kept]
        if not any(_says_the_same(ranked, item, cosine) for item, cosine in earlier):
            kept[place] = ranked
    return list(kept.values())


def _says_the_same(a: Ranked, b: Ranked, cosine: float) -> bool:
    return is_duplicate(Statement(a.memory.content), Statement(b.memory.content), cosine)


def _repeats(vectors: Sequence[Vector]) -> dict[int, list[tuple[int, float]]]:
    """For each place that has near-duplicates at better places: those places, and the cosines."""
    if not vectors:
        return {}
    matrix = np.asarray(vectors)
    cosines = np.tril(matrix @ matrix.T, k=-1)
    repeats: dict[int, list[tuple[int, float]]] = {}
    for place, better in np.argwhere(cosines >= NEAR_DUPLICATE_COSINE).tolist():
        repeats.setdefault(place, []).append((better, float(cosines[place, better])))
    return repeats


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
