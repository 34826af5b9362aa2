"""How much a request needs a question: ClariQ's label 1 to 4, and whether a task of IN3 is vague."""

from collections.abc import Sequence

import numpy as np

from app.domain.logit import Array
from app.domain.need import fit_need, need_features
from app.domain.wording import words
from benchmarks.hypotheses.data import Task, Topic, Vectors
from benchmarks.hypotheses.statistics import auroc, interval, spearman
from benchmarks.report import Figure

FOLDS = 10
NEAREST = 30


def need_figures(topics: Sequence[Topic], bank: Sequence[str], vectors: Vectors) -> list[Figure]:
    """Rank correlation with the label over all topics, each predicted by a fit without its fold; beside it that of
    the query's length."""
    questions = np.array([vectors.of(text) for text in bank])
    features = np.array([_features(topic.request, questions, vectors) for topic in topics])
    about = np.array([vectors.of(topic.request) for topic in topics])
    label = np.array([float(topic.need) for topic in topics])
    fold = np.arange(len(topics)) % FOLDS
    predicted = np.zeros(len(topics))
    for each in range(FOLDS):
        held = fold == each
        fitted = fit_need(features[~held], about[~held], label[~held])
        predicted[held] = fitted.predict(features[held], about[held])
    length = -np.array([float(len(words(topic.request))) for topic in topics])
    beyond = interval(
        len(topics), lambda rows: spearman(predicted[rows], label[rows]) - spearman(length[rows], label[rows])
    )
    return [
        Figure(
            "need/spearman",
            spearman(predicted, label),
            "",
            None,
            interval(len(topics), lambda rows: spearman(predicted[rows], label[rows])),
        ),
        Figure(
            "need/query_length_spearman", spearman(length, label), "", None, f"shorter needs more; beyond it: {beyond}"
        ),
    ]


def vagueness_figures(train: Sequence[Task], dev: Sequence[Task], vectors: Vectors) -> list[Figure]:
    """Whether a task is vague, learned on `train`; the threshold of the balanced accuracy is that of `train`."""
    known = np.array([vectors.of(task.text) for task in train])
    rows = np.array(
        [_features(task.text, np.delete(known, index, axis=0), vectors) for index, task in enumerate(train)]
    )
    label = np.array([float(task.is_vague) for task in train])
    fitted = fit_need(rows, known, label)
    judged = np.array([vectors.of(task.text) for task in dev])
    scores = fitted.predict(np.array([_features(task.text, known, vectors) for task in dev]), judged)
    is_vague = np.array([task.is_vague for task in dev])
    is_called = scores >= label.mean()
    balanced = 0.5 * float(is_called[is_vague].mean()) + 0.5 * float((~is_called)[~is_vague].mean())
    shorter = -np.array([float(len(words(task.text))) for task in dev])
    return [
        Figure(
            "in3/auroc",
            auroc(scores, is_vague),
            "",
            None,
            interval(len(dev), lambda chosen: auroc(scores[chosen], is_vague[chosen])),
        ),
        Figure("in3/query_length_auroc", auroc(shorter, is_vague)),
        Figure("in3/balanced_accuracy", balanced),
    ]


def _features(text: str, others: Array, vectors: Vectors) -> Array:
    vector = vectors.of(text)
    nearest = others[np.argsort(-(others @ vector), kind="stable")[:NEAREST]]
    return need_features(text, vector, nearest)
