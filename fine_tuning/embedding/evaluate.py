"""How well a model finds what belongs to a text: MRR, Hit@k, nDCG@10, and whether two models differ.

MRR is the mean of 1 / rank of the first relevant candidate (Voorhees 1999); nDCG@10 is that of Järvelin and
Kekäläinen (2002) with the gain itself as gain and 1 / log2(1 + rank) as discount, as trec_eval computes it. A candidate
that scores as high as a relevant one counts as ranked before it: a model that tells nothing apart is not rewarded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.pooling import Vectors, normalised

Encode = Callable[[Sequence[str]], Vectors]
"""Texts to vectors of shape (texts, dimension), of any length."""

PerQuery = NDArray[np.float64]
"""Shape (queries,)."""

_DEPTH = 10
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A text and the one that belongs to it."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    group: str | None = None
    """Whom or what the row comes from: rows of a group are not independent."""


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, a corpus, and how relevant its texts are."""

    queries: Mapping[str, str]
    """Text by id."""
    corpus: Mapping[str, str]
    relevance: Mapping[str, Mapping[str, float]]
    """By query id the gain of each relevant text's id, more than 0. A query without any is left out."""
    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """By query id; without one a query is a group of its own."""


@dataclass(frozen=True)
class Figures:
    """Means over the queries, each 0..1."""

    mrr: float
    hit_at_1: float
    hit_at_5: float
    hit_at_10: float
    ndcg_at_10: float
    queries: int


@dataclass(frozen=True)
class Ranking:
    """What each query got; two rankings of the same data have their queries in the same order."""

    first_ranks: PerQuery
    """Of the first relevant candidate, from 1."""
    ndcg_at_10: PerQuery
    groups: Sequence[str]

    @property
    def reciprocal_ranks(self) -> PerQuery:
        """1 / rank, whose mean is the MRR."""
        return 1 / self.first_ranks

    def hits(self, k: int) -> PerQuery:
        """1 where a relevant candidate is among the first k, else 0."""
        return (self.first_ranks <= k).astype(np.float64)

    def figures(self) -> Figures:
        """The means."""
        return Figures(
            mrr=float(self.reciprocal_ranks.mean()),
            hit_at_1=float(self.hits(1).mean()),
            hit_at_5=float(self.hits(5).mean()),
            hit_at_10=float(self.hits(10).mean()),
            ndcg_at_10=float(self.ndcg_at_10.mean()),
            queries=len(self.groups),
        )


@dataclass(frozen=True)
class Interval:
    """A difference of means, or a mean, and where it would lie if the groups were drawn again."""

    value: float
    low: float
    high: float


def retrieval_figures(encode: Encode, data: Sequence[EvaluationRow] | RetrievalSet) -> Figures:
    """The means of `rank`. Raises ValueError where there is nothing to rank."""
    return rank(encode, data).figures()


def rank(encode: Encode, data: Sequence[EvaluationRow] | RetrievalSet) -> Ranking:
    """Rank by cosine. The candidates of a row are its positive, its negatives and the other rows' positives, those of
    the same anchor left out; the candidates of a query of a retrieval set are its whole corpus. Every distinct text is
    encoded once. Raises ValueError where there is nothing to rank."""
    return _rank_set(encode, data) if isinstance(data, RetrievalSet) else _rank_rows(encode, data)


def concatenated(rankings: Sequence[Ranking]) -> Ranking:
    """Several rankings as one, e.g. of users who each have a corpus of their own."""
    return Ranking(
        np.concatenate([each.first_ranks for each in rankings]),
        np.concatenate([each.ndcg_at_10 for each in rankings]),
        [group for each in rankings for group in each.groups],
    )


def mean_interval(values: PerQuery, groups: Sequence[str], *, resamples: int = 10_000, seed: int = 7) -> Interval:
    """The mean and its 95 % interval, groups resampled. Shape of `values`: (queries,)."""
    return _bootstrap(values, groups, resamples, seed)


