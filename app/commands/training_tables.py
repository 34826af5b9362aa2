"""Runs, datasets and deployments as JSON and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich.table import Column, Table

from app.services.deployments import DeploymentStatus
from app.services.training.runs import Run
from app.store.training import Deployment

BASE = "the base model"


def whole(title: str) -> Column:
    """A column of names that are typed or copied: never cut off, never broken."""
    return Column(title, no_wrap=True)


def of_counts(counts: Mapping[str, int]) -> Table:
    """Samples by kind."""
    table = Table("samples", "count")
    for name, count in counts.items():
        table.add_row(name.removesuffix("_count").replace("_", " "), str(count))
    return table


def of_summary(summary: Mapping[str, Any]) -> Table:
    """What the datasets hold, and what was dropped."""
    table = Table(whole("file"), "rows", "users", "tokens p50", "tokens max", "dropped")
    for name, held in summary["files"].items():
        dropped = summary["datasets"].get(name.removesuffix(".jsonl"), {}).get("dropped", {})
        said = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())
        tokens = held["tokens"]
        table.add_row(
            name, str(held["rows"]), str(held["users"]), str(tokens.get("p50", "")), str(tokens.get("max", "")), said
        )
    return table


def of_runs(runs: Sequence[Run]) -> Table:
    """A run a line."""
    table = Table(whole("run"), "status", "base model", "rows", "answers", "made")
    for run in runs:
        rows = run.metadata.get("metrics", {}).get("rows", {}).get("train", "")
        made = run.created_at.strftime("%Y-%m-%d %H:%M")
        table.add_row(run.run_id, run.status, run.base_model, str(rows), _share(run.answers), made)
    return table


def of_run(run: Run) -> Table:
    """All about a run."""
    table = Table("", run.run_id)
    figures: dict[str, Any] = run.metadata.get("metrics", {})
    shown: dict[str, Any] = {
        "status": run.status,
        "method": run.method,
        "base model": run.base_model,
        "folder": run.folder,
        "made": run.created_at.isoformat(timespec="seconds"),
        "ended": run.finished_at.isoformat(timespec="seconds") if run.finished_at else "",
        "answers": _share(run.answers),
        "trained on": f"{run.metadata.get('users', '?')} users, {run.erased_users} of them erased since",
        "code": run.metadata.get("code_version", ""),
        **{name: _figures(value) for name, value in figures.items() if value is not None},
    }
    if run.judgement is not None:
        shown["refused for"] = "\n".join(run.judgement.get("refusals", ())) or "nothing"
    for name, value in shown.items():
        table.add_row(name, str(value))
    return table


def of_judgement(run: Run) -> Table:
    """The verdict."""
    judgement = run.judgement or {}
    table = Table("", run.run_id)
    table.add_row("status", run.status)
    table.add_row("against", judgement.get("against") or BASE)
    for reason in judgement.get("refusals", ()):
        table.add_row("refused", str(reason))
    table.add_row("report", f"{run.folder}/judgement")
    return table


def of_deployments(changes: Sequence[Deployment]) -> Table:
    """A change a line."""
    table = Table("number", "change", whole("adapter"), "serves", "on trial", "reason")
    for made in changes:
        trial = f"{made.route.candidate}, {_share(made.route.share)}" if made.route.candidate else ""
        table.add_row(str(made.number), made.action, made.adapter, made.route.stable or BASE, trial, made.reason)
    return table


def of_status(now: DeploymentStatus) -> Table:
    """An arm a line."""
    table = Table("", whole("adapter"), "users", "answered", "chosen", "rate")
    served = 1.0 if now.route.candidate is None else 1.0 - now.route.share
    arms = [("serves", now.route.stable or BASE, served, now.serving)]
    if now.route.candidate is not None:
        arms.append(("on trial", now.route.candidate, now.route.share, now.canary))
    for role, adapter, share, arm in arms:
        table.add_row(role, adapter, _share(share), str(arm.answered), str(arm.selected), f"{arm.rate:.3f}")
    if now.route.candidate is not None:
        table.caption = f"chance that the trial is no worse and looks so: {now.chance_of_drop:.3g}"
    return table


def _share(share: float) -> str:
    return f"{share:.0%}" if share else ""


def _figures(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    pairs = cast("dict[str, Any]", value)
    return ", ".join(f"{name} {one:.4g}" if isinstance(one, float) else f"{name} {one}" for name, one in pairs.items())
