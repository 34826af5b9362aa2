"""What every benchmark needs: its arguments, its clock, and its figures as a table, as JSON and as a results file.

One list of `Figure` is the result of a benchmark; the table, the JSON and the results file are views of it.
"""

import argparse
import json
import math
import operator
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

Seconds = NDArray[np.float64]
Operation = Callable[[], Awaitable[Any]]

LINE_S = 20.0
"""Seconds between two lines about how far a benchmark is, where no bar can be drawn."""

_COMPARE = {"≤": operator.le, "<": operator.lt, "≥": operator.ge}


@dataclass(frozen=True)
class Target:
    """What a figure has to be: `Target("≤", 1.5)`."""

    relation: Literal["≤", "<", "≥"]
    value: float

    def is_met(self, value: float) -> bool:
        """Whether `value` is as it has to be."""
        return bool(_COMPARE[self.relation](value, self.value))


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark under its path of lower-case words, with what to say beside it."""

    path: str
    value: float
    unit: str = ""
    target: Target | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return self.target.is_met(self.value) if self.target else None


def arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options every benchmark takes: `data`, `json`, `results` (paths or None) and `quick`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of public data sets to use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as {metric: number}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write command, machine and table as Markdown")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works: nothing to compare")
    return parser.parse_args(argv)


async def interleaved(
    make: Callable[[int], Mapping[str, Operation]], *, rounds: int, warm_up: int, random: Random, progress: Progress
) -> dict[str, Seconds]:
    """How long each operation of each round took, in seconds: {name: array of shape (rounds,)}.

    `make(n)` gives the operations of round n, which run one after the other in random order, so that a machine
    that is busy now and idle later is so for all of them alike. The first `warm_up` rounds are not counted.
    """
    took: dict[str, list[float]] = {}
    bar = progress.add_task("measuring " + ", ".join(make(0)), total=warm_up + rounds)
    for number in range(warm_up + rounds):
        operations = list(make(number).items())
        random.shuffle(operations)
        for name, operation in operations:
            started = time.perf_counter()
            await operation()
            elapsed = time.perf_counter() - started
            if number >= warm_up:
                took.setdefault(name, []).append(elapsed)
        progress.advance(bar)
    return {name: np.array(times) for name, times in took.items()}


def percentile(times: Seconds, rank: float) -> float:
    """The `rank`-th percentile (0..100) of the times, linearly interpolated."""
    return float(np.percentile(times, rank))


def ratio(times: Seconds, base: Seconds, rank: float) -> tuple[float, str]:
    """The ratio of one percentile of two series of the same rounds, and its 95 % interval in words.

    The interval is a bootstrap over rounds (2,000 resamples): what the same machine would show again.
    """
    rounds = np.random.default_rng(0).integers(0, len(times), (2000, len(times)))
    ratios = np.percentile(times[rounds], rank, axis=1) / np.percentile(base[rounds], rank, axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return percentile(times, rank) / percentile(base, rank), f"{low:.2f} to {high:.2f}"


def new_progress(console: Console) -> Progress:
    """Progress bars on stderr with the time left; where that is no terminal, a line now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if console.is_terminal:
        return Progress(*columns, console=console)
    return ProgressLines(*columns, console=console, disable=True, auto_refresh=False)


class ProgressLines(Progress):
    """Progress as lines of text, one a task at most every LINE_S seconds."""

    _told: float = 0.0

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As Progress, and tell it."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As Progress, and tell it."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], time.monotonic()
        total, done, took = task.total or 0, task.completed, task.elapsed or 0.0
        if done >= total or now - self._told >= LINE_S:
            self._told = now
            left = f"{took * (total - done) / max(done, 1) / 60:.1f} min left"
            self.console.print(f"{task.description}: {done:.0f} of {total:.0f}, {left}", highlight=False)


def describe_machine(packages: Sequence[str] = ()) -> dict[str, str]:
    """The machine and the versions a benchmark ran with, by name."""
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    described = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "load average at the start": load,
        "python": platform.python_version(),
    }
    return described | {name: version(name) for name in packages}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def publish(
    options: argparse.Namespace, title: str, figures: Sequence[Figure], machine: Mapping[str, str], note: str = ""
) -> None:
    """Print the figures; write them where the options ask for it."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file has no width of its own
    table = Table(Column("figure", no_wrap=True), Column("value", justify="right"), title=title)
    for heading in ("unit", "target", "met", "note"):
        table.add_column(heading)
    for row in map(_cells, figures):
        style = {"yes": "green", "no": "red"}.get(row[4], "")
        table.add_row(*row[:4], f"[{style}]{row[4]}[/]" if style else row[4], row[5])
    console.print(table)
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    if note:
        console.print(note, highlight=False)
    if options.json:
        document = {figure.path: figure.value for figure in figures}
        options.json.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if options.results:
        options.results.write_text(_markdown(title, figures, machine, note), encoding="utf-8")


def _cells(figure: Figure) -> tuple[str, ...]:
    target = f"{figure.target.relation} {figure.target.value:g}" if figure.target else ""
    met = {None: "", True: "yes", False: "no"}[figure.is_met]
    return (figure.path, _digits(figure.value), figure.unit, target, met, figure.note)


def _digits(value: float) -> str:
    """Three significant digits, and never fewer than the whole number has."""
    places = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def _markdown(title: str, figures: Sequence[Figure], machine: Mapping[str, str], note: str) -> str:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name.removesuffix(".__main__") if module else title
    lines = [f"# {title}", "", "```sh", f"python -m {name} {' '.join(_flags())}".rstrip()]
    lines += ["```", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    lines += [note, ""] if note else []
    lines += ["| figure | value | unit | target | met | note |", "|---|---:|---|---|---|---|"]
    lines += [f"| {' | '.join((f'`{cells[0]}`', *cells[1:]))} |" for cells in map(_cells, figures)]
    return "\n".join(lines) + "\n"


def _flags() -> list[str]:
    """The options as given, without the folders they were given with."""
    return [Path(each).name if os.sep in each else each for each in sys.argv[1:]]
