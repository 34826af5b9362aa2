"""`python -m bulk`: bulk work on a Ray cluster.

    python -m bulk reembed --tenant T [--address local|auto|HOST:PORT|ray://HOST:PORT] [--workers N] [--connections N]
    python -m bulk datasets --tenant T [--address ...] [--workers N] [--dry-run] [--heldout-share X] ...

Exit status 1, after one line on stderr, for what is not possible; 130 after Ctrl-C. The same command goes on.
"""

import asyncio
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.commands.terminal import ENDED_BY_HAND, Json, Tenant, print_document, progress_bar, quiet_settings, tell
from app.commands.training import DEFAULTS, Heldout, Later, MaxTokens
from app.commands.training_tables import of_summary
from app.domain.datasets import DatasetOptions
from app.domain.errors import DomainError
from app.services.keys import DEFAULT_TENANT
from app.services.training.dataset_files import read_summary
from app.services.training.datasets import Progress as Preparing
from app.services.training.run_files import datasets_folder
from bulk.cluster import joined
from bulk.datasets import prepare
from bulk.reembed import SHARD, Reembedded, Share
from bulk.reembed import reembed as fill_in_bulk

bulk = typer.Typer(no_args_is_help=True, add_completion=False, help="Bulk work on a Ray cluster.")

Address = Annotated[
    str, typer.Option(help="local: started for this command; auto: the one on this machine; or where one is.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that compute, one core each; all cores else.", min=1)]
MaxPerUser = Annotated[int | None, typer.Option(help="Only so many of a user's newest samples.", min=1)]
NearDuplicate = Annotated[float, typer.Option(help="From this likeness on, samples count as one.")]
Tokenizer = Annotated[Path | None, typer.Option(help="A base model's tokenizer.json, at the same place on every node.")]


@bulk.callback()
def about() -> None:
    """Bulk work on a Ray cluster."""


@bulk.command()
def reembed(
    address: Address = "local",
    workers: Workers = None,
    connections: Annotated[int, typer.Option(help="Connections to the database, of all nodes together.", min=2)] = 2,
    shard: Annotated[int, typer.Option(help="Items that are read, embedded and written at a time.", min=1)] = SHARD,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Embed what the tenant's new space lacks (`embed-service space create` makes one)."""
    settings = quiet_settings()
    with progress_bar(MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task("embedding", total=None, rate="")
        began: list[tuple[float, int]] = []

        def show(done: int, total: int) -> None:
            if not began:
                began.append((time.monotonic(), done))
            seconds = time.monotonic() - began[0][0]
            rate = f"{(done - began[0][1]) / seconds:.0f}/s" if seconds > 1 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        with _ended_by_hand(), joined(address, workers) as cores:
            share = Share(cores, connections)
            made = asyncio.run(fill_in_bulk(settings, tenant, share, shard=shard, on_filled=show))
    print_document({**asdict(made), "rate": round(made.rate, 1)}, as_json, lambda: _table(made))


@bulk.command()
def datasets(
    address: Address = "local",
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, only count.")] = False,
    heldout_share: Heldout = DEFAULTS.heldout_share,
    later_share: Later = DEFAULTS.later_share,
    max_tokens: MaxTokens = DEFAULTS.max_tokens,
    max_per_user: MaxPerUser = None,
    near_duplicate: NearDuplicate = DEFAULTS.near_duplicate,
    tokenizer: Tokenizer = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Make datasets of the samples, as `embed-service train datasets` does and with its options."""
    settings = quiet_settings()
    options = DatasetOptions(heldout_share, later_share, max_tokens, max_per_user, near_duplicate)
    with progress_bar(TaskProgressColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("reading", total=None)

        def show(progress: Preparing) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total)

        with _ended_by_hand(), joined(address, workers) as cores:
            preparing = prepare(
                settings,
                tenant,
                cores,
                options=options,
                tokenizer_file=tokenizer,
                is_dry_run=dry_run,
                on_progress=show,
            )
            made = asyncio.run(preparing)
    folder = datasets_folder(settings.training_dir, tenant)
    summary = made["summary"] if dry_run else read_summary(folder)
    document = {"folder": None if dry_run else str(folder), "read_here": made["read_here"], "summary": summary}
    print_document(document, as_json, lambda: of_summary(summary or {}))
    if made["read_here"] and not as_json:
        tell(f"{made['read_here']} shards could not be read by the cluster: this process did")


@contextmanager
def _ended_by_hand() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        tell("stopped: the same command goes on")
        raise typer.Exit(ENDED_BY_HAND) from None


def _table(made: Reembedded) -> Table:
    table = Table("space", made.space)
    rows = {
        "role": made.role,
        "items": f"{made.items:,}",
        "embedded by the cluster": f"{made.written:,} in {made.seconds:,.1f} s, {made.rate:,.0f} a second",
        "filled at the end": f"{made.left_over:,}",
        "shards embedded again": f"{made.again:,} after a loss",
        "passes": f"{made.passes}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def main() -> int:
    """Run the command line; a failure that was foreseen is one line on stderr and status 1."""
    try:
        bulk()
    except (DomainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
