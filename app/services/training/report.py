"""The judge's report: a Markdown page with plots, and nothing in it of what users said."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from app.domain.errors import ModelUnavailable
from app.domain.promotion import LOWER_IS_BETTER, Figure, Gate
from app.services.training.judge import Judgement

FOLDER = "judgement"
PAGE = "report.md"

_MEANINGS = {
    "mrr": "mean reciprocal rank of the user's choice among the readings shown",
    "hit@1": "share of rows where the user's choice is found the likeliest",
    "calibration_error": "expected calibration error of the readings' probabilities",
    "schema_validity": "share of answers in the right shape, without a grammar",
    "answer_mrr": "mean reciprocal rank of the user's choice among the model's own readings",
    "answer_hit@1": "share of answers whose first reading is the user's choice",
    "reward_win_rate": "share of answers that the reward model rates above the serving model's",
    "latency": "median seconds of an answer",
    "latency_ratio": "candidate's latency over the serving model's",
}
_TRAINING = {
    "loss": "held-out loss",
    "preference_accuracy": "share of held-out pairs where the chosen answer is the likelier one",
    "pair_accuracy": "share of held-out pairs where the chosen answer is rated higher",
    "reward": "mean reward on held-out prompts",
}
_NAMES = {"candidate": "candidate", "serving": "serving model"}
_COLOURS = {"candidate": "#1f77b4", "serving": "#7f7f7f"}


def write_report(folder: Path, judgement: Judgement, metrics: Mapping[str, Any] | None = None) -> Path:
    """Write `judgement/report.md` and its plots into a folder; the page's path. An older report is replaced as a whole.
    `metrics` are the training's metrics.json, by default the judgement's. Raises ModelUnavailable where matplotlib is
    not installed."""
    metrics = judgement.metrics if metrics is None else metrics
    folder.mkdir(parents=True, exist_ok=True)
    new, old = (folder / f".{FOLDER}.{secrets.token_hex(4)}.{end}" for end in ("new", "old"))
    new.mkdir()
    try:
        plots = _draw_all(new, judgement, metrics)
        (new / PAGE).write_text(_page(judgement, plots, metrics), "utf-8")
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if (folder / FOLDER).exists():
            (folder / FOLDER).replace(old)
        new.replace(folder / FOLDER)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
    return folder / FOLDER / PAGE


def _page(judgement: Judgement, plots: Mapping[str, str], metrics: Mapping[str, Any] | None) -> str:
    parts = [_verdict(judgement), _table(judgement)]
    parts += [f"![{title}]({name})" for name, title in plots.items() if name != "training.png"]
    if metrics is not None:
        parts += _training(metrics)
        parts += [f"![{title}]({name})" for name, title in plots.items() if name == "training.png"]
    return "\n\n".join([*parts, _basis(judgement)]) + "\n"


def _verdict(judgement: Judgement) -> str:
    if judgement.is_accepted:
        return "# Accepted\n\nThe candidate passed every gate that could be measured."
    return "\n".join(["# Refused", "", *(f"- {refusal}" for refusal in judgement.refusals)])


def _table(judgement: Judgement) -> str:
    confidence = f"{judgement.policy.bootstrap.confidence:.0%}".replace("%", " %")
    lines = [
        f"| figure | candidate | serving model | difference | {confidence} interval | rows | gate | passed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    gates: Mapping[str, Gate | None] = {**judgement.policy.gates}
    for name, figure in judgement.figures.items():
        gate = gates.get(name)
        passed = {True: "yes", False: "**no**", None: "not measured"}[judgement.verdict.passed.get(name)]
        cells = [
            f"`{name}`" + (" (less is better)" if name in LOWER_IS_BETTER else ""),
            _number(figure.candidate),
            _number(figure.serving),
            _number(figure.difference, sign="+"),
            "" if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}",
            str(figure.rows),
            gate.words if gate else "",
            passed if gate else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    meanings = [f"`{name}`: {_MEANINGS[name]}." for name in judgement.figures if name in _MEANINGS]
    note = (
        "The interval is that of the difference, for a figure of the candidate alone that of the figure. "
        "What could not be measured refuses nobody."
    )
    return "\n".join(["## Figures", "", *lines, "", note, "", *(f"- {meaning}" for meaning in meanings)])


def _training(metrics: Mapping[str, Any]) -> list[str]:
    before, after = (cast("Mapping[str, Any]", metrics.get(name) or {}) for name in ("before", "after"))
    known = [name for name in _TRAINING if name in after]
    lines = [
        f"| `{name}` | {_TRAINING[name]} | {_number(before.get(name))} | {_number(after[name])} |" for name in known
    ]
    if not lines:
        return ["## Training\n\nThe training measured nothing on held-out rows."]
    return ["\n".join(["## Training", "", "| figure | what | before | after |", "|---|---|---|---|", *lines])]


def _basis(judgement: Judgement) -> str:
    silent, policy = judgement.unanswered, judgement.policy
    return "\n".join(
        [
            "## What it rests on",
            "",
            f"- {judgement.rows} held-out choices of {judgement.users} users; {judgement.answered} answered in full.",
            f"- Without an answer, of {silent.asked} questions to each: the candidate {silent.candidate}, the serving "
            f"model {silent.serving}.",
            f"- Intervals from {policy.bootstrap.resamples:,} resamples of the users, seed {policy.bootstrap.seed}.",
            f"- {judgement.seconds:.0f} seconds.",
        ]
    )


def _number(value: object, sign: str = "") -> str:
    return format(value, f"{sign}.3f") if isinstance(value, int | float) else ""


# Plots


def _draw_all(folder: Path, judgement: Judgement, metrics: Mapping[str, Any] | None) -> dict[str, str]:
    """Draw what there are figures for; the files' names with their titles, in the order of the page."""
    drawn: dict[str, str] = {}
    if judgement.figures["mrr"].candidate is not None:
        draw(folder / "ranking.png", lambda axes: _draw_ranking(axes, judgement.figures))
        drawn["ranking.png"] = "Ranking of the user's choice"
        draw(folder / "reliability.png", lambda axes: _draw_reliability(axes, judgement.reliability))
        drawn["reliability.png"] = "What was said against what came true"
    if judgement.figures["latency"].candidate is not None:
        draw(folder / "latency.png", lambda axes: _draw_latency(axes, judgement.figures["latency"]))
        drawn["latency.png"] = "Median seconds of an answer"
    curves = _curves(metrics or {})
    if curves:
        draw(folder / "training.png", lambda axes: _draw_curves(axes, curves))
        drawn["training.png"] = "Loss of the training"
    return drawn


