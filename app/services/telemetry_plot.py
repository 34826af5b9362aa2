"""A reliability plot: what was said beside what came true, and what would by chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.telemetry import Bin, OfPolicy, Summary
from app.services.training.report import draw

CHANCE_SD = 1.96
"""Half of the band in which a share lies 95 times of 100 where what was said is true, in standard deviations."""

MOST_LINES = 4
"""Policies that a plot has room for."""


def draw_reliability(path: Path, summary: Summary, policies: Sequence[OfPolicy]) -> None:
    """Write the plot of all sets, with a line for each of the largest policies where there are several, as a PNG or SVG
    by the name of the file. Raises ModelUnavailable where matplotlib is not installed."""
    draw(path, lambda axes: _fill(axes, summary, policies))


def _fill(axes: Any, summary: Summary, policies: Sequence[OfPolicy]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="what was said came true")
    said = [each.confidence for each in summary.reliability]
    reach = [CHANCE_SD * each.deviation for each in summary.reliability]
    low = [max(0.0, place - each) for place, each in zip(said, reach, strict=True)]
    high = [min(1.0, place + each) for place, each in zip(said, reach, strict=True)]
    axes.fill_between(said, low, high, color="#d9d9d9", label="95 % of chance")
    _line(axes, summary.reliability, f"all, {summary.answered} answered sets", "#1f77b4")
    known = [each for each in policies if each.summary.reliability][:MOST_LINES]
    if len(known) > 1:
        for each, colour in zip(known, ("#ff7f0e", "#2ca02c", "#9467bd", "#8c564b"), strict=False):
            _line(axes, each.summary.reliability, f"{named(each)}, {each.summary.answered}", colour, marker=".")
    error = "" if summary.calibration_error is None else f": error {summary.calibration_error:.3f}"
    chance = "" if summary.chance_error is None else f", by chance {summary.chance_error:.3f}"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that was meant")
    axes.set_title(f"Calibration{error}{chance}")
    axes.legend(fontsize="small")


def named(one: OfPolicy) -> str:
    """A policy in a few words."""
    policy = one.policy
    parts = [policy.source, policy.adapter or policy.model, policy.evidence, policy.prompt_version]
    cost = None if policy.question_cost is None else f"cost {policy.question_cost:g}"
    version = None if policy.version is None else f"rule {policy.version}"
    return " · ".join(str(each) for each in [*parts, version, cost] if each)


def _line(axes: Any, bins: Sequence[Bin], label: str, colour: str, marker: str = "o") -> None:
    places = [each.confidence for each in bins]
    axes.plot(places, [each.share for each in bins], marker=marker, color=colour, label=label, linewidth=1.2)
