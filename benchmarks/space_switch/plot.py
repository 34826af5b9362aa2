"""Latency, recall and what is filled over time, as a PNG."""

from pathlib import Path

from benchmarks.space_switch.findings import per_second
from benchmarks.space_switch.scenario import Outcome, quantile

WINDOW_S = 5


def write_plot(path: Path, outcome: Outcome) -> None:
    """Raises SystemExit where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only for who asks for a plot
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib, or leave it out") from None
    start = outcome.marks["before"]
    canvas = Figure(figsize=(11, 7), layout="constrained")
    latency, recall, filled = canvas.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    windows: dict[int, list[float]] = {}
    for each in outcome.requests:
        windows.setdefault(int((each.due_at - start) // WINDOW_S), []).append(each.seconds * 1000)
    at = [(window + 0.5) * WINDOW_S for window in sorted(windows)]
    for name, rank in (("p50", 0.5), ("p95", 0.95), ("longest", 1.0)):
        latency.plot(at, [quantile(windows[window], rank) for window in sorted(windows)], label=name, lw=1.2)
    latency.set(ylabel=f"ms of a request\nin {WINDOW_S} s", yscale="log")
    seconds = per_second(outcome.searches)
    recall.plot([second - start for second, _ in seconds], [value for _, value in seconds], lw=1, color="tab:green")
    recall.set(ylabel="recall@10\nof each second", ylim=(0.9, 1.01))
    filled.plot([when - start for when, _ in outcome.filled], [share for _, share in outcome.filled], color="tab:gray")
    filled.set(ylabel="share filled", xlabel="s", ylim=(0, 1.05))
    for axes in (latency, recall, filled):
        for phase, when in outcome.marks.items():
            axes.axvline(when - start, color="black", lw=0.8, ls=":")
            if axes is latency:
                place = axes.get_xaxis_transform()
                axes.text(when - start, 1.01, phase, transform=place, fontsize=8, rotation=40, ha="left")
        for when, victim in outcome.kills:
            axes.axvline(when - start, color="tab:red" if victim == "database" else "tab:orange", lw=1)
    for victim, colour in (("filler", "tab:orange"), ("database", "tab:red")):
        latency.plot([], [], color=colour, label=f"kill -9 of the {victim}")
    latency.legend(fontsize=8, loc="upper right")
    canvas.savefig(path, dpi=130)
