"""Which questions of a bank fit a request: ClariQ, what is learned on `train` beside plain cosine."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.logit import Array
from app.domain.questions import QuestionBank, RankedBank, fit_ranker, wordings
from benchmarks.hypotheses.data import Topic, Vectors
from benchmarks.hypotheses.statistics import mean_interval
from benchmarks.report import Figure, Target

TARGETS = {10: 0.72, 30: 0.88}
CUTS = (5, 10, 20, 30)


def question_figures(
    train: Sequence[Topic], dev: Sequence[Topic], bank: Mapping[str, str], vectors: Vectors, common: frozenset[str]
) -> list[Figure]:
    """Recall of the questions that were asked for each request, among all of the bank."""
    ids = list(bank)
    place = {question_id: index for index, question_id in enumerate(ids)}
    asked = np.zeros((len(ids), len(train)), dtype=np.bool_)
    for column, topic in enumerate(train):
        asked[[place[each] for each in topic.question_ids if each in place], column] = True
    known = QuestionBank(
        np.array([vectors.mean_of(wordings(text, common)) for text in bank.values()]),
        np.array([vectors.mean_of(wordings(topic.request, common)) for topic in train]),
        asked,
    )
    requests = [vectors.mean_of(wordings(topic.request, common)) for topic in dev]
    relevant = [np.array([place[each] for each in topic.question_ids if each in place]) for topic in dev]
    ranked = RankedBank(known, fit_ranker(known))
    learned = _recalls([ranked.rank(each)[0] for each in requests], relevant)
    plain = np.array([vectors.of(text) for text in bank.values()])
    cosine = _recalls([np.argsort(-(plain @ vectors.of(topic.request)), kind="stable") for topic in dev], relevant)
    unasked = ~asked.any(axis=1)
    new_only = _recalls(
        [(order := np.argsort(-(plain @ vectors.of(topic.request)), kind="stable"))[unasked[order]] for topic in dev],
        relevant,
    )
    figures: list[Figure] = []
    for column, cut in enumerate(CUTS):
        target = Target("≥", TARGETS[cut]) if cut in TARGETS else None
        best = float(np.mean([min(cut, len(each)) / len(each) for each in relevant]))
        note = f"{mean_interval(learned[:, column])}; at most {best:.3f}"
        figures.append(Figure(f"clariq/recall@{cut}", float(learned[:, column].mean()), "", target, note))
        figures.append(Figure(f"clariq/cosine/recall@{cut}", float(cosine[:, column].mean())))
        figures.append(
            Figure(
                f"clariq/cosine_unasked/recall@{cut}",
                float(new_only[:, column].mean()),
                "",
                None,
                "cosine over the questions that no known request had",
            )
        )
    return figures


def _recalls(orders: Sequence[NDArray[np.int64]], relevant: Sequence[NDArray[np.int64]]) -> Array:
    """(requests, cuts): which share of the relevant ones is among the first of the order."""
    return np.array(
        [
            [np.isin(order[:cut], own).sum() / len(own) for cut in CUTS]
            for order, own in zip(orders, relevant, strict=True)
        ]
    )
