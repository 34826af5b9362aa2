"""Ask or act: what is gained by asking as long as an answer is worth its cost.

A right act is worth 1, a wrong one 0, each question costs the same. Questions come in random order. `voi` asks as long
as the expected gain is at least the cost, `threshold` until a confidence is reached, `fixed` a fixed number; the best
confidence and the best number are chosen for each cost on the very cases that they are judged by, which is more than
they could have in use; with `_learned` they are those that were best on the people of `train`. `never` asks nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.belief import AnswerReader, Heard, fit_reader
from app.domain.logit import Array
from app.domain.value_of_information import GainModel, fit_gain, gain_features
from benchmarks.hypotheses.statistics import clustered_interval
from benchmarks.report import Figure

COSTS = (0.01, 0.05, 0.10)
ORDERS = 5
MOST = 8
LEARNED_ORDERS = 3
LEARNED_STEPS = 5
FOLDS = 5
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Asked:
    """One person: the number of their request, how many hypotheses it has, which they mean, and the log-likelihoods
    (m, n) of each answer that they would give."""

    number: int
    size: int
    meant: int
    likelihoods: Array


@dataclass(frozen=True)
class Path:
    """One conversation to its end: after each number of questions, whether acting would be right, the confidence,
    and what the next question is expected to gain."""

    is_right: Array
    confidence: Array
    gain: Array


@dataclass(frozen=True)
class Rule:
    """A way to stop: where a path stops under a setting, and which settings there are."""

    name: str
    word: str
    settings: Sequence[float]
    stop: Callable[[Path, float], int]

    def stops(self, paths: Sequence[Path], setting: float) -> NDArray[np.int64]:
        """After how many questions each path stops."""
        return np.array([self.stop(path, setting) for path in paths])


THRESHOLD = Rule("threshold", "confidence", THRESHOLDS, lambda path, least: _first(path.confidence >= least))
FIXED = Rule("fixed", "questions", range(1, MOST + 1), lambda path, most: min(int(most), len(path.is_right) - 1))


def people_of(reader: AnswerReader, heard: Sequence[Heard]) -> list[Asked]:
    """The people who answered questions about requests that leave something open."""
    return [
        Asked(
            number,
            len(own.hypotheses),
            meant,
            np.array([reader.log_likelihoods(each, own.hypotheses) for each in exchanges]),
        )
        for number, own in enumerate(heard)
        for meant, exchanges in own.exchanges.items()
        if exchanges and len(own.hypotheses) > 1
    ]


def people_held_out(heard: Sequence[Heard]) -> list[Asked]:
    """The same people, each read by a reader that was fitted on other requests: what it would be sure of in use."""
    people: list[Asked] = []
    for fold in range(FOLDS):
        reader = fit_reader([each for index, each in enumerate(heard) if index % FOLDS != fold])
        people += people_of(reader, heard[fold::FOLDS])
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
                probabilities = belief.probabilities
                rows.append(gain_features(probabilities, belief.answers))
                belief = belief.after(each.likelihoods[index])
                before.append(float(probabilities.max()))
                after.append(float(belief.probabilities.max()))
    return fit_gain(np.array(rows), np.array(before), np.array(after))


def asking_figures(
    reader: AnswerReader, gains: GainModel, people: Sequence[Asked], known: Sequence[Asked]
) -> list[Figure]:
    """Mean utility of each way to decide, at each cost. `known` are the people that settings are learned from."""
    paths, learned = _paths(reader, gains, people), _paths(reader, gains, known)
    requests = np.repeat([each.number for each in people], ORDERS)
    figures: list[Figure] = []
    for cost in COSTS:
        stops = np.array([_first(path.gain < cost) for path in paths])
        ours = _utility(paths, stops, cost)
        asked = clustered_interval(stops.astype(np.float64), requests)
        figures += [
            Figure(f"utility/{cost:.2f}/voi", float(ours.mean()), "", None, clustered_interval(ours, requests)),
            Figure(f"questions/{cost:.2f}/voi", float(stops.mean()), "a task", None, asked),
        ]
        ways = [
            (f"{rule.name}{name}", _with(rule, best_on, paths, cost))
            for name, best_on in (("", paths), ("_learned", learned))
            for rule in (THRESHOLD, FIXED)
        ]
        ways.append(("never", (_utility(paths, np.zeros(len(paths), dtype=np.int64), cost), "")))
        for name, (theirs, how) in ways:
            note = f"ours less this: {clustered_interval(ours - theirs, requests)}{how}"
            figures.append(Figure(f"utility/{cost:.2f}/{name}", float(theirs.mean()), "", None, note))
    return figures


def _paths(reader: AnswerReader, gains: GainModel, people: Sequence[Asked]) -> list[Path]:
    chances = np.random.default_rng(0)
    return [
        _path(reader, gains, each, chances.permutation(len(each.likelihoods))) for each in people for _ in range(ORDERS)
    ]


def _path(reader: AnswerReader, gains: GainModel, person: Asked, order: NDArray[np.int64]) -> Path:
    belief = reader.start(person.size)
    rights: list[float] = []
    confidences: list[float] = []
    expected: list[float] = []
    for index in [*order[:MOST], None]:
        probabilities = belief.probabilities
        top = np.isclose(probabilities, probabilities.max(), rtol=0, atol=1e-12)
        rights.append(float(top[person.meant]) / int(top.sum()))
        confidences.append(float(probabilities.max()))
        if index is None:
            expected.append(-1.0)
        else:
            expected.append(float(gains.predict(gain_features(probabilities, belief.answers)[None])[0]))
            belief = belief.after(person.likelihoods[index])
    return Path(np.array(rights), np.array(confidences), np.array(expected))


def _first(is_over: Array) -> int:
    return int(np.argmax(is_over)) if is_over.any() else len(is_over) - 1


def _utility(paths: Sequence[Path], stops: Array, cost: float) -> Array:
    """One utility a path, that stops after so many questions."""
    return np.array([path.is_right[int(stop)] - cost * int(stop) for path, stop in zip(paths, stops, strict=True)])


def _with(rule: Rule, best_on: Sequence[Path], paths: Sequence[Path], cost: float) -> tuple[Array, str]:
    """(utilities of the paths by the setting of a rule that is best for other paths, what it is)."""
    best = max(rule.settings, key=lambda each: float(_utility(best_on, rule.stops(best_on, each), cost).mean()))
    stops = rule.stops(paths, best)
    return _utility(paths, stops, cost), f"; {rule.word} {best:g}, {float(stops.mean()):.2f} questions a task"
