"""Selection rate, questions per task and regret by session, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.simulated_users.findings import MEASURES, ratio, sums, within
from benchmarks.simulated_users.sessions import Done

ROWS = {
    "selection_rate": "of questions, answered\nby picking an option",
    "questions_per_task": "questions per task",
    "regret": "regret per task\n(right acts)",
    "first": "what was meant is\nthe first hypothesis",
}
ARMS = {"learning": "tab:blue", "off": "tab:gray"}
NAMES = {"learning": "learning", "off": "learning off"}


def write_plot(path: Path, arms: Mapping[str, Sequence[Done]], people: int, ceiling: Sequence[float]) -> None:
    """Means of each session over all people with 95 % intervals; `ceiling` is, by session, how often the first
    hypothesis would be right if everybody's tastes were known. Raises SystemExit where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for who asks for a plot
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib, or leave it out") from None
    sessions = max(done.session for done in arms["learning"])
    at = np.arange(1, sessions + 1)
    canvas = Figure(figsize=(10, 7), layout="constrained")
    for axes, (name, label) in zip(canvas.subplots(2, 2, sharex=True).flat, ROWS.items(), strict=True):
        for arm, colour in ARMS.items():
            points = [ratio(sums(within(arms[arm], (each, each)), MEASURES[name][0], people)) for each in at]
            values, halves = np.array(points).T
            axes.plot(at, values, color=colour, lw=1.6, marker="o", ms=3, label=NAMES[arm])
            axes.fill_between(at, values - halves, values + halves, color=colour, alpha=0.2, lw=0)
        if name == "first":
            axes.plot(at, ceiling, color="black", lw=1, ls=":", label="tastes known, today's goal not")
        axes.set(ylabel=label, ylim=(0, None), xlim=(0.5, sessions + 0.5))
        axes.grid(alpha=0.3)
    for axes in canvas.axes[-2:]:
        axes.set(xlabel="session")
        axes.xaxis.get_major_locator().set_params(integer=True)
    lines = {line.get_label(): line for axes in canvas.axes for line in axes.get_lines()}
    canvas.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, fontsize=9)
    canvas.suptitle(
        f"{people} simulated people, one task each session; bands are 95 % intervals over people", fontsize=10
    )
    canvas.savefig(path, dpi=130)
