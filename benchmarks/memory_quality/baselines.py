"""What others do, on the same texts, the same vectors and the same stems."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory_quality.data import Conversation, Embedded

Stems = Sequence[Counter[str]]
"""How often each stemmed word occurs, text by text."""

K1, B = 1.2, 0.75
RANK_CONSTANT = 60
"""Of reciprocal-rank fusion (Cormack et al. 2009)."""

_LEXEME = re.compile(r"'((?:[^']|'')*)'(?::([\d,ABCD]+))?")


def read_stems(tsvector: str) -> Counter[str]:
    """The words of a tsvector's text with how often each occurs."""
    return Counter({word: max(1, len(places.split(","))) for word, places in _LEXEME.findall(tsvector)})


def cosine(embedded: Embedded) -> NDArray[np.floating]:
    """(questions, turns): the cosines."""
    return embedded.questions @ embedded.turns.T


def bm25(turns: Stems, questions: Stems) -> NDArray[np.float64]:
    """(questions, turns): Okapi BM25 with OR semantics (Robertson and Zaragoza 2009)."""
    vocabulary = {word: at for at, word in enumerate(sorted({word for each in questions for word in each}))}
    counts = np.zeros((len(vocabulary), len(turns)))
    for at, each in enumerate(turns):
        for word, count in each.items():
            if word in vocabulary:
                counts[vocabulary[word], at] = count
    lengths = np.array([sum(each.values()) for each in turns], float)
    holding = (counts > 0).sum(axis=1)
    rarity = np.log1p((len(turns) - holding + 0.5) / (holding + 0.5))
    weighed = rarity[:, None] * counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / lengths.mean()))
    asked = np.zeros((len(questions), len(vocabulary)))
    for at, each in enumerate(questions):
        asked[at, [vocabulary[word] for word in each]] = 1
    return asked @ weighed


def windowed(conversation: Conversation, turns: Stems) -> Stems:
    """The words of each turn with those of the turns beside it in its session."""
    joined = [Counter(each) for each in turns]
    for at, (a, b) in enumerate(pairwise(conversation.turns)):
        if a.session == b.session:
            joined[at].update(turns[at + 1])
            joined[at + 1].update(turns[at])
    return joined


def four_arms(conversation: Conversation, embedded: Embedded, turns: Stems, questions: Stems) -> NDArray[np.floating]:
    """(questions, turns): vectors and BM25, of turns and of windows of three, by reciprocal rank, times the best of the
    turn's session."""
    arms = (
        cosine(embedded),
        embedded.questions @ embedded.windows.T,
        bm25(turns, questions),
        bm25(windowed(conversation, turns), questions),
    )
    fused = np.sum([1 / (RANK_CONSTANT + _ranks(arm)) for arm in arms], axis=0)
    best = np.zeros_like(fused)
    for session in np.unique(conversation.sessions):
        of_session = conversation.sessions == session
        best[:, of_session] = fused[:, of_session].max(axis=1, keepdims=True)
    return fused * best


def _ranks(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None].repeat(len(scores), axis=0), axis=1)
    return ranks
