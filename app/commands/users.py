"""`embed-service users`: everything held on a user, out, in, or gone."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.api.deps import Services
from app.commands.terminal import Json, Tenant, console, on_user, opened, print_document, progress_bar
from app.services.keys import DEFAULT_TENANT
from app.services.training.erasure import Erasure
from app.services.training.run_files import DATASETS_FOLDER
from app.wiring_shards import open_every_shard

users = typer.Typer(no_args_is_help=True, help="Everything held on a user.")


@users.command("export")
def export_user(
    user_id: str,
    out: Annotated[Path | None, typer.Option(help="A file; standard output where absent.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Write everything held on a user as JSON lines."""

    async def work(services: Services) -> int:
        await services.transfer.check_user(tenant, user_id)
        lines = 0
        with (
            out.open("wb") if out else nullcontext(sys.stdout.buffer) as target,
            progress_bar(TextColumn("{task.completed} lines")) as bar,
        ):
            task = bar.add_task("exporting", total=None)
            async for line in services.transfer.export(tenant, user_id):
                target.write(line)
                lines += 1
                bar.update(task, completed=lines)
            target.flush()
        return lines

    lines = on_user(tenant, user_id, work)
    if out is not None:
        print_document({"file": str(out), "lines": lines}, as_json, lambda: f"{lines} lines in {out}")


@users.command("import")
def import_user(source: Path, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Take in an export, in one transaction; rows that are there already stay as they are."""
    with source.open("rb") as file, progress_bar(DownloadColumn(), TimeRemainingColumn()) as bar:
        lines = _watched(file, bar)
        written = opened(open_every_shard, tenant, lambda shards: shards.home.transfer.import_(tenant, lines))
        imported = dict(written)
    print_document({"imported": imported}, as_json, lambda: f"imported {sum(imported.values())} rows")


def _watched(file: BinaryIO, bar: Progress) -> Iterator[bytes]:
    """The lines of a file, with a bar that shows how far it is read."""
    task: TaskID = bar.add_task("reading", total=os.fstat(file.fileno()).st_size)
    for line in file:
        bar.update(task, advance=len(line))
        yield line
    bar.update(task, description="writing")


@users.command("erase")
def erase_user(
    user_id: str,
    tenant: Tenant = DEFAULT_TENANT,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a user from every table, training file and dataset. There is no undo."""
    if not yes:
        typer.confirm(f"Erase everything held on {user_id!r}?", abort=True)
    left = on_user(tenant, user_id, lambda services: services.transfer.erase(tenant, user_id))

    def table() -> Table:
        made = Table("from", "erased")
        for place, count in left.erased.items():
            if count or not place.startswith(DATASETS_FOLDER):
                made.add_row(place, str(count))
        return made

    document = {
        "erased": dict(left.erased),
        "trained_adapters": list(left.trained_adapters),
        "unsure_adapters": list(left.unsure_adapters),
        "deleted_datasets": left.has_deleted_datasets,
    }
    print_document(document, as_json, table)
    if not as_json:
        _print_left(left)


def _print_left(left: Erasure) -> None:
    """What an erasure could not undo, and what to do about it."""
    if left.has_deleted_datasets:
        line = "The split.key of the prepared datasets is lost, so they were deleted whole: prepare them again."
        console.print(line, soft_wrap=True)
    named = [(name, "was trained on the user's samples") for name in left.trained_adapters]
    named += [(name, "may have been trained on them: its split.key is lost") for name in left.unsure_adapters]
    for name, how in named:
        console.print(f"{name} {how}.", soft_wrap=True)
    if named:
        line = "Train again without them: embed-service train datasets, then embed-service train run."
        console.print(line, soft_wrap=True)
        console.print("Until then: embed-service train rollback RUN, where it answers users.", soft_wrap=True)
