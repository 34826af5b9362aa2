"""Writes the revisions of a change of embedding space, for people who drive migrations themselves."""

from datetime import UTC, datetime
from pathlib import Path
from pprint import pformat
from typing import Literal

from alembic.script import ScriptDirectory

from app.domain.errors import InvalidInput
from app.store.engine import MIGRATIONS
from app.store.space_revisions import SpaceRow, space_id

Step = Literal["expand", "switch", "contract"]

_WHAT: dict[Step, tuple[str, str, str]] = {
    "expand": ("its tables", "expand", "drop"),
    "switch": ("it serves in the place of the old one", "switch", "switch"),
    "contract": ("it is given up", "drop", "expand"),
}
"""What a step does to a space, and the function of `app.store.space_revisions` for up and for down."""

_TEMPLATE = '''"""The embedding space {space_id}: {what}.

Revision ID: {revision}
Revises: {before}
Create Date: {now}
"""

from alembic import op

from app.store import space_revisions

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None

SPACE: space_revisions.SpaceRow = {up_row}
{down_row}

def upgrade() -> None:
    """{up} this space."""
    space_revisions.{up}(op.get_bind(), SPACE)


def downgrade() -> None:
    """The way back."""
    space_revisions.{down}(op.get_bind(), {down_name})
'''


def write_revisions(
    serving: SpaceRow, to: SpaceRow, *, contract: bool = False, migrations: Path = MIGRATIONS
) -> list[Path]:
    """`expand` and `switch` after the newest revision; with `contract` the one that gives up `serving`, the space from
    before. The files. Raises InvalidInput where there is more than one newest revision."""
    script = ScriptDirectory(str(migrations))
    heads = script.get_heads()
    if len(heads) != 1:
        raise InvalidInput(f"{migrations} has {len(heads)} newest revisions: merge them first (`alembic merge`).")
    before, written = heads[0], list[Path]()
    steps: tuple[Step, ...] = ("contract",) if contract else ("expand", "switch")
    for step in steps:
        own = serving if step == "contract" else to
        revision = f"{_next_number(before)}_{step}"
        path = migrations / "versions" / f"{revision}_{_slug(own['model'])}.py"
        path.write_text(_text(step, revision, before, own, serving), "utf8")
        written.append(path)
        before = revision
    return written


def _text(step: Step, revision: str, before: str, own: SpaceRow, serving: SpaceRow) -> str:
    what, up, down = _WHAT[step]
    is_switch = step == "switch"
    return _TEMPLATE.format(
        space_id=space_id(own),
        what=what,
        revision=revision,
        before=before,
        now=datetime.now(UTC).isoformat(timespec="seconds"),
        up=up,
        down=down,
        up_row=pformat(dict(own), width=110, sort_dicts=False),
        down_row=f"BEFORE: space_revisions.SpaceRow = {pformat(dict(serving), width=110, sort_dicts=False)}\n"
        if is_switch
        else "",
        down_name="BEFORE" if is_switch else "SPACE",
    )


def _next_number(before: str) -> str:
    digits = before.split("_", maxsplit=1)[0]
    return f"{int(digits) + 1:04}" if digits.isdigit() else f"{before}_then"


def _slug(model: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in model.lower())[:40]
