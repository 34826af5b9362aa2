"""Figures about decisions, from what was shown and what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.decisions import Decision, Stakes

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Shown:
    """One hypothesis set after the fact: confidences in shown order, the decision, what was chosen.

    `is_answered` is true once the user chose one or said that none fits; `is_undone` where what the service went ahead
    with was not what they meant; `is_first` unless it goes on from another set; `stakes` and what the decision was
    expected to be worth, where they are known.
    """

    confidences: tuple[float, ...]
    decision: Decision
    is_answered: bool
    chosen: int | None
    is_custom: bool = False
    is_assumed: bool = False
    is_undone: bool = False
    is_first: bool = True
    stakes: Stakes | None = None
    utility: float | None = None
    specificity: float | None = None
    user_id: str = ""

    @property
    def is_auto_advanced(self) -> bool:
        """Whether the service went ahead by itself."""
        return self.decision == "auto_advance"

    @property
    def realised(self) -> float | None:
        """What the decision was worth, as `app.domain.decisions` counts; None where that is not known (yet)."""
        if self.stakes is None:
            return None
        if self.is_auto_advanced:
            return -self.stakes.loss if self.is_undone else 1.0 if self.is_answered or self.is_assumed else None
        if self.decision == "ask" and self.is_answered:
            return (1.0 if self.chosen is not None or self.is_custom else 0.0) - self.stakes.question_cost
        return None


@dataclass(frozen=True)
class Bin:
    """Hypotheses of one range of confidence: how many, what was said of them on average, and what came true."""

    low: float
    high: float
    count: int
    confidence: float
    share: float


@dataclass(frozen=True)
class Summary:
    """Rates in 0..1; None where nothing was observed that could tell."""

    sets: int
    answered: int
    auto_advance_rate: float | None
    undo_rate: float | None
    questions_per_task: float | None
    selection_rate: float | None
    mrr: float | None
    brier: float | None
    calibration_error: float | None
    reliability: Sequence[Bin]
    expected_utility: float | None
    realised_utility: float | None


def summarise(shown: Sequence[Shown]) -> Summary:
    """auto_advance_rate over all sets; undo_rate over those that the service went ahead with and of which it is known;
    questions over first sets; selection_rate (one was chosen), mean reciprocal rank of the chosen one (0 for none),
    Brier score and expected calibration error over the answered sets; expected and realised utility over the sets of
    which both are known."""
    answered = [one for one in shown if one.is_answered]
    pairs = [(confidence, one.chosen == index) for one in answered for index, confidence in enumerate(one.confidences)]
    chosen_ranks = [0.0 if one.chosen is None else 1.0 / (one.chosen + 1) for one in answered]
    gone_ahead = [one for one in shown if one.is_auto_advanced and (one.is_answered or one.is_assumed)]
    tasks = sum(one.is_first for one in shown)
    known = [(one.utility, one.realised) for one in shown if one.utility is not None and one.realised is not None]
    return Summary(
        sets=len(shown),
        answered=len(answered),
        auto_advance_rate=_mean([float(one.is_auto_advanced) for one in shown]),
        undo_rate=_mean([float(one.is_undone) for one in gone_ahead]),
        questions_per_task=sum(one.decision == "ask" for one in shown) / tasks if tasks else None,
        selection_rate=_mean([float(one.chosen is not None) for one in answered]),
        mrr=_mean(chosen_ranks),
        brier=_mean([(confidence - is_true) ** 2 for confidence, is_true in pairs]),
        calibration_error=calibration_error(pairs),
        reliability=reliability(pairs),
        expected_utility=_mean([expected for expected, _ in known]),
        realised_utility=_mean([realised for _, realised in known]),
    )


def reliability(pairs: Sequence[tuple[float, bool]]) -> list[Bin]:
    """What a reliability plot shows: what was said beside what came true, in equal-width bins, the empty ones left
    out."""
    return [
        Bin(
            place / CALIBRATION_BINS,
            (place + 1) / CALIBRATION_BINS,
            len(items),
            sum(confidence for confidence, _ in items) / len(items),
            sum(is_true for _, is_true in items) / len(items),
        )
        for place, items in sorted(_binned(pairs).items())
    ]


def calibration_error(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Expected calibration error over equal-width bins: the mean gap between what was said and what came
    true, weighted by how often it was said (Naeini et al. 2015)."""
    if not pairs:
        return None
    gap = sum(
        abs(sum(confidence for confidence, _ in items) - sum(is_true for _, is_true in items))
        for items in _binned(pairs).values()
    )
    return gap / len(pairs)


def _binned(pairs: Sequence[tuple[float, bool]]) -> dict[int, list[tuple[float, bool]]]:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_true in pairs:
        bins.setdefault(min(CALIBRATION_BINS - 1, int(confidence * CALIBRATION_BINS)), []).append((confidence, is_true))
    return bins


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
