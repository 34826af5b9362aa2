"""Tables of users' rows can be divided by tenant, and by user where they are partitioned: keys say whose they are."""

import pytest
from sqlalchemy import text

from app.domain.embeddings import EmbeddingSpace
from app.store.engine import Database
from app.store.spaces import SpaceStore
from app.store.tables import USER_TABLES

OF_ONE_DATABASE = {"part", "number"}
"""The key that says which user has which index of this database's partitions, and nothing about users elsewhere."""

KEYS = """
WITH of_users AS (
    SELECT c.oid, c.relname, c.relkind = 'p' AS is_partitioned FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
      AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id')
)
SELECT t.relname, t.is_partitioned, i.indexrelid::regclass::text AS name,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = t.oid AND attnum = ANY(i.indkey)) AS columns
FROM of_users t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique
UNION ALL
SELECT t.relname, t.is_partitioned, c.conname::text,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = t.oid AND attnum = ANY(c.conkey))
FROM of_users t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype = 'f' AND c.conparentid = 0
"""


@pytest.fixture
async def keys(database: Database) -> list[tuple[str, bool, str, set[str]]]:
    """(table, whether it is partitioned, key, its columns) of every table of users' rows, one space's too."""
    space = EmbeddingSpace("schema", "1", 3, "mean", True)
    async with database.begin("default") as connection:
        made = await SpaceStore().register(connection, space, storage="vector", endpoint=None)
        while await SpaceStore().tie(connection, made):
            pass
        found = [(row[0], row[1], row[2], set(row[3])) for row in await connection.execute(text(KEYS))]
        await connection.rollback()
    return found


def test_every_key_of_users_rows_has_the_tenant_and_where_partitioned_the_user(
    keys: list[tuple[str, bool, str, set[str]]],
) -> None:
    lacking = [
        (table, name)
        for table, is_partitioned, name, columns in keys
        if columns != OF_ONE_DATABASE and not ({"tenant_id", "user_id"} if is_partitioned else {"tenant_id"}) <= columns
    ]

    assert lacking == []


def test_every_table_of_users_rows_has_a_key(keys: list[tuple[str, bool, str, set[str]]]) -> None:
    tables = {table for table, *_ in keys}

    assert {table.name for table in USER_TABLES} <= tables
    assert {name for name in tables if name.startswith(("memory_vectors_", "input_vectors_"))}
    assert all(is_partitioned for table, is_partitioned, *_ in keys if table.startswith(("memor", "input_vectors_")))
