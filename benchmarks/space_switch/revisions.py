"""The way back by Alembic, for people who drive migrations themselves."""

import shutil
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from app.domain.spaces import StoredSpace
from app.store.engine import MIGRATIONS, Database, run_alembic
from app.store.space_revision_files import write_revisions
from app.store.space_revisions import SpaceRow, row_of


async def downgrade(database: Database, folder: Path, old: StoredSpace, new: StoredSpace) -> None:
    """Take the change from `old` to `new`, which was made, back by `alembic downgrade -1`.

    Its revisions are written to a copy of the migrations in `folder`, and brought up to first: they find everything
    done. In the end the database names the newest revision of the package again: the service's own commands know no
    other.
    """
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    newest = ScriptDirectory(str(folder)).get_current_head() or ""
    write_revisions(_row(old), _row(new), migrations=folder)
    await run_alembic(database, lambda config: command.upgrade(config, "head"), folder)
    await run_alembic(database, lambda config: command.downgrade(config, "-1"), folder)
    await run_alembic(database, lambda config: command.stamp(config, newest), folder)


def _row(stored: StoredSpace) -> SpaceRow:
    return row_of(stored.space, stored.storage, stored.endpoint)
