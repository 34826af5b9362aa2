"""The report of a trial: a Markdown page with a plot, and nobody's name in it."""

from pathlib import Path
from typing import Any

from app.domain.trials import ALPHA, METRICS, ArmFigure, Compared
from app.services.training.dataset_files import write_durably
from app.services.training.report import draw
from app.services.trials import BOOTSTRAP, TrialReport

PAGE, PLOT = "report.md", "outcomes.png"

_COLOURS = {"serving": "#7f7f7f", "candidate": "#1f77b4"}


def write_trial_report(folder: Path, report: TrialReport) -> Path:
    """Write the page and its plot into a folder, in the older ones' places; the page's path. Raises ModelUnavailable
    where matplotlib is not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    known = [one for one in report.figures if one.difference is not None]
    if known:
        new = folder / f".{PLOT}"
        draw(new, lambda axes: _draw_outcomes(axes, known))
        new.replace(folder / PLOT)
    write_durably(folder / PAGE, _page(report, has_plot=bool(known)).encode())
    return folder / PAGE


def percent(rate: float | None) -> str:
    """A share to a tenth of a percent; empty for None."""
    return "" if rate is None else f"{100 * rate:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares in points; empty for None."""
    return "" if value is None else f"{100 * value:+.1f}"


def interval(one: Compared) -> str:
    """The interval of a difference in points; empty where there is none."""
    return "" if one.low is None or one.high is None else f"{points(one.low)} to {points(one.high)}"


def _page(report: TrialReport, *, has_plot: bool) -> str:
    trial = report.trial
    lines = [
        f"# {report.advice.verdict.replace('_', ' ').capitalize()}",
        "",
        report.advice.sentence,
        "",
        "## Outcomes",
        "",
        "| metric | serving space | candidate | difference in points | 95 % interval | chance of no difference |",
        "|---|---|---|---|---|---|",
    ]
    for one in report.figures:
        cells = [f"`{one.metric}`", _arm(one.serving), _arm(one.candidate), points(one.difference), interval(one)]
        lines.append(f"| {' | '.join(cells)} | {one.chance:.3g} |")
    lines += ["", *(f"- `{name}`: {meaning}." for name, meaning in METRICS.items()), ""]
    if has_plot:
        lines += [f"![What users did, by arm]({PLOT})", ""]
    until = "now" if trial.ended_at is None else f"{trial.ended_at:%Y-%m-%d %H:%M}"
    return "\n".join(
        [
            *lines,
            "## What it rests on",
            "",
            f"- Trial `{trial.trial_id}`: `{trial.space}` for {percent(trial.share)} of the users, against "
            f"`{trial.serving_space}`.",
            f"- {report.users} users who did something from {trial.started_at:%Y-%m-%d %H:%M} to {until}, UTC.",
            "- A user counts for the arm they were put into, whatever space answered them (intention to treat).",
            f"- Intervals: {BOOTSTRAP.resamples:,} resamples of the users; they hold for one look. The chance may be "
            f"looked at as often as one likes: below {ALPHA / len(METRICS):.3g} the arms differ.",
            "",
        ]
    )


def _arm(arm: ArmFigure) -> str:
    return f"{percent(arm.rate)} ({arm.hits} of {arm.tries}, {arm.users} users)" if arm.tries else "nothing yet"


def _draw_outcomes(axes: Any, figures: list[Compared]) -> None:
    """Bars of both arms; on the candidate's the interval of the difference, from the serving space's height."""
    for shift, who in ((-0.2, "serving"), (0.2, "candidate")):
        heights = [getattr(one, who).rate for one in figures]
        axes.bar([place + shift for place in range(len(figures))], heights, 0.38, label=who, color=_COLOURS[who])
    for place, one in enumerate(figures):
        if one.low is not None and one.high is not None and one.serving.rate is not None:
            ends = [one.serving.rate + one.low, one.serving.rate + one.high]
            axes.plot([place + 0.2] * 2, ends, color="black", marker="_", linewidth=1.5)
    axes.set_xticks(
        range(len(figures)), [f"{one.metric}\n{one.serving.users} + {one.candidate.users} users" for one in figures]
    )
    axes.set(ylim=(0, None), title="What users did, with the interval of the difference")
    axes.legend()
