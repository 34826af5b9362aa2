"""The history of the tables, one Alembic revision a file; see `app.store.engine.migrate`."""
