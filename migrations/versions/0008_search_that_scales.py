"""Search that scales: users know how many memories they have, and those with very many get a graph of their own.

`users` counts memories and writes. Vectors carry the number of their user's graph, an index of those rows alone; words
of the users who have one lie in `memory_words`. Triggers keep all of it. Users who are large already get their graph
from the service's `graph` job.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"
PARTITIONS = 16
GRAPHS = 8
GRAPH_DIMENSIONS = {"halfvec": 4_000, "vector": 2_000}

# Keeps the counts of users and the words of those who have a graph (or get one at this moment: below 0). The user's
# row is locked by it, so whoever gives a user a graph comes before a writer or after it. Joins go by key: the plan is
# made once, and a user's words are many.
COUNT_MEMORIES = """
CREATE FUNCTION count_memories() RETURNS trigger LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    raised text := coalesce(current_setting('app.raised', true), '');
BEGIN
    IF TG_OP = 'INSERT' THEN
        WITH counted AS (
            UPDATE users u SET memories = u.memories + w.rows, writes = u.writes + 1
            FROM (SELECT tenant_id, user_id, count(*) AS rows FROM written GROUP BY tenant_id, user_id) AS w
            WHERE u.tenant_id = w.tenant_id AND u.user_id = w.user_id
            RETURNING u.tenant_id, u.user_id, u.graph,
                      set_config('app.raised', u.tenant_id || '/' || u.user_id, true)
        )
        INSERT INTO memory_words
        SELECT w.tenant_id, w.user_id, term, w.memory_id
        FROM counted JOIN written w ON w.tenant_id = counted.tenant_id AND w.user_id = counted.user_id,
             unnest(w.terms) AS term
        WHERE counted.graph <> 0;
    ELSIF TG_OP = 'DELETE' THEN
        WITH counted AS (
            UPDATE users u SET memories = u.memories - w.rows, writes = u.writes + 1
            FROM (SELECT tenant_id, user_id, count(*) AS rows FROM gone GROUP BY tenant_id, user_id) AS w
            WHERE u.tenant_id = w.tenant_id AND u.user_id = w.user_id
            RETURNING u.tenant_id, u.user_id, u.graph,
                      set_config('app.raised', u.tenant_id || '/' || u.user_id, true)
        )
        DELETE FROM memory_words d
        USING counted JOIN gone g ON g.tenant_id = counted.tenant_id AND g.user_id = counted.user_id,
              unnest(g.terms) AS word
        WHERE counted.graph <> 0 AND d.tenant_id = g.tenant_id AND d.user_id = g.user_id
          AND d.term = word AND d.memory_id = g.memory_id;
    ELSE
        UPDATE users u SET writes = u.writes + 1
        FROM (SELECT DISTINCT tenant_id, user_id FROM written) AS w
        WHERE u.tenant_id = w.tenant_id AND u.user_id = w.user_id AND raised <> w.tenant_id || '/' || w.user_id;
        DELETE FROM memory_words d
        USING gone g
              JOIN written w ON w.tenant_id = g.tenant_id AND w.user_id = g.user_id AND w.memory_id = g.memory_id
              JOIN users u ON u.tenant_id = g.tenant_id AND u.user_id = g.user_id,
              unnest(g.terms) AS word
        WHERE w.content <> g.content AND u.graph <> 0 AND d.tenant_id = g.tenant_id AND d.user_id = g.user_id
          AND d.term = word AND d.memory_id = g.memory_id;
        INSERT INTO memory_words
        SELECT w.tenant_id, w.user_id, term, w.memory_id
        FROM gone g
             JOIN written w ON w.tenant_id = g.tenant_id AND w.user_id = g.user_id AND w.memory_id = g.memory_id
             JOIN users u ON u.tenant_id = g.tenant_id AND u.user_id = g.user_id,
             unnest(w.terms) AS term
        WHERE w.content <> g.content AND u.graph <> 0;
    END IF;
    RETURN NULL;
END
$$
"""

# A vector is in its user's graph from the beginning; below 0: the one that is being made.
GIVE_GRAPH = """
CREATE FUNCTION give_graph() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.graph := coalesce(
        (SELECT abs(graph) FROM users WHERE tenant_id = NEW.tenant_id AND user_id = NEW.user_id), 0
    );
    RETURN NEW;
