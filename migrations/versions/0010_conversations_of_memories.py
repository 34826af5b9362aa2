"""Memories know where they were said: session, turn, speaker, and a place in which turns lie beside one another.

The words of large users carry the place and how many words a memory has, so that a search knows both without looking up
each memory.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# As in revision 0008, with the place and the number of words.
COUNT_MEMORIES = """
CREATE OR REPLACE FUNCTION count_memories() RETURNS trigger LANGUAGE plpgsql
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
        INSERT INTO memory_words (tenant_id, user_id, term, memory_id, place, words)
        SELECT w.tenant_id, w.user_id, term, w.memory_id, w.place, least(cardinality(w.terms), 9999)
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
        INSERT INTO memory_words (tenant_id, user_id, term, memory_id, place, words)
        SELECT w.tenant_id, w.user_id, term, w.memory_id, w.place, least(cardinality(w.terms), 9999)
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

WITHOUT_PLACES = """
CREATE OR REPLACE FUNCTION count_memories() RETURNS trigger LANGUAGE plpgsql
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
        INSERT INTO memory_words (tenant_id, user_id, term, memory_id)
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
        INSERT INTO memory_words (tenant_id, user_id, term, memory_id)
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


def upgrade() -> None:
    """Add the columns; what is there stands alone, and large users' words get their numbers."""
    for name, kind in (
        ("session", sa.Text()),
        ("turn", sa.Integer()),
        ("speaker", sa.Text()),
        ("place", sa.BigInteger()),
    ):
        op.add_column("memories", sa.Column(name, kind))
    op.execute("CREATE INDEX ix_memories_place ON memories (tenant_id, user_id, place) WHERE place IS NOT NULL")
    op.add_column("memory_words", sa.Column("place", sa.BigInteger()))
    op.add_column("memory_words", sa.Column("words", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    op.execute(COUNT_MEMORIES)
    for table in ("memory_words", "memories"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "UPDATE memory_words w SET words = least(cardinality(m.terms), 9999) FROM memories m "
        "WHERE m.tenant_id = w.tenant_id AND m.user_id = w.user_id AND m.memory_id = w.memory_id"
    )
    for table in ("memory_words", "memories"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Forget where memories were said."""
    op.execute(WITHOUT_PLACES)
    for column in ("words", "place"):
        op.drop_column("memory_words", column)
    op.execute("DROP INDEX ix_memories_place")
    for column in ("place", "speaker", "turn", "session"):
        op.drop_column("memories", column)