def paired_bootstrap(
    before: PerQuery, after: PerQuery, groups: Sequence[str], *, resamples: int = 10_000, seed: int = 7
) -> Interval:
    """The mean of `after` - `before` and its 95 % interval by the percentile bootstrap (Efron 1979) over groups: all
    queries of a group are drawn together, and each query with both of its values. With a single group the interval
    is the value itself and says nothing."""
    return _bootstrap(after - before, groups, resamples, seed)


def _bootstrap(values: PerQuery, groups: Sequence[str], resamples: int, seed: int) -> Interval:
    _, of_query = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(of_query, values), np.bincount(of_query).astype(np.float64)
    dice, means = np.random.default_rng(seed), np.empty(resamples)
    for start in range(0, resamples, 500):
        drawn = dice.integers(0, len(sums), (min(500, resamples - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _rank_rows(encode: Encode, rows: Sequence[EvaluationRow]) -> Ranking:
    if not rows:
        raise ValueError("there are no rows to rank")
    anchors = list(dict.fromkeys(row.anchor for row in rows))
    pool = list(dict.fromkeys(row.positive for row in rows))
    negatives = list(dict.fromkeys(text for row in rows for text in row.negatives))
    vectors = _encoded(encode, [*anchors, *pool, *negatives])
    place = {text: number for number, text in enumerate(pool)}
    positives: dict[str, list[int]] = {}
    for row in rows:
        positives.setdefault(row.anchor, []).append(place[row.positive])
    ranks = np.empty(len(rows))
    for start in range(0, len(rows), _QUERIES_AT_ONCE):
        some = rows[start : start + _QUERIES_AT_ONCE]
        queries = np.stack([vectors[row.anchor] for row in some])
        scores = queries @ np.stack([vectors[text] for text in pool]).T
        for number, row in enumerate(some):
            own = scores[number, place[row.positive]]
            others = scores[number].copy()
            others[positives[row.anchor]] = -np.inf
            known = set(row.negatives) - place.keys()
            harder = [float(vectors[text] @ queries[number]) for text in known]
            ranks[start + number] = 1 + int((others >= own).sum()) + sum(score >= own for score in harder)
    groups = [row.anchor if row.group is None else f"group {row.group}" for row in rows]
    return Ranking(ranks, np.where(ranks <= _DEPTH, 1 / np.log2(1 + ranks), 0), groups)


def _rank_set(encode: Encode, data: RetrievalSet) -> Ranking:
    asked = [query for query in data.queries if any(gain > 0 for gain in data.relevance.get(query, {}).values())]
    if not asked:
        raise ValueError("there are no queries with a relevant text")
    vectors = _encoded(encode, [*(data.queries[query] for query in asked), *data.corpus.values()])
    places = {text_id: number for number, text_id in enumerate(data.corpus)}
    corpus = np.stack([vectors[text] for text in data.corpus.values()])
    first_ranks, ndcg = np.empty(len(asked)), np.empty(len(asked))
    for number, query in enumerate(asked):
        gains = np.zeros(len(corpus))
        for text_id, gain in data.relevance[query].items():
            gains[places[text_id]] = max(gain, 0)
        scores = corpus @ vectors[data.queries[query]]
        # Of equal scores the irrelevant candidate goes first.
        ranked = gains[np.lexsort((gains, -scores))]
        first_ranks[number] = 1 + int(np.flatnonzero(ranked)[0])
        ndcg[number] = _discounted(ranked) / _discounted(np.sort(gains)[::-1])
    return Ranking(first_ranks, ndcg, [data.groups.get(query, f"query {query}") for query in asked])


def _discounted(gains: NDArray[np.float64]) -> float:
    """The discounted cumulative gain of the first ten."""
    top = gains[:_DEPTH]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _encoded(encode: Encode, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The unit vector of every distinct text."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, normalised(encode(distinct)), strict=True))
