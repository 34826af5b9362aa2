"""Memories as tables."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Column, Table
from rich.text import Text

from app.commands.terminal import shown
from app.domain.memory import Memory, MemoryType
from app.services.imports import Report
from app.services.memories import Added
from app.services.ranking import Found

COLOURS = {
    MemoryType.PROFILE: "cyan",
    MemoryType.PREFERENCE: "green",
    MemoryType.GOAL: "yellow",
    MemoryType.HISTORY: "white",
    MemoryType.ARTIFACT: "blue",
    MemoryType.STYLE: "magenta",
    MemoryType.CONSTRAINT: "red",
}


def of_memories(memories: Sequence[Memory], *, has_more: bool) -> Table:
    """A memory a line."""
    table = Table(
        Column("type", no_wrap=True),
        Column("memory", overflow="fold"),
        Column("sure", justify="right", no_wrap=True),
        Column("since", no_wrap=True),
        caption="There are more: --limit." if has_more else None,
    )
    for memory in memories:
        table.add_row(
            _type(memory),
            shown(memory.content).append("\n").append(_about(memory)),
            f"{memory.confidence:.2f}",
            _day(memory.valid_from),
        )
    return table


def of_found(found: Found) -> Table:
    """A memory a line, best first, with the parts of its score."""
    table = Table(
        Column("score", justify="right", no_wrap=True),
        Column("type", no_wrap=True),
        Column("memory", overflow="fold"),
        Column("similar", justify="right", no_wrap=True),
        Column("recent", justify="right", no_wrap=True),
        Column("sure", justify="right", no_wrap=True),
        Column("since", no_wrap=True),
        caption="Found by words alone: the embedding model does not answer." if found.is_degraded else None,
    )
    for item in found.ranked:
        parts = (f"{part:.2f}" for part in (item.similarity, item.recency, item.confidence))
        table.add_row(
            Text(f"{item.score:.2f}", "bold"),
            _type(item.memory),
            shown(item.memory.content),
            *parts,
            _day(item.memory.valid_from),
        )
    return table


def of_import(report: Report, *, is_dry: bool) -> Table:
    """What a file held, and what became of it."""
    table = Table(f"{report.items} items", Column("count", justify="right"), "what")
    for kind, count in sorted(report.by_type.items()):
        table.add_row(kind, str(count), "memories")
    for reason, count in sorted(report.left_out.items()):
        table.add_row("left out", str(count), reason)
    if report.malformed_items:
        table.add_row("malformed", str(report.malformed_items), "\n".join(report.malformed))
    table.add_row("written", "0" if is_dry else str(report.written), "only counted" if is_dry else "new")
    return table


def of_added(added: Added) -> str:
    """What became of one fact."""
    said = [f"remembered as {added.ids[0]}"]
    if added.deduplicated:
        said = [f"known already as {added.ids[0]}"]
    said += [f"in place of {memory_id}" for memory_id in added.superseded]
    return ", ".join(said)


def _about(memory: Memory) -> Text:
    line = shown("  ".join((str(memory.memory_id), *memory.tags)))
    line.stylize("dim")
    return line


def _type(memory: Memory) -> Text:
    return Text(memory.type, COLOURS[memory.type])


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")
