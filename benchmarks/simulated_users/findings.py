"""What the records of both arms say: rates and regret by sessions, with intervals over people."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from app.domain.telemetry import calibration_error
from benchmarks.report import Figure, Target
from benchmarks.simulated_users.people import FACETS, Person
from benchmarks.simulated_users.sessions import Done

BEST = 1.0
"""What an all-knowing assistant's task is worth: the right act, and no question."""

Z = 1.96

Measure = Callable[[Done], tuple[float, float]]
"""Of one task a numerator and a denominator."""


def regret(done: Done) -> tuple[float, float]:
    """What an all-knowing assistant would have done better, in right acts."""
    return BEST - done.utility, 1.0


def questions(done: Done) -> tuple[float, float]:
    """Questions of a task."""
    return float(done.questions), 1.0


def selection(done: Done) -> tuple[float, float]:
    """Questions that were answered by picking an option, of all questions."""
    return float(done.picks), float(done.questions)


def shown(done: Done) -> tuple[float, float]:
    """Whether what was meant was among the first hypotheses, whatever was decided."""
    return float(done.at is not None), 1.0


def first(done: Done) -> tuple[float, float]:
    """Whether it was the likeliest of them, wherever that was shown."""
    return float(done.at is not None and done.confidences[done.at] == max(done.confidences)), 1.0


def advanced(done: Done) -> tuple[float, float]:
    """Whether the service went ahead by itself."""
    return float(done.act == "auto_advance"), 1.0


def undone(done: Done) -> tuple[float, float]:
    """What it went ahead with and was undone."""
    is_advanced = done.act == "auto_advance"
    return float(is_advanced and not done.is_right), float(is_advanced)


MEASURES: dict[str, tuple[Measure, str]] = {
    "selection_rate": (selection, "picked, of questions"),
    "questions_per_task": (questions, ""),
    "regret": (regret, "in right acts"),
    "shown": (shown, "among the first hypotheses"),
    "first": (first, "the likeliest of them"),
    "auto_advance_rate": (advanced, ""),
    "undo_rate": (undone, "of what it went ahead with"),
}


def sums(records: Sequence[Done], measure: Measure, people: int) -> np.ndarray:
    """(people, 2): each person's numerator and denominator."""
    held = np.zeros((people, 2))
    for done in records:
        held[done.person] += measure(done)
    return held


def ratio(held: np.ndarray) -> tuple[float, float]:
    """(ratio of the sums, half-width of its 95 % interval between people by the delta method); both 0 of nothing."""
    top, bottom = held.sum(axis=0)
    if not bottom:
        return 0.0, 0.0
    value = float(top / bottom)
    return value, Z * _deviation(held[:, 0] - value * held[:, 1]) / float(bottom)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The same of the difference of two ratios over the same people, each compared with themself."""
    (value, _), (other, _) = ratio(ours), ratio(theirs)
    if not ours[:, 1].sum() or not theirs[:, 1].sum():
        return 0.0, 0.0
    influence = (ours[:, 0] - value * ours[:, 1]) / ours[:, 1].sum()
    influence -= (theirs[:, 0] - other * theirs[:, 1]) / theirs[:, 1].sum()
    return value - other, Z * _deviation(influence)


def _deviation(parts: np.ndarray) -> float:
    """Of a sum of independent parts, its standard deviation."""
    size = len(parts)
    return float(np.sqrt(size * parts.var(ddof=1))) if size > 1 else 0.0


def blocks(sessions: int, parts: int = 4) -> list[tuple[int, int]]:
    """Sessions 1 to `sessions` in so many parts, first and last of each."""
    edges = [round(each) for each in np.linspace(0, sessions, min(parts, sessions) + 1)]
    return [(low + 1, high) for low, high in pairwise(edges)]


def within(records: Sequence[Done], block: tuple[int, int]) -> list[Done]:
    """The records of some sessions."""
    return [done for done in records if block[0] <= done.session <= block[1]]


def figures(learning: Sequence[Done], off: Sequence[Done], people: int) -> list[Figure]:
    """Each measure in each quarter of the sessions, both arms, and the difference in the last one."""
    sessions = max(done.session for done in learning)
    made: list[Figure] = []
    for name, (measure, note) in MEASURES.items():
        for arm, records in (("learning", learning), ("off", off)):
            for block in blocks(sessions):
                held = sums(within(records, block), measure, people)
                value, half = ratio(held)
                if held[:, 1].any():
                    path = f"{arm}/{name}/{block[0]}_{block[1]}"
                    made.append(Figure(path, value, note=f"± {half:.3f}{note and f'; {note}'}"))
    last = blocks(sessions)[-1]
    for name, sign in (("selection_rate", 1), ("questions_per_task", -1), ("regret", -1)):
        ours, theirs = (sums(within(each, last), MEASURES[name][0], people) for each in (learning, off))
        value, half = difference(ours, theirs)
        note = f"{value - half:+.3f} to {value + half:+.3f}; learning less off, sessions {last[0]} to {last[1]}"
        made.append(Figure(f"difference/{name}", value, "", Target("≥" if sign > 0 else "≤", 0), note))
    return [*made, *truth("learning", learning), *truth("off", off)]


def truth(arm: str, records: Sequence[Done]) -> list[Figure]:
    """Whether confidences are true as often as they say: of the first hypotheses, and of what was gone ahead with."""
    pairs = [(sure, done.at == at) for done in records for at, sure in enumerate(done.confidences)]
    made = [Figure(f"{arm}/calibration_error", calibration_error(pairs) or 0.0, "", note="of the first hypotheses")]
    ahead = [done for done in records if done.act == "auto_advance"]
    if ahead:
        said = float(np.mean([done.sure for done in ahead]))
        true = float(np.mean([done.is_right for done in ahead]))
        half = Z * float(np.sqrt(max(true * (1 - true), 1e-9) / len(ahead)))
        note = f"± {half:.3f}; of {len(ahead)} it went ahead with, with a confidence of {said:.3f}"
        made.append(Figure(f"{arm}/advanced/right", true, "", note=note))
        made.append(Figure(f"{arm}/advanced/gap", said - true, "", note="said less true"))
    return made


def style_figures(people: Sequence[Person], held: Sequence[dict[str, tuple[float, bool]]]) -> list[Figure]:
    """Of the facets that people care about and the service is sure of, how many go the way they like; and of those they
    do not care about, of how many it is sure."""
    cared = [
        (person.style[name], *facets[name]) for person, facets in zip(people, held, strict=True) for name in FACETS
    ]
    sure = [(way, value) for way, value, is_sure in cared if way and is_sure]
    wrong = [is_sure for way, _, is_sure in cared if not way]
    right = [(value > 0.5) == (way > 0) for way, value in sure]
    total = sum(way != 0 for way, _, _ in cared)
    return [
        Figure(
            "style/sure", len(sure) / max(1, total), "", note=f"of {total} facets that people care about, at the end"
        ),
        Figure("style/right", float(np.mean(right)) if right else 0.0, "", note="of these, the way they like"),
        Figure(
            "style/sure_of_none",
            float(np.mean(wrong)) if wrong else 0.0,
            "",
            note="of those that they do not care about",
        ),
    ]