def draw(path: Path, fill: Callable[[Any], None]) -> None:
    """A plot, as an SVG where the name ends so, else as a PNG; `fill` gets its axes. Raises ModelUnavailable where
    matplotlib is not installed."""
    # 60 MB: nobody pays for it who judges nothing.
    try:
        from matplotlib.figure import Figure as Canvas  # noqa: PLC0415
    except ImportError:
        raise ModelUnavailable("the report needs more packages: run `make install-training`") from None

    canvas = Canvas(figsize=(7, 4), layout="constrained")
    fill(canvas.add_subplot())
    is_svg = path.suffix.lower() == ".svg"
    canvas.savefig(
        path, format="svg" if is_svg else "png", dpi=110, metadata={"Date": None} if is_svg else {"Software": None}
    )


def _draw_ranking(axes: Any, figures: Mapping[str, Figure]) -> None:
    """Bars of both models; on the candidate's the interval of the difference, from the serving model's height."""
    names = [name for name in ("mrr", "hit@1", "answer_mrr", "answer_hit@1") if figures[name].candidate is not None]
    shown = [figures[name] for name in names]
    for shift, who in ((-0.2, "serving"), (0.2, "candidate")):
        heights = [getattr(figure, who) for figure in shown]
        axes.bar([place + shift for place in range(len(names))], heights, 0.38, label=_NAMES[who], color=_COLOURS[who])
    for place, figure in enumerate(shown):
        if figure.low is not None and figure.high is not None and figure.serving is not None:
            ends = [figure.serving + figure.low, figure.serving + figure.high]
            axes.plot([place + 0.2] * 2, ends, color="black", marker="_", linewidth=1.5)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, None), title="Ranking of the user's choice, with the interval of the difference")
    axes.legend()


def _draw_reliability(axes: Any, reliability: Mapping[str, Sequence[tuple[float, float, int]]]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="as true as said")
    for who, bins in reliability.items():
        said, true, counts = zip(*bins, strict=True)
        most = max(counts)
        axes.plot(said, true, color=_COLOURS[who], label=_NAMES[who])
        axes.scatter(said, true, s=[15 + 120 * count / most for count in counts], color=_COLOURS[who])
    axes.set(xlabel="probability", ylabel="share chosen", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_latency(axes: Any, figure: Figure) -> None:
    names = ["candidate", "serving"]
    axes.barh([_NAMES[who] for who in names], [figure.candidate, figure.serving], color=[_COLOURS[w] for w in names])
    axes.set(xlabel="seconds", title="Median seconds of an answer")


def _curves(metrics: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """(step, loss) of the training's and the held-out rows, where they were noted down."""
    lines = {name: cast("Sequence[Mapping[str, float]]", metrics.get(name) or ()) for name in ("train", "heldout")}
    points = {
        name: [(line["step"], line["loss"]) for line in each if {"step", "loss"} <= set(line)]
        for name, each in lines.items()
    }
    return {name: each for name, each in points.items() if each}


def _draw_curves(axes: Any, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o" if name == "heldout" else None, label=name)
    axes.set(xlabel="step", ylabel="loss", title="Training")
    axes.legend()
    axes.grid(alpha=0.3)
