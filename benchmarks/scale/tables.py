"""What lies on disk, and a table as others have it."""

from typing import Any

DIMENSION = 384

OTHERS = f"""
CREATE TABLE everything (
    memory_id uuid PRIMARY KEY, user_id text NOT NULL, content text NOT NULL, embedding vector({DIMENSION}) NOT NULL
)
"""
GLOBAL_INDEX = "CREATE INDEX everything_graph ON everything USING hnsw (embedding vector_cosine_ops)"
GLOBAL = """
SELECT memory_id, content, 1 - (embedding <=> $1::float4[]::vector) AS cosine
FROM everything WHERE user_id = $2::text ORDER BY embedding <=> $1::float4[]::vector LIMIT 20
"""
"""A search as others have it: one table, one HNSW index over all users' vectors, and a filter on the user."""

_SIZE = """
SELECT sum(pg_table_size(relid))::bigint AS rows, sum(pg_indexes_size(relid))::bigint AS indexes
FROM pg_partition_tree($1::regclass) WHERE isleaf
"""


async def size_of(connection: Any, table: str) -> tuple[int, int]:
    """Bytes of a table with all its partitions: rows, and indexes."""
    row = await connection.fetchrow(_SIZE, table)
    return row["rows"], row["indexes"]


async def graphs_size(connection: Any) -> int:
    """Bytes of all graphs."""
    return await connection.fetchval(
        "SELECT sum(pg_relation_size(i.indexrelid))::bigint FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw' AND c.relkind = 'i'"
    )
