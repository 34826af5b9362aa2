"""`embed-service pairs`: what an embedding model is fine-tuned on, out of what users used."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from app.commands.terminal import Json, Tenant, print_document, progress_bar, quiet_settings, tell
from app.domain.pairs import DEFAULT_NEGATIVES
from app.services.keys import DEFAULT_TENANT
from app.services.training.pair_files import Format
from app.services.training.pairs import Exported, PairExport
from app.wiring_training import build_collector, build_trainer

pairs = typer.Typer(no_args_is_help=True, help="Pairs that an embedding model is fine-tuned on.")


@pairs.callback()
def group() -> None:
    """Pairs that an embedding model is fine-tuned on."""


@pairs.command()
def export(
    output: Annotated[Path | None, typer.Option(help="A file; among the samples where absent.")] = None,
    form: Annotated[Format, typer.Option("--format", help="tsv has no user and one negative at most.")] = "jsonl",
    negatives: Annotated[int, typer.Option(help="Hard negatives of each pair, at most.")] = DEFAULT_NEGATIVES,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Write (query, memory that was used) pairs with hard negatives out of the ranking samples."""
    service = PairExport(build_trainer(build_collector(quiet_settings())))
    with progress_bar(TaskProgressColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("reading", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = service.export(tenant, output, form, negatives, show)
    print_document(made.document(), as_json, lambda: _table(made))
    if not made.is_reached:
        tell(f"{made.file} is out of an erasure's reach: when a user leaves, delete it and export again")


def _table(made: Exported) -> Table:
    table = Table("pairs", "count")
    table.add_row("file", made.file)
    for name in ("rows", "users", "without_negatives", "samples", "damaged_lines"):
        table.add_row(name.replace("_", " "), str(getattr(made, name)))
    for reason, count in made.dropped.items():
        table.add_row(f"dropped samples: {reason}", str(count))
    for reason, count in made.rows_dropped.items():
        table.add_row(f"dropped memories: {reason}", str(count))
    for kind, count in made.redacted.items():
        table.add_row(f"redacted: {kind}", str(count))
    return table
