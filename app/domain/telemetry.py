"""Figures about decisions, from what was shown and what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Shown:
    """One hypothesis set after the fact: confidences in shown order, the decision, what was chosen.

    `is_answered` is true once the user chose one or said that none fits.
    """

    confidences: tuple[float, ...]
    is_auto_advanced: bool
    is_answered: bool
    chosen: int | None


@dataclass(frozen=True)
class Summary:
    """Rates in 0..1; None where nothing was observed that could tell."""

    sets: int
    answered: int
    auto_advance_rate: float | None
    selection_rate: float | None
    mrr: float | None
    calibration_error: float | None


def summarise(shown: Sequence[Shown]) -> Summary:
    """auto_advance_rate over all sets; selection_rate (one was chosen), mean reciprocal rank of the chosen
    one (0 for none) and expected calibration error over the answered sets."""
    answered = [one for one in shown if one.is_answered]
    pairs = [(confidence, one.chosen == index) for one in answered for index, confidence in enumerate(one.confidences)]
    chosen_ranks = [0.0 if one.chosen is None else 1.0 / (one.chosen + 1) for one in answered]
    return Summary(
        sets=len(shown),
        answered=len(answered),
        auto_advance_rate=_mean([float(one.is_auto_advanced) for one in shown]),
        selection_rate=_mean([float(one.chosen is not None) for one in answered]),
        mrr=_mean(chosen_ranks),
        calibration_error=calibration_error(pairs),
    )


def calibration_error(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Expected calibration error over equal-width bins: the mean gap between what was said and what came
    true, weighted by how often it was said (Naeini et al. 2015)."""
    if not pairs:
        return None
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_true in pairs:
        bins.setdefault(min(CALIBRATION_BINS - 1, int(confidence * CALIBRATION_BINS)), []).append((confidence, is_true))
    gap = sum(
        abs(sum(confidence for confidence, _ in items) - sum(is_true for _, is_true in items))
        for items in bins.values()
    )
    return gap / len(pairs)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
