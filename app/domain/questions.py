"""Which questions of a bank fit a request: a ranking learned from requests whose good questions are known.

A question is known by its vector and by the requests it was asked for. A first conditional logit ranks by how near
question and request are, in a metric in which the questions of one request are near one another; by whether the
question was asked before, and for how near a request; and by how much it resembles what is asked for near requests.
Two further rounds read the whole ranking again: questions near those that rank well are raised (pseudo-relevance
feedback, Rocchio 1971; a random walk with restart over the candidates, Haveliwala 2002). The metric is within-class
covariance normalisation (Hatch, Kajarekar and Stolcke 2006): directions in which the questions of one request differ
anyway, such as their wording, count less.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array, Choices, Logit, fit_logit

POOL = 400
"""Candidates of the first round that the later ones look at."""

ROUNDS = 3
FOLDS = 5
COMMON_SHARE = 0.12
SHRINKAGE = 2.0
"""What is added to the within-request variance of every direction, as a multiple of the mean one."""

_NEIGHBOURS = 10
_SHARPNESS = 12.0
_LOGIT_PRECISION = 3.0
_OPENING = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class QuestionBank:
    """Questions by their vectors (n, d), unit length. `asked` (n, r) says which of the known requests each was asked
    for, and `requests` (r, d) are those requests' vectors."""

    vectors: Array
    requests: Array
    asked: NDArray[np.bool_]


@dataclass(frozen=True)
class QuestionRanker:
    """A fitted ranking: the metric (d, d), the centres it is taken around, and one logit for each round."""

    metric: Array
    question_centre: Array
    request_centre: Array
    rounds: tuple[Logit, ...]


def common_words(texts: Sequence[Sequence[str]], share: float = COMMON_SHARE) -> frozenset[str]:
    """Words in the texts of at least `share` of the groups: those say how one asks, not what one asks about."""
    counts = Counter(word for group in texts for word in {word for text in group for word in spoken_words(text)})
    return frozenset(word for word, count in counts.items() if count >= share * len(texts))


def spoken_words(text: str) -> list[str]:
    """The words of a text in lower case, apostrophes left out."""
    return _OPENING.findall(text.lower().replace("'", "").replace("’", ""))


def wordings(text: str, common: frozenset[str]) -> tuple[str, str, str]:
    """A text, the same without the common words it opens with, and without any: their mean vector says more of what
    a question is about than that of the text alone. What would be empty is the text again."""
    said = spoken_words(text)
    start = next((index for index, word in enumerate(said) if word not in common), len(said))
    kept = [word for word in said if word not in common]
    return text, " ".join(said[start:]) or text, " ".join(kept) or text


