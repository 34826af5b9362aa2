"""`embed-service policy report`: what became of decisions, by the policy that made them, and a reliability plot."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.policy import policy
from app.commands.terminal import Json, Tenant, opened, print_document
from app.domain.telemetry import Summary
from app.services.keys import DEFAULT_TENANT
from app.services.telemetry import Report
from app.services.telemetry_plot import draw_reliability, named
from app.wiring import open_reports

COLUMNS = {
    "sets": "sets",
    "answered": "answered",
    "selection_rate": "selected",
    "mrr": "MRR",
    "auto_advance_rate": "went ahead",
    "undo_rate": "undone",
    "questions_per_task": "questions a task",
    "expected_utility": "expected",
    "realised_utility": "realised",
    "brier": "Brier",
    "calibration_error": "error",
    "chance_error": "by chance",
    "weighed_ms": "ms",
    "weighed_tokens": "tokens",
}


@policy.command()
def report(
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How far back to look.")] = 30.0,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw a reliability plot to this file, PNG or SVG.")
    ] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Show what became of decisions, over all and by policy: rates, utility, calibration, and what it cost."""
    since = datetime.now(UTC) - timedelta(days=days)
    made = opened(open_reports, tenant, lambda service: service.report(tenant, since))
    if plot is not None:
        draw_reliability(plot, made.summary, made.policies)
    print_document(_document(made, since, plot), as_json, lambda: _table(made))


def _document(made: Report, since: datetime, plot: Path | None) -> dict[str, Any]:
    policies = [{**asdict(each), "policy": asdict(each.policy)} for each in made.policies]
    return {
        "since": since.isoformat(),
        **asdict(made.summary),
        "policies": policies,
        "calibration": asdict(made.calibration),
        "plot": None if plot is None else str(plot),
    }


def _table(made: Report) -> Table:
    version = made.calibration.version
    table = Table("policy", *COLUMNS.values(), title=f"calibration v{version}" if version else "the prior calibration")
    table.add_row("all", *_cells(made.summary))
    for each in made.policies:
        table.add_row(named(each), *_cells(each.summary))
    return table


def _cells(summary: Summary) -> list[str]:
    found = asdict(summary)
    return [_cell(found[name]) for name in COLUMNS]


def _cell(value: float | None) -> str:
    match value:
        case None:
            return ""
        case int():
            return str(value)
        case _:
            return f"{value:.3f}" if value < 100 else f"{value:.0f}"
