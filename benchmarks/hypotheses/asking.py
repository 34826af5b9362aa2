"""Ask or act: what is gained by asking as long as an answer is worth its cost.

A right act is worth 1, a wrong one 0, each question costs the same. `voi` asks the question of the highest expected
gain, and stops when that is below the cost. The others ask in random order: `threshold` until a confidence is
reached, `fixed` a fixed number; the best confidence and the best number are chosen for each cost on the very cases
that they are judged by, which is more than they could have in use. `never` asks nothing. `threshold_same_questions`
and `fixed_same_questions` ask the questions that `voi` would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.belief import AnswerReader, Heard
from app.domain.logit import Array
from app.domain.value_of_information import GainModel, best_question, fit_gain, gain_features
from benchmarks.hypotheses.statistics import mean_interval
from benchmarks.report import Figure

COSTS = (0.01, 0.05, 0.10)
ORDERS = 5
MOST = 8
LEARNED_ORDERS = 3
LEARNED_STEPS = 5
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Asked:
    """One person: how many hypotheses there are, which they mean, and of each question that they would answer the
    answer's log-likelihoods (m, n), its nearness to the hypotheses (m, n) and to the request (m,)."""

    size: int
    meant: int
    likelihoods: Array
    nearness: Array
    relevance: Array


@dataclass(frozen=True)
class Path:
    """One conversation to its end: after each number of questions, whether acting would be right, the confidence,
    and what the best next question is expected to gain."""

    is_right: Array
    confidence: Array
    gain: Array


def people_of(reader: AnswerReader, heard: Heard, request: Array) -> list[Asked]:
    """The people who answered questions about one request (d,), where it leaves something open."""
    if len(heard.hypotheses) < 2:
        return []
    hypotheses = np.array([each.vector for each in heard.hypotheses])
    people: list[Asked] = []
    for meant, exchanges in heard.exchanges.items():
        if exchanges:
            questions = np.array([each.question.vector for each in exchanges])
            likelihoods = np.array([reader.log_likelihoods(each, heard.hypotheses) for each in exchanges])
            people.append(Asked(len(hypotheses), meant, likelihoods, questions @ hypotheses.T, questions @ request))
    return people


def fit_gains(reader: AnswerReader, people: Sequence[Asked]) -> GainModel:
    """What questions gain, from people who were asked in random order."""
    chances = np.random.default_rng(0)
    rows: list[Array] = []
    before: list[float] = []
    after: list[float] = []
    for each in people:
        for _ in range(LEARNED_ORDERS):
            belief = reader.start(each.size)
            for index in chances.permutation(len(each.likelihoods))[:LEARNED_STEPS]:
                one = np.array([index])
                probabilities = belief.probabilities
                rows.append(gain_features(probabilities, each.nearness[one], each.relevance[one], belief.answers)[0])
                belief = belief.after(each.likelihoods[index])
                before.append(float(probabilities.max()))
                after.append(float(belief.probabilities.max()))
    return fit_gain(np.array(rows), np.array(before), np.array(after))


def asking_figures(reader: AnswerReader, gains: GainModel, people: Sequence[Asked]) -> list[Figure]:
    """Mean utility of each way to decide, at each cost; and how often the first act is right when the questions are
    chosen."""
    chosen = _paths(reader, gains, people, is_chosen=True)
    drawn = _paths(reader, gains, people, is_chosen=False)
    figures: list[Figure] = []
    for cost in COSTS:
        stops = np.array([_first(path.gain < cost) for path in chosen])
        ours = _utility(chosen, stops, cost)
        figures.append(Figure(f"utility/{cost:.2f}/voi", float(ours.mean()), "", None, mean_interval(_by_person(ours))))
        asked = _by_person(stops.astype(np.float64))
        figures.append(Figure(f"questions/{cost:.2f}/voi", float(stops.mean()), "a task", None, mean_interval(asked)))
        for name, paths in (("", drawn), ("_same_questions", chosen)):
            for rule, best in (("threshold", _best_threshold), ("fixed", _best_number)):
                theirs, how = best(paths, cost)
                note = f"ours less this: {mean_interval(_by_person(ours - theirs))}; {how}"
                figures.append(Figure(f"utility/{cost:.2f}/{rule}{name}", float(theirs.mean()), "", None, note))
        never = _utility(chosen, np.zeros(len(chosen), dtype=np.int64), cost)
        note = f"ours less this: {mean_interval(_by_person(ours - never))}"
        figures.append(Figure(f"utility/{cost:.2f}/never", float(never.mean()), "", None, note))
    for step in (1, 2, 3):
        right = np.array([path.is_right[min(step, len(path.is_right) - 1)] for path in chosen])
        figures.append(Figure(f"belief/chosen_questions/top1/{step}", float(right.mean()), "", None, "asked by gain"))
    return figures


def _paths(reader: AnswerReader, gains: GainModel, people: Sequence[Asked], *, is_chosen: bool) -> list[Path]:
    chances = np.random.default_rng(0)
    return [
        _path(reader, gains, each, chances.permutation(len(each.likelihoods)), is_chosen=is_chosen)
        for each in people
        for _ in range(ORDERS)
    ]


def _path(reader: AnswerReader, gains: GainModel, person: Asked, order: NDArray[np.int64], *, is_chosen: bool) -> Path:
    belief = reader.start(person.size)
    rights: list[float] = []
    confidences: list[float] = []
    expected: list[float] = []
    left = [int(index) for index in order]
    while True:
        probabilities = belief.probabilities
        top = np.isclose(probabilities, probabilities.max(), rtol=0, atol=1e-12)
        rights.append(float(top[person.meant]) / int(top.sum()))
        confidences.append(float(probabilities.max()))
        if not left or len(expected) == MOST:
            expected.append(-1.0)
            return Path(np.array(rights), np.array(confidences), np.array(expected))
        features = gain_features(probabilities, person.nearness[left], person.relevance[left], belief.answers)
        place, gain = best_question(gains.predict(features))
        expected.append(gain)
        belief = belief.after(person.likelihoods[left.pop(place if is_chosen else 0)])


def _first(is_over: Array) -> int:
    return int(np.argmax(is_over)) if is_over.any() else len(is_over) - 1


def _utility(paths: Sequence[Path], stops: Array, cost: float) -> Array:
    """One utility a path, that stops after so many questions."""
    return np.array([path.is_right[int(stop)] - cost * int(stop) for path, stop in zip(paths, stops, strict=True)])


def _by_person(values: Array) -> Array:
    """The mean of each person's orders: what is resampled."""
    return values.reshape(-1, ORDERS).mean(axis=1)


def _best_threshold(paths: Sequence[Path], cost: float) -> tuple[Array, str]:
    return _best(paths, cost, THRESHOLDS, lambda path, least: _first(path.confidence >= least), "confidence")


def _best_number(paths: Sequence[Path], cost: float) -> tuple[Array, str]:
    return _best(
        paths, cost, range(1, MOST + 1), lambda path, most: min(int(most), len(path.is_right) - 1), "questions"
    )


def _best(
    paths: Sequence[Path], cost: float, settings: Sequence[float], stop: Callable[[Path, float], int], word: str
) -> tuple[Array, str]:
    tried = [(each, np.array([stop(path, each) for path in paths])) for each in settings]
    best, stops = max(tried, key=lambda pair: float(_utility(paths, pair[1], cost).mean()))
    return _utility(paths, stops, cost), f"best {word} {best:g}, {float(stops.mean()):.2f} questions a task"
