"""`embed-service space trial`: a second embedding space beside the one that serves, for a share of the users."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.space_bar import vectors_bar
from app.commands.terminal import Json, T, Tenant, opened, print_document, quiet_settings
from app.services.keys import DEFAULT_TENANT
from app.services.trial_report import interval, percent, points, write_trial_report
from app.services.trials import DEFAULT_SHARE, TrialReport, TrialService, TrialStatus
from app.wiring import open_trials

trial = typer.Typer(no_args_is_help=True, help="A second space beside the one that serves, for a share of the users.")

TrialId = Annotated[str | None, typer.Argument(help="The newest trial where absent.")]


@trial.command()
def start(
    endpoint: Annotated[str, typer.Option(help="An embedding server, as EMBED_ENDPOINT takes it.")],
    share: Annotated[float, typer.Option(help="Share of the users who search in its space.")] = DEFAULT_SHARE,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Embed every memory with the server, then have a share of the users search in its space. Broken off, it goes on
    where it was; while the trial runs, it makes the vectors that are missing."""
    with vectors_bar() as show:
        made = _on_trials(tenant, lambda service: service.start(tenant, endpoint, share, show))
    print_document(_status_document(made), as_json, lambda: _status_table(made))


@trial.command()
def status(trial_id: TrialId = None, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show a trial: its space, its share, and how many memories have a vector there."""
    found = _on_trials(tenant, lambda service: service.status(tenant, trial_id))
    print_document(_status_document(found), as_json, lambda: _status_table(found))


@trial.command()
def report(
    trial_id: TrialId = None,
    output: Annotated[Path | None, typer.Option(help="A folder; DATA_DIR/trials/TRIAL where absent.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Compare what the users of both arms did, say what to do, and write a page with a plot."""
    made = _on_trials(tenant, lambda service: service.report(tenant, trial_id))
    page = write_trial_report(output or quiet_settings().data_dir / "trials" / made.trial.trial_id, made)
    print_document({**_report_document(made), "page": str(page)}, as_json, lambda: _report_table(made))
    if not as_json:
        print(f"{made.advice.sentence}\n{page}")


@trial.command()
def stop(
    reason: Annotated[str, typer.Option(help="Kept in the log.")] = "by hand",
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """End the trial: all users search in the serving space again, and the trial's vectors go."""
    ended = _on_trials(tenant, lambda service: service.stop(tenant, reason))
    print_document(asdict(ended), as_json, lambda: f"{ended.trial_id} ended")


def _on_trials(tenant: str, work: Callable[[TrialService], Awaitable[T]]) -> T:
    """Run `work` on the trials, without loading a model. Raises as `opened`."""
    return opened(open_trials, tenant, work)


def _status_document(found: TrialStatus) -> dict[str, Any]:
    return {**asdict(found.trial), "filled": found.filled, "memories": found.memories}


def _status_table(found: TrialStatus) -> Table:
    table = Table("trial", found.trial.trial_id)
    rows = {
        "status": found.trial.status,
        "endpoint": found.trial.endpoint,
        "space": found.trial.space,
        "serving space": found.trial.serving_space,
        "share of the users": percent(found.trial.share),
        "memories with a vector": f"{found.filled} of {found.memories}",
        "since": found.trial.started_at or found.trial.created_at,
        "ended": found.trial.ended_at or "",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _report_document(made: TrialReport) -> dict[str, Any]:
    figures = {
        one.metric: {
            "serving": {**asdict(one.serving), "rate": one.serving.rate},
            "candidate": {**asdict(one.candidate), "rate": one.candidate.rate},
            "difference": one.difference,
            "low": one.low,
            "high": one.high,
            "chance": one.chance,
        }
        for one in made.figures
    }
    return {"trial": asdict(made.trial), "users": made.users, "figures": figures, "advice": asdict(made.advice)}


def _report_table(made: TrialReport) -> Table:
    table = Table("metric", "serving", "candidate", "difference", "95 % interval", "chance of none", "users")
    for one in made.figures:
        table.add_row(
            one.metric,
            percent(one.serving.rate),
            percent(one.candidate.rate),
            points(one.difference),
            interval(one),
            f"{one.chance:.3g}",
            f"{one.serving.users} + {one.candidate.users}",
        )
    return table
