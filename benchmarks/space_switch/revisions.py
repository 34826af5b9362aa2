"""The way back by Alembic, for people who drive migrations themselves."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from app.domain.errors import NotFilled
from app.domain.spaces import StoredSpace
from app.store.engine import MIGRATIONS, Database, run_alembic
from app.store.space_revision_files import write_revisions
from app.store.space_revisions import SpaceRow, row_of

TRIES = 5


async def downgrade(
    database: Database, folder: Path, old: StoredSpace, new: StoredSpace, fill: Callable[[], Awaitable[object]]
) -> int:
    """Take the change from `old` to `new`, which was made, back by `alembic downgrade -1`. It refuses where a write
    left something for later, since what embeds in the old space was late; then this does what it says, which is to
    `fill`, and tries again. How often it refused. Raises NotFilled after TRIES.

    Its revisions are written to a copy of the migrations in `folder`, and brought up to first: they find everything
    done. In the end the database names the newest revision of the package again: the service's own commands know no
    other.
    """
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    newest = ScriptDirectory(str(folder)).get_current_head() or ""
    write_revisions(_row(old), _row(new), migrations=folder)
    await run_alembic(database, lambda config: command.upgrade(config, "head"), folder)
    refusals = 0
    while True:
        try:
            await run_alembic(database, lambda config: command.downgrade(config, "-1"), folder)
            break
        except NotFilled:
            refusals += 1
            if refusals == TRIES:
                raise
            await run_alembic(database, lambda config: command.stamp(config, newest), folder)
            await fill()
            await run_alembic(database, lambda config: command.stamp(config, "head"), folder)
    await run_alembic(database, lambda config: command.stamp(config, newest), folder)
    return refusals


def _row(stored: StoredSpace) -> SpaceRow:
    return row_of(stored.space, stored.storage, stored.endpoint)
