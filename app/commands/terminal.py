"""What the commands share: their common options, how they open what they need, how they print."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Protocol, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from app.api.deps import Services
from app.api.shards import Shards
from app.domain.errors import InvalidInput
from app.logs import configure_logs
from app.services.keys import check_tenant
from app.settings import Settings, load_settings_or_exit
from app.store.engine import Database
from app.wiring import build_keys
from app.wiring_shards import open_every_shard


class OnDatabase(Protocol):
    """What is opened for a command: on one database, or on several of which this is the first."""

    @property
    def database(self) -> Database:
        """The database that knows the tenants."""
        ...


S = TypeVar("S", bound=OnDatabase)
T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


def check_tenant_option(name: str | None) -> str | None:
    """The callback of every `--tenant`: a name that no tenant can have was not understood."""
    try:
        return None if name is None else check_tenant(name)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None


Tenant = Annotated[str, typer.Option("--tenant", help="The tenant to work in.", callback=check_tenant_option)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

ENDED_BY_HAND = 130
"""The exit status after Ctrl-C, as shells give it."""

console = Console()


def quiet_settings() -> Settings:
    """The settings; only warnings are logged, and only to the file."""
    settings = load_settings_or_exit()
    configure_logs(settings.log_dir, "WARNING", to_stdout=False)
    return settings


def opened(
    opener: Callable[[Settings], AbstractAsyncContextManager[S]],
    tenant: str | None,
    work: Callable[[S], Awaitable[T]],
) -> T:
    """Run `work` on what `opener` opens, beside a running server or on a database started for it. Raises NotFound
    where there is no such `tenant`; None: the work is about none, or makes it."""
    settings = quiet_settings()

    async def run() -> T:
        async with opener(settings) as held:
            if tenant is not None:
                await expect_tenant(held, tenant)
            return await work(held)

    return asyncio.run(run())


async def expect_tenant(held: OnDatabase, tenant: str) -> None:
    """Raise NotFound, which names those there are, unless there is this tenant."""
    await build_keys(held.database).expect_tenant(tenant)


def on_user(tenant: str, user_id: str, work: Callable[[Services], Awaitable[T]]) -> T:
    """Run `work` on the services of the shard that has a user. Raises as `opened`."""

    async def there(shards: Shards) -> T:
        return await work(await shards.of_user(tenant, user_id))

    return opened(open_every_shard, tenant, there)


def progress_bar(*columns: Any) -> Progress:
    """A progress bar on stderr, where somebody watches."""
    watched = Console(stderr=True)
    shown = [TextColumn("{task.description}"), BarColumn(), *columns]
    return Progress(*shown, console=watched, transient=True, disable=not watched.is_terminal)


def tell(line: str) -> None:
    """A line for the person at the terminal, beside what is printed for programs."""
    print(line, file=sys.stderr)


def parsed(kind: type[B], document: dict[str, Any]) -> B:
    """A document as the API would take it. Raises InvalidInput that names the first wrong part."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{place}: {first['msg']}", place) from None


def shown(text: str) -> Text:
    """What a user wrote, as a cell: no markup, and nothing that a terminal would take for a command."""
    return Text("".join(char if char.isprintable() else " " for char in text))


def print_document(document: Any, as_json: bool, table: Callable[[], Table | str]) -> None:
    """One JSON document, or a table."""
    if as_json:
        print(json.dumps(document, default=str, ensure_ascii=False))
    else:
        console.print(table())