def unit(vectors: Array) -> Array:
    """Vectors (..., d) of unit length; a zero vector stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def fit_ranker(bank: QuestionBank, folds: int = FOLDS) -> QuestionRanker:
    """The ranking that best explains which questions the known requests had.

    Each request is ranked as if it were new: its own questions count as never asked for it, metric and earlier rounds
    are fitted without its fold. Deterministic: folds are by index. Raises ValueError with fewer requests than folds.
    """
    known = len(bank.requests)
    if known < folds:
        raise ValueError(f"a ranking of questions is learned from at least {folds} requests, not {known}")
    fold = [index % folds for index in range(known)]
    is_in: list[NDArray[np.bool_]] = [np.array([own == each for own in fold]) for each in range(folds)]
    views = [RankedBank(bank, _metric(bank, ~is_in[each])) for each in range(folds)]
    firsts = [views[fold[index]].first(bank.requests[index], index) for index in range(known)]
    pool = min(len(candidates) for candidates, _ in firsts)
    chosen = np.stack([candidates[:pool] for candidates, _ in firsts])
    features = np.stack([each[:pool] for _, each in firsts])
    target = np.stack([_target(bank, index, candidates) for index, candidates in enumerate(chosen)])
    rounds: list[Logit] = []
    for number in range(ROUNDS):
        choices = Choices(features, np.ones(target.shape, dtype=np.bool_), target)
        rounds.append(fit_logit(choices, _LOGIT_PRECISION))
        if number + 1 < ROUNDS:
            scores = np.zeros(target.shape)
            for each in range(folds):
                fitted = fit_logit(choices.part(~is_in[each]), _LOGIT_PRECISION)
                scores[is_in[each]] = fitted.score(features[is_in[each]])
            features = np.stack([views[fold[i]].again(chosen[i], features[i], scores[i]) for i in range(known)])
    whole = _metric(bank, np.ones(known, dtype=np.bool_))
    return QuestionRanker(whole.metric, whole.question_centre, whole.request_centre, tuple(rounds))


def _target(bank: QuestionBank, request: int, candidates: NDArray[np.int64]) -> Array:
    total = max(1, int(bank.asked[:, request].sum()))
    return bank.asked[candidates, request] / total


def _metric(bank: QuestionBank, of: NDArray[np.bool_]) -> QuestionRanker:
    """A ranker of no rounds yet: the metric of the requests where `of` (r,) is true."""
    spread: list[Array] = []
    for request in np.flatnonzero(of):
        own = bank.vectors[bank.asked[:, request]]
        spread.append(own - own.mean(axis=0))
    within = np.concatenate(spread)
    values, directions = np.linalg.eigh(within.T @ within / len(within))
    values = np.maximum(values, 0.0) + SHRINKAGE * values.mean()
    metric = (directions * np.sqrt(values.mean() / values)) @ directions.T
    return QuestionRanker(metric, bank.vectors.mean(axis=0), bank.requests.mean(axis=0), ())


class RankedBank:
    """A bank in the metric of a ranker: what is the same for every request, computed once."""

    def __init__(self, bank: QuestionBank, ranker: QuestionRanker) -> None:
        self._bank = bank
        self._ranker = ranker
        self._questions = unit((bank.vectors - ranker.question_centre) @ ranker.metric)
        self._requests = unit((bank.requests - ranker.request_centre) @ ranker.metric)
        plain = unit(bank.vectors - ranker.question_centre)
        self._kinship = np.stack(
            [(plain @ plain[own].T).max(axis=1) for own in bank.asked.T], axis=1
        )  # (n, r): how near each question is to the nearest one of each request

    def rank(self, request: Array) -> tuple[NDArray[np.int64], Array]:
        """(indices of the candidates, best first; their scores) for the vector of a request, at most POOL of them."""
        candidates, features = self.first(request, None)
        scores = np.zeros(len(candidates))
        for number, logit in enumerate(self._ranker.rounds):
            scores = logit.score(features)
            if number + 1 < len(self._ranker.rounds):
                features = self.again(candidates, features, scores)
        order = np.argsort(-scores, kind="stable")
        return candidates[order], scores[order]

    def first(self, request: Array, own: int | None) -> tuple[NDArray[np.int64], Array]:
        """(candidates, their features); `own` is the index of the request among the known ones, to be left out."""
        bank, ranker = self._bank, self._ranker
        others = np.ones(len(bank.requests), dtype=np.bool_)
        if own is not None:
            others[own] = False
        at = unit((request - ranker.request_centre) @ ranker.metric)
        near = self._questions @ at
        likeness = self._requests[others] @ at
        asked = bank.asked[:, others]
        times = asked.sum(axis=1)
        was_asked = (times > 0).astype(np.float64)
        nearest = np.where(asked, likeness, -1.0).max(axis=1)
        kin = self._kinship[:, others]
        share = np.exp(8.0 * (likeness - likeness.max()))
        features = np.stack(
            [
                bank.vectors @ request,
                near,
                was_asked,
                was_asked * nearest,
                np.log(np.maximum(times, 1)),
                kin @ (share / share.sum()),
                kin.mean(axis=1),
            ],
            axis=1,
        )
        order = np.argsort(-(near - 0.5 * was_asked), kind="stable")[:POOL]
        often = np.setdiff1d(np.flatnonzero(times > 1), order)[: len(order)]
        candidates = np.concatenate([order[: len(order) - len(often)], often]).astype(np.int64)
        return candidates, features[candidates]

    def again(self, candidates: NDArray[np.int64], features: Array, scores: Array) -> Array:
        """The features and, beside them, what the scores of all candidates say of each."""
        likeness = mutual_likeness(self._questions[candidates])
        order = np.argsort(-scores, kind="stable")
        added = [scores]
        for top in (5, 12, 30):
            best = order[:top]
            weights = np.exp(scores[best] - scores[best[0]])
            added.append(likeness[:, best] @ (weights / weights.sum()))
        added.append(np.sort(likeness[:, order[:20]], axis=1)[:, -3:].mean(axis=1))
        added.append(_shares(likeness) @ scores)
        added.append(np.log(_walk(likeness, scores) + 1e-9))
        place = np.empty(len(order))
        place[order] = np.arange(len(order))
        added.append(np.log1p(place))
        return np.column_stack([features, *added])


def mutual_likeness(vectors: Array) -> Array:
    """How near vectors (n, d) are to each other (n, n), less how near each of both is to its nearest ones: what is near
    to everything says little (cross-domain similarity local scaling, Conneau et al. 2018). 0 on the diagonal."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0.0)
    crowd = np.sort(cosines, axis=1)[:, -_NEIGHBOURS:].mean(axis=1)
    likeness = 2.0 * cosines - crowd[:, None] - crowd
    np.fill_diagonal(likeness, 0.0)
    return likeness


def _shares(likeness: Array) -> Array:
    """(n, n), each row summing to 1: how much of each the others are, themselves left out."""
    edges = np.exp(_SHARPNESS * likeness)
    np.fill_diagonal(edges, 0.0)
    return edges / np.maximum(edges.sum(axis=1, keepdims=True), 1e-9)


def _walk(likeness: Array, scores: Array, steps: int = 6, restart: float = 0.4) -> Array:
    """Where a random walk over near questions is, that starts again at the likely ones: probabilities (n,)."""
    edges = _shares(likeness).T
    start = np.exp(scores - scores.max())
    start /= start.sum()
    at = start
    for _ in range(steps):
        at = restart * start + (1.0 - restart) * (edges @ at)
    return at
