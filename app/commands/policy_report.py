"""`embed-service policy report`: what became of decisions, by the policy that made them, and a reliability plot."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.policy import policy
from app.commands.terminal import Json, Tenant, opened, print_document
from app.services.keys import DEFAULT_TENANT
from app.services.telemetry import Report
from app.services.telemetry_plot import draw_reliability, named
from app.wiring import open_reports

FIGURES = {
    "sets": "sets",
    "answered": "of these, answered",
    "selection_rate": "one was chosen",
    "mrr": "MRR of the chosen one",
    "auto_advance_rate": "went ahead",
    "undo_rate": "of these, undone",
    "questions_per_task": "questions a task",
    "expected_utility": "expected utility",
    "realised_utility": "realised utility",
    "brier": "Brier",
    "calibration_error": "calibration error",
    "chance_error": "by chance alone",
    "chance_error_high": "by chance, 95 % below",
    "weighed_ms": "weighing, ms",
    "weighed_tokens": "weighing, tokens",
}

MOST_COLUMNS = 6
"""Policies that a terminal has room for; a document has all of them."""


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
    version, shown = made.calibration.version, made.policies[:MOST_COLUMNS]
    numbers = [str(number) for number in range(1, len(shown) + 1)]
    table = Table("", "all", *numbers, title=f"Calibration {version}" if version else "The prior calibration")
    columns = [asdict(each) for each in (made.summary, *(each.summary for each in shown))]
    for name, words in FIGURES.items():
        table.add_row(words, *(_cell(each[name]) for each in columns))
    table.caption = "\n".join(f"{number}: {named(each)}" for number, each in zip(numbers, shown, strict=True))
    return table


def _cell(value: float | None) -> str:
    match value:
        case None:
            return ""
        case int():
            return str(value)
        case _:
            return f"{value:.3f}" if value < 100 else f"{value:.0f}"
