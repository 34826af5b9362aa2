"""Runs the migrations: on the connection that `app.store.engine.migrate` gives, or on one of its own.

From the `alembic` command line: DATABASE_URL's database, or the embedded one of DATA_DIR, which is attached to
when the service runs and started for the moment when it does not.
"""

import asyncio
import sys

from alembic import context
from sqlalchemy import Connection

from app.domain.errors import NotReady, StoreUnavailable
from app.settings import load_settings_or_exit
from app.store.engine import open_database
from app.store.space_tables import is_of_the_code
from app.store.tables import metadata


def run(connection: Connection) -> None:
    """Run what Alembic was asked for, every revision in a transaction of its own."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        include_object=is_of_the_code,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_alone() -> None:
    """Open the database of the settings, wait for any other migration, run."""
    database = await open_database(load_settings_or_exit(), revision=None)
    try:
        async with database.migrating() as connection:
            await connection.run_sync(run)
    finally:
        await database.aclose()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif given is not None:
    run(given)
else:
    try:
        asyncio.run(run_alone())
    except (NotReady, StoreUnavailable) as error:
        sys.exit(str(error))