END
$$
"""

# Vectors that come without their memory, as a fill writes them, change what a search finds where the space is searched.
# Whoever holds the user at that moment is not waited for: a writer raises the count, and waits perhaps for this one.
NOTE_WRITTEN_VECTORS = """
CREATE FUNCTION note_written_vectors() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    raised text := coalesce(current_setting('app.raised', true), '');
BEGIN
    IF EXISTS (
        SELECT FROM tenant_spaces
        WHERE tenant_id = current_setting('app.tenant_id', true) AND number = TG_ARGV[0]::int
          AND role IN ('serving', 'trial')
    ) THEN
        UPDATE users u SET writes = u.writes + 1
        FROM (
            SELECT h.tenant_id, h.user_id FROM users h
            WHERE (h.tenant_id, h.user_id) IN (SELECT tenant_id, user_id FROM written)
              AND raised <> h.tenant_id || '/' || h.user_id
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS held
        WHERE u.tenant_id = held.tenant_id AND u.user_id = held.user_id;
    END IF;
    RETURN NULL;
END
$$
"""

EVENTS = {
    "INSERT": "NEW TABLE AS written",
    "UPDATE": "OLD TABLE AS gone NEW TABLE AS written",
    "DELETE": "OLD TABLE AS gone",
}


def upgrade() -> None:
    """Count what is there, make the tables, and have triggers keep them."""
    op.add_column("users", sa.Column("memories", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("users", sa.Column("writes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("users", sa.Column("graph", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    for table in ("users", "memories"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "UPDATE users u SET memories = counted.memories FROM "
        "(SELECT tenant_id, user_id, count(*) AS memories FROM memories GROUP BY tenant_id, user_id) AS counted "
        "WHERE u.tenant_id = counted.tenant_id AND u.user_id = counted.user_id"
    )
    for table in ("users", "memories"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    _create_tables()
    op.execute(
        "CREATE INDEX ix_memories_slots ON memories (tenant_id, user_id, valid_from DESC, memory_id) "
        "WHERE slots <> '{}'::text[]"
    )
    for function in (COUNT_MEMORIES, GIVE_GRAPH, NOTE_WRITTEN_VECTORS):
        op.execute(function)
    for event, tables in EVENTS.items():
        op.execute(
            f"CREATE TRIGGER count_{event.lower()} AFTER {event} ON memories REFERENCING {tables} "
            "FOR EACH STATEMENT EXECUTE FUNCTION count_memories()"
        )
    for number, dimension, storage in _spaces():
        _add_graphs(number, dimension, storage)


def downgrade() -> None:
    """Take all of it away; nothing that anybody told goes with it."""
    for number, _, _ in _spaces():
        table = f"memory_vectors_{number}"
        op.execute(f"DROP TRIGGER give_graph ON {table}")
        op.execute(f"DROP TRIGGER note_written ON {table}")
        op.execute(f"ALTER TABLE {table} DROP COLUMN graph")  # and the graphs with it
    for event in EVENTS:
        op.execute(f"DROP TRIGGER count_{event.lower()} ON memories")
    for function in ("count_memories", "give_graph", "note_written_vectors"):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DROP INDEX ix_memories_slots")
    op.drop_table("user_graphs")
    op.drop_table("memory_words")
    for column in ("graph", "writes", "memories"):
        op.drop_column("users", column)


def _spaces() -> list[tuple[int, int, str]]:
    """The number, dimension and storage of every space."""
    rows = op.get_bind().execute(sa.text("SELECT number, dimension, storage FROM embedding_spaces ORDER BY number"))
    return [(row.number, row.dimension, row.storage) for row in rows]


def _create_tables() -> None:
    op.create_table(
        "memory_words",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("term", sa.Text(), nullable=False),
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        _of_user("memory_words"),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "term", "memory_id", name=op.f("pk_memory_words")),
        postgresql_partition_by="HASH (tenant_id, user_id)",
    )
    _close("memory_words")
    for remainder in range(PARTITIONS):
        name = f"memory_words_p{remainder:02}"
        op.execute(
            f"CREATE TABLE {name} PARTITION OF memory_words "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {remainder})"
        )
        _close(name)
    op.create_table(
        "user_graphs",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        _of_user("user_graphs"),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", name=op.f("pk_user_graphs")),
        sa.UniqueConstraint("part", "number", name=op.f("uq_user_graphs_part_number")),
    )
    _close("user_graphs")


def _of_user(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "user_id"],
        ["users.tenant_id", "users.user_id"],
        name=op.f(f"fk_{table}_users"),
        ondelete="CASCADE",
    )


def _add_graphs(number: int, dimension: int, storage: str) -> None:
    """As app.store.space_tables makes them."""
    table = f"memory_vectors_{number}"
    op.execute(f"ALTER TABLE {table} ADD COLUMN graph smallint NOT NULL DEFAULT 0")
    op.execute(f"CREATE TRIGGER give_graph BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION give_graph()")
    op.execute(
        f"CREATE TRIGGER note_written AFTER INSERT ON {table} REFERENCING NEW TABLE AS written "
        f"FOR EACH STATEMENT EXECUTE FUNCTION note_written_vectors({number})"
    )
    if dimension <= GRAPH_DIMENSIONS[storage]:
        for graph in range(1, GRAPHS + 1):
            op.execute(
                f"CREATE INDEX ix_{table}_graph_{graph} ON {table} USING hnsw (embedding {storage}_cosine_ops) "
                f"WHERE graph = {graph}"
            )


def _close(table: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")
