"""How good a ranking is, and how sure that is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory_quality.data import Conversation

RESAMPLES = 10_000
DEPTH = 20


@dataclass(frozen=True)
class Answer:
    """The turns that a search gave for a question, best first, by position (one may come again, where another memory is
    of it); and the sessions, best first."""

    turns: Sequence[int]
    sessions: Sequence[int]


@dataclass(frozen=True)
class Score:
    """How good one answer is, by measure."""

    conversation: str
    category: str
    values: Mapping[str, float]


Scores = dict[str, list[Score]]
"""The scores of all questions by who answered."""


def score(conversation: Conversation, answers: Sequence[Answer]) -> list[Score]:
    """The measures of each question's answer: evidence recall at 5, 10 and 20, the reciprocal rank of the first
    evidence, nDCG at 10, and, of a talk, recall at 5 and 10 at the level of sessions. A turn that comes again takes a
    place and counts once."""
    scores: list[Score] = []
    for question, answer in zip(conversation.questions, answers, strict=True):
        wanted = question.evidence
        sessions = {conversation.turns[at].session for at in wanted}
        first = {at: rank for rank, at in reversed(list(enumerate(answer.turns, 1)))}
        ranks = sorted(first[at] for at in wanted if at in first)
        values = {f"turn/recall@{k}": len(wanted & set(answer.turns[:k])) / len(wanted) for k in (5, 10, DEPTH)}
        values["turn/mrr"] = 1 / ranks[0] if ranks else 0.0
        ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(10, len(wanted)) + 1))
        values["turn/ndcg@10"] = float(sum(1 / np.log2(rank + 1) for rank in ranks if rank <= 10) / ideal)
        for k in (5, 10) if conversation.is_talk else ():
            values[f"session/recall@{k}"] = len(sessions & set(answer.sessions[:k])) / len(sessions)
        scores.append(Score(conversation.name, question.category, values))
    return scores


def by_scores(conversation: Conversation, scores: NDArray[np.floating]) -> list[Answer]:
    """Answers from a score of every turn for every question, of shape (questions, turns): sessions by their best
    turn."""
    sessions = conversation.sessions
    answers: list[Answer] = []
    for row in scores:
        order = np.argsort(-row, kind="stable")
        answers.append(Answer(order[:100].tolist(), list(dict.fromkeys(sessions[order].tolist()))))
    return answers


def mean(scores: Sequence[Score], measure: str, is_wanted: Callable[[Score], bool] = lambda score: True) -> float:
    """The mean of a measure over questions."""
    values = [score.values[measure] for score in scores if is_wanted(score)]
    return float(np.mean(values)) if values else 0.0


def interval(ours: Sequence[Score], theirs: Sequence[Score], measure: str) -> tuple[float, float, float]:
    """The mean difference of a measure, and its 95 % interval by a paired bootstrap over whole conversations: what
    other conversations of the same kind would show. Of one conversation alone over its questions."""
    is_alone = len({score.conversation for score in ours}) == 1
    differences: dict[str, list[float]] = {}
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        part = str(number) if is_alone else a.conversation
        differences.setdefault(part, []).append(a.values[measure] - b.values[measure])
    sums = np.array([sum(each) for each in differences.values()])
    counts = np.array([len(each) for each in differences.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)
