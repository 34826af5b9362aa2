"""What the doctor says of a part, and how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

State = Literal["ok", "warning", "wrong", "off"]


@dataclass(frozen=True, slots=True)
class Check:
    """One part: how it is, what was found, and a command or a setting that mends it (empty when nothing has to)."""

    part: str
    state: State
    found: str
    mend: str = ""


class Unfit(Exception):
    """A part that cannot work: what was found, and what mends it."""

    def __init__(self, found: str, mend: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.mend = mend


def is_sound(checks: Sequence[Check]) -> bool:
    """Whether nothing is wrong; warnings are allowed."""
    return all(check.state != "wrong" for check in checks)


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """`{"ok": bool, "checks": [{"part", "state", "found", "mend"}]}`."""
    return {"ok": is_sound(checks), "checks": [asdict(check) for check in checks]}


_LOOKS: Mapping[State, tuple[str, str, str]] = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "wrong": ("✗", "x", "bold red"),
    "off": ("–", "-", "dim"),
}
"""Symbol, the same in ASCII, and style."""


def table(checks: Sequence[Check], *, encoding: str = "utf-8") -> Table:
    """The checks as a table that `encoding` can show. A state is a symbol, a word and a colour: any one of them is
    enough."""
    made = Table("part", "state", "found", "to mend it", caption=summary(checks), caption_justify="left")
    for check in checks:
        symbol, plain, style = _LOOKS[check.state]
        state = Text(f"{symbol if encoding.startswith('utf') else plain} {check.state}", style)
        # As plain text: what was found may hold brackets, which are markup elsewhere.
        shown = (text.encode(encoding, "replace").decode(encoding) for text in (check.found, check.mend))
        made.add_row(check.part, state, *map(Text, shown))
    return made


def summary(checks: Sequence[Check]) -> str:
    """What it comes to, in one line."""
    wrong = sum(check.state == "wrong" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    said = counted(warnings, "warning") if warnings else "no warnings"
    return f"{wrong} wrong, {said}" if wrong else f"nothing is wrong, {said}"


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 key`, `2 keys`, `1,000 memories`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
