"""The tables of one embedding space: how they are made and dropped, as plain SQL, for the service and for revisions."""

import re
from typing import Any

from app.domain.spaces import GRAPHS, Storage, has_graphs, is_inline

PARTITIONS = 16
"""Hash partitions by tenant and user, as `memories` has them."""

MADE_HERE = re.compile(r".+_p\d\d|(memory|input)_vectors_\d+")
"""Names of partitions and of the tables of spaces, which `app.store.tables` does not describe."""

_IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"


_OWNERS = {
    "memory": ("memory_id", "memories", "tenant_id, user_id, memory_id"),
    "input": ("set_id", "users", "tenant_id, user_id"),
}
"""What has vectors: the key of an item, and whose rows they go with."""


def create_statements(number: int, dimension: int, storage: Storage) -> list[str]:
    """Make the tables of a space: vectors of memories and of inputs. Closed by row-level security, partitions too, for
    a parent's policy does not hold for who names a partition. Nobody who uses other tables waits for any of it.

    A memory's vector carries the number of its user's graph (0: none), given by a trigger; each graph is an index of
    the rows that carry its number.
    """
    statements: list[str] = []
    for kind, (item, _, _) in _OWNERS.items():
        table = f"{kind}_vectors_{number}"
        graph = "graph smallint NOT NULL DEFAULT 0, " if kind == "memory" else ""
        statements.append(
            f"CREATE TABLE {table} (tenant_id text NOT NULL, user_id text NOT NULL, {item} uuid NOT NULL, "
            f"embedding {storage}({dimension}) NOT NULL, {graph}"
            f"CONSTRAINT pk_{table} PRIMARY KEY (tenant_id, user_id, {item})) "
            "PARTITION BY HASH (tenant_id, user_id)"
        )
        if is_inline(dimension, storage):  # before there are partitions: they inherit it
            statements.append(f"ALTER TABLE {table} ALTER embedding SET STORAGE PLAIN")
        statements += _close(table)
        for name in _partitions(table):
            statements.append(
                f"CREATE TABLE {name} PARTITION OF {table} "
                f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {int(name[-2:])})"
            )
            statements += _close(name)
    return statements + _graph_statements(f"memory_vectors_{number}", number, dimension, storage)


def tie_statements(number: int) -> dict[str, str]:
    """By its name, each foreign key of a space's tables: vectors of memories go with their memory, those of inputs with
    their user. Whoever writes the table that it leads to waits for it."""
    statements: dict[str, str] = {}
    for kind, (_, owner, key) in _OWNERS.items():
        table = f"{kind}_vectors_{number}"
        name = f"fk_{table}_{owner}"
        statements[name] = (
            f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY ({key}) REFERENCES {owner} ({key}) "
            "ON DELETE CASCADE"
        )
    return statements


def _graph_statements(table: str, number: int, dimension: int, storage: Storage) -> list[str]:
    statements = [
        f"CREATE TRIGGER give_graph BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION give_graph()",
        f"CREATE TRIGGER note_written AFTER INSERT ON {table} REFERENCING NEW TABLE AS written "
        f"FOR EACH STATEMENT EXECUTE FUNCTION note_written_vectors({number})",
    ]
    if has_graphs(dimension, storage):
        statements += [
            f"CREATE INDEX ix_{table}_graph_{graph} ON {table} USING hnsw (embedding {storage}_cosine_ops) "
            f"WHERE graph = {graph}"
            for graph in range(1, GRAPHS + 1)
        ]
    return statements


def partition_statements(kind: str, number: int) -> list[str]:
    """Give the partitions of a space's vectors up, and their disk back. Nobody who uses other tables waits for it."""
    return [f"DROP TABLE IF EXISTS {name}" for name in _partitions(f"{kind}_vectors_{number}")]


def table_statements(kind: str, number: int) -> list[str]:
    """Give the table without its partitions up. Whoever uses what its foreign key leads to waits for it; that is locked
    by itself first, from the parent down as everybody does: `DROP` begins with some partition of it."""
    _, owner, _ = _OWNERS[kind]
    return [f"LOCK TABLE {owner} IN ACCESS EXCLUSIVE MODE", f"DROP TABLE IF EXISTS {kind}_vectors_{number}"]


def retired_name(space_id: str, number: int) -> str:
    """What a space is called whose tables are being dropped: nobody looks for it by this name."""
    return f"{space_id}#{number}"


def is_of_the_code(item: Any, name: str | None, kind: str, *_: Any) -> bool:
    """Whether a table (an index, …) is one that `app.store.tables` describes: Alembic's `include_object`. Partitions
    and the tables of spaces are not."""
    table = name if kind == "table" else item.table.name
    return MADE_HERE.fullmatch(table or "") is None


def _partitions(table: str) -> list[str]:
    return [f"{table}_p{remainder:02}" for remainder in range(PARTITIONS)]


def _close(table: str) -> list[str]:
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY tenant ON {table} USING ({_IS_TENANT}) WITH CHECK ({_IS_TENANT})",
    ]
