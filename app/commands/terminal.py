"""What the commands share: their common options, how they open what they need, how they print."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from app.logs import configure_logs
from app.settings import Settings, load_settings_or_exit

S = TypeVar("S")
T = TypeVar("T")

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant to work in.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

ENDED_BY_HAND = 130
"""The exit status after Ctrl-C, as shells give it."""

console = Console()


def quiet_settings() -> Settings:
    """The settings; only warnings are logged, and only to the file."""
    settings = load_settings_or_exit()
    configure_logs(settings.log_dir, "WARNING", to_stdout=False)
    return settings


def opened(opener: Callable[[Settings], AbstractAsyncContextManager[S]], work: Callable[[S], Awaitable[T]]) -> T:
    """Run `work` on what `opener` opens, beside a running server or on a database started for it."""
    settings = quiet_settings()

    async def run() -> T:
        async with opener(settings) as held:
            return await work(held)

    return asyncio.run(run())


def progress_bar(*columns: Any) -> Progress:
    """A progress bar on stderr, where somebody watches."""
    watched = Console(stderr=True)
    shown = [TextColumn("{task.description}"), BarColumn(), *columns]
    return Progress(*shown, console=watched, transient=True, disable=not watched.is_terminal)


def tell(line: str) -> None:
    """A line for the person at the terminal, beside what is printed for programs."""
    print(line, file=sys.stderr)


def print_document(document: Any, as_json: bool, table: Callable[[], Table | str]) -> None:
    """One JSON document, or a table."""
    if as_json:
        print(json.dumps(document, default=str, ensure_ascii=False))
    else:
        console.print(table())
