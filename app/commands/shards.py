"""`embed-service shards`: the databases that share the users among them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from app.commands.terminal import Json, Tenant, opened, print_document, progress_bar, quiet_settings
from app.domain.shards import shard_of
from app.services.keys import DEFAULT_TENANT
from app.services.shards import ShardService, ShardStatus
from app.settings import Settings
from app.wiring_shards import open_shard_service

shards = typer.Typer(no_args_is_help=True, help="Databases that share the users among them.")


@shards.command()
def status(as_json: Json = False) -> None:
    """Count the users of each shard, and copies of others' users in it."""

    async def look(service: ShardService) -> list[ShardStatus]:
        return await service.status()

    found = opened(_open, None, look)

    def table() -> Table:
        made = Table("shard", "users", "strays")
        for each in found:
            made.add_row(f"{each.place.index} of {each.place.count}", str(each.users), str(each.strays))
        return made

    print_document([asdict(each) for each in found], as_json, table)


@shards.command()
def tidy(as_json: Json = False) -> None:
    """Delete the copies of users who belong to another shard, after a shard was split."""

    async def clean(service: ShardService) -> list[int]:
        with progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("deleting", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            return await service.tidy(show)

    deleted = opened(_open, None, clean)
    print_document({"deleted": deleted}, as_json, lambda: f"deleted {sum(deleted)} copies of users")


@shards.command()
def find(
    user_id: Annotated[str, typer.Argument(help="The user.")], tenant: Tenant = DEFAULT_TENANT, as_json: Json = False
) -> None:
    """Say which shard has a user: 0 is DATABASE_URL, the others are DATABASE_SHARD_URLS in their order."""
    index = shard_of(tenant, user_id, 1 + len(quiet_settings().database_shard_urls or ()))
    print_document({"shard": index}, as_json, lambda: str(index))


@asynccontextmanager
async def _open(settings: Settings) -> AsyncGenerator[ShardService]:
    async with open_shard_service(settings, settings.database_shard_urls or ()) as service:
        yield service
