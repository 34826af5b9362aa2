"""Recall@10 of turns by type of question, as a PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.memory_quality.measures import Scores, mean

MEASURE = "turn/recall@10"


def write_plot(path: Path, sets: Mapping[str, Scores]) -> None:
    """Of every data set and whoever answered it. Raises SystemExit where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for who asks for a plot
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib, or leave it out") from None
    canvas = Figure(figsize=(11, 4.5 * len(sets)), layout="constrained")
    rows = np.ravel(canvas.subplots(len(sets), squeeze=False))
    for axes, (name, scores) in zip(rows, sets.items(), strict=True):
        heights = recalls(scores)
        width = 0.8 / len(scores)
        for at, (who, of_type) in enumerate(heights.items()):
            places = np.arange(len(of_type)) + (at - (len(scores) - 1) / 2) * width
            bars = axes.bar(places, list(of_type.values()), width, label=who)
            axes.bar_label(bars, fmt="{:.2f}", fontsize=7)
        types = next(iter(heights.values()))
        axes.set_xticks(range(len(types)), list(types))
        axes.set(title=name, ylabel="recall@10 of turns", ylim=(0, 1.05))
    canvas.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=8)
    canvas.savefig(path, dpi=130)


def recalls(scores: Scores) -> dict[str, dict[str, float]]:
    """The mean of each by type of question, with the number of questions, and of all of them."""
    made: dict[str, dict[str, float]] = {}
    for who, theirs in scores.items():
        of_type = {"all": theirs}
        for score in sorted(theirs, key=lambda score: score.category):
            of_type.setdefault(score.category, []).append(score)
        made[who] = {f"{kind}\n{len(each)}": mean(each, MEASURE) for kind, each in of_type.items()}
    return made
