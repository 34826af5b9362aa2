"""The progress bar of a space that is filled or dropped: how much, how quick, how long still."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer
from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from app.commands.terminal import ENDED_BY_HAND, progress_bar, tell


@contextmanager
def vectors_bar(name: str = "filling") -> Generator[Callable[[int, int], None]]:
    """Give (done, items) to it. Ctrl-C ends the command with a line that says that nothing is lost."""
    with progress_bar(MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task(name, total=None, rate="")
        began: list[tuple[float, int]] = []

        def show(done: int, total: int) -> None:
            if not began or done < began[0][1]:
                began[:] = [(time.monotonic(), done)]
            seconds = time.monotonic() - began[0][0]
            rate = f"{(done - began[0][1]) / seconds:.0f}/s" if seconds > 1 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        try:
            yield show
        except KeyboardInterrupt:
            tell("stopped: the same command goes on")
            raise typer.Exit(ENDED_BY_HAND) from None
