"""Embedding spaces: typed vectors in tables of their own, memories in hash partitions by tenant and user.

Every vector of a memory and of an input moves into the tables of its space, in half precision where it has length 1
(as that it comes back on the way down). A tenant's serving space is the one that most of its memories are in; those in
another one are noted in `space_backlog`, and embedded anew by the service.

Revision ID: 0007
Revises: 0006
"""

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"
PARTITIONS = 16
INLINE_BYTES = 7_000
MOVED = ("memories", "memory_vectors", "hypothesis_sets", "space_trials", "tenants")
"""Tables whose rows of all tenants are read here: their owner is subject to row-level security, too."""

FIELDS = (
    "tenant_id, memory_id, user_id, type, content, confidence, tags, source, slots, created_at, updated_at, "
    "valid_from, valid_to, expires_at, superseded_by, version_of"
)

# Raises unless the tables of `given_number` hold the tenant's vectors in that role; any role where it is null. A tenant
# that has written nothing yet has no row, and no vector to compare with.
IN_SPACE = """
CREATE FUNCTION in_space(given vector, given_tenant text, given_number int, given_role text) RETURNS vector
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF given IS NOT NULL AND EXISTS (SELECT FROM tenant_spaces WHERE tenant_id = given_tenant) AND NOT EXISTS (
        SELECT FROM tenant_spaces
        WHERE tenant_id = given_tenant AND number = given_number AND (given_role IS NULL OR role = given_role)
    ) THEN
        RAISE EXCEPTION 'space % is not % for this tenant', given_number, coalesce(given_role, 'used')
            USING ERRCODE = 'ES001';
    END IF;
    RETURN given;
END
$$
"""

# What a space lacks that is not searched now, and will be: noted by whoever writes, forgotten by whoever embeds.
NOTE_BACKLOG = """
CREATE FUNCTION note_{kind}_backlog() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO space_backlog (tenant_id, number, kind, user_id, item_id)
    SELECT NEW.tenant_id, number, '{kind}', NEW.user_id, NEW.{item}
    FROM tenant_spaces
    WHERE tenant_id = NEW.tenant_id AND role IN ('filling', 'filled', 'kept')
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""
KINDS = {
    "memory": ("memories", "memory_id", "INSERT OR UPDATE OF content"),
    "input": ("hypothesis_sets", "set_id", "INSERT"),
}
"""What has vectors: its table, its key, and what is noted."""


def upgrade() -> None:
    """Make the tables, move the vectors."""
    for table in MOVED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    _create_spaces()
    _partition_memories()
    numbers = _register_found()
    for space_id, number in numbers.items():
        _move(space_id, number)
    _assign_roles()
    op.drop_table("memory_vectors")
    op.drop_table("memories_before")
    op.drop_column("hypothesis_sets", "input_vector")
    op.drop_column("hypothesis_sets", "space")
    for table in MOVED:
        if table != "memory_vectors":
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Put the vectors of each tenant's serving space back beside memories and inputs; all others are given up. Refuses
    where a memory has none."""
    connection = op.get_bind()
    spaces = connection.execute(sa.text("SELECT number, space_id FROM embedding_spaces ORDER BY number")).all()
    for table in ("memories", "hypothesis_sets", "space_trials", "tenants", "tenant_spaces"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("DROP TRIGGER note_backlog ON memories")
    op.execute("DROP TRIGGER note_backlog ON hypothesis_sets")
    op.execute("ALTER TABLE memories RENAME TO memories_before")
    for name in ("pk_memories", "ix_memories_user", "ix_memories_version", "ix_memories_expiry", "ix_memories_id"):
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")
    _create_whole_memories()
    op.add_column("hypothesis_sets", sa.Column("space", sa.Text(), nullable=True))
    op.add_column("hypothesis_sets", sa.Column("input_vector", VECTOR(), nullable=True))
    for number, space_id in spaces:
        for kind in ("memory", "input"):
            op.execute(f"ALTER TABLE {kind}_vectors_{number} NO FORCE ROW LEVEL SECURITY")
        connection.execute(
            sa.text(
                f"INSERT INTO memories ({FIELDS}, space, embedding) "
                f"SELECT {_with_prefix('m')}, :space_id, v.embedding::vector FROM memories_before m "
                f"JOIN memory_vectors_{number} v USING (tenant_id, user_id, memory_id) "
                "JOIN tenant_spaces s ON s.tenant_id = m.tenant_id AND s.number = :number AND s.role = 'serving'"
            ),
            {"space_id": space_id, "number": number},
        )
        connection.execute(
            sa.text(
                "UPDATE hypothesis_sets h SET space = :space_id, input_vector = v.embedding::vector "
                f"FROM input_vectors_{number} v, tenant_spaces s WHERE v.tenant_id = h.tenant_id "
                "AND v.set_id = h.set_id AND s.tenant_id = h.tenant_id AND s.number = :number AND s.role = 'serving'"
            ),
            {"space_id": space_id, "number": number},
        )
    counted = "SELECT (SELECT count(*) FROM memories_before) - (SELECT count(*) FROM memories)"
    lacking: int = connection.execute(sa.text(counted)).scalar_one()
    if lacking:
        raise RuntimeError(f"{lacking} memories have no vector in their serving space: embed-service space fill")
    for number, _ in spaces:
        op.drop_table(f"memory_vectors_{number}")
        op.drop_table(f"input_vectors_{number}")
    op.execute("DROP TABLE memories_before")
    op.drop_table("space_backlog")
    op.drop_table("tenant_spaces")
    op.drop_table("embedding_spaces")
    op.execute("DROP POLICY operate ON tenants")
    op.execute("DROP FUNCTION in_space(vector, text, int, text)")
    for kind in KINDS:
        op.execute(f"DROP FUNCTION note_{kind}_backlog()")
    _create_trial_vectors()
    for table in ("memories", "hypothesis_sets", "space_trials", "tenants"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _create_spaces() -> None:
    op.create_table(
        "embedding_spaces",
        sa.Column("number", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("space_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("pooling", sa.Text(), nullable=False),
        sa.Column("is_normalised", sa.Boolean(), nullable=False),
        sa.Column("prefix", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("storage IN ('vector', 'halfvec')", name=op.f("ck_embedding_spaces_storage")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_embedding_spaces")),
        sa.UniqueConstraint("space_id", name=op.f("uq_embedding_spaces_space_id")),
    )
    op.create_table(
        "tenant_spaces",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "role IN ('serving', 'filling', 'filled', 'kept', 'trial')", name=op.f("ck_tenant_spaces_role")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_tenant_spaces_tenants")),
        sa.ForeignKeyConstraint(
            ["number"], ["embedding_spaces.number"], name=op.f("fk_tenant_spaces_embedding_spaces")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "number", name=op.f("pk_tenant_spaces")),
    )
    op.create_index(
        "uq_tenant_spaces_serving",
        "tenant_spaces",
        ["tenant_id"],
        unique=True,
        postgresql_where=sa.text("role = 'serving'"),
    )
    op.create_table(
        "space_backlog",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "number"],
            ["tenant_spaces.tenant_id", "tenant_spaces.number"],
            name=op.f("fk_space_backlog_tenant_spaces"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "number", "kind", "user_id", "item_id", name=op.f("pk_space_backlog")),
    )
    for table in ("tenant_spaces", "space_backlog"):
        _close(table)
    # It holds nothing of anybody: every tenant reads which spaces there are.
    _close("embedding_spaces", "true")
    op.execute("CREATE POLICY operate ON tenants FOR SELECT USING (current_setting('app.purpose', true) = 'operate')")
    op.execute(IN_SPACE)
    for kind, (_, item, _) in KINDS.items():
        op.execute(NOTE_BACKLOG.format(kind=kind, item=item))


def _partition_memories() -> None:
    """The table with its rows, in partitions; what was is `memories_before`."""
    op.execute("ALTER TABLE memory_vectors DROP CONSTRAINT fk_memory_vectors_memories")
    op.execute("ALTER TABLE memories RENAME TO memories_before")
    for name in ("pk_memories", "ix_memories_user", "ix_memories_version", "ix_memories_expiry"):
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")
    op.create_table(
        "memories",
        *_memory_columns(),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_memories_confidence")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_memories_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "memory_id", name=op.f("pk_memories")),
        postgresql_partition_by="HASH (tenant_id, user_id)",
    )
    _partition("memories")
    op.create_index("ix_memories_id", "memories", ["tenant_id", "memory_id"])
    _index_memories()
    op.execute(f"INSERT INTO memories ({FIELDS}) SELECT {FIELDS} FROM memories_before")
    _close("memories")
    op.execute("ALTER TABLE memories NO FORCE ROW LEVEL SECURITY")
    for kind, (table, _, events) in KINDS.items():
        op.execute(
            f"CREATE TRIGGER note_backlog AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION note_{kind}_backlog()"
        )


def _register_found() -> dict[str, int]:
    """A number and tables for every space that something is in, of the dimension that its vectors have."""
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            "SELECT space, vector_dims(embedding) FROM memories_before "
            "UNION SELECT space, vector_dims(input_vector) FROM hypothesis_sets WHERE input_vector IS NOT NULL "
            "UNION SELECT space, vector_dims(embedding) FROM memory_vectors "
            "UNION SELECT space, dimension FROM space_trials WHERE status <> 'ended' ORDER BY 1, 2"
        )
    ).all()
    endpoints: dict[str, str] = dict(
        connection.execute(sa.text("SELECT space, endpoint FROM space_trials WHERE status <> 'ended'")).all()
    )
    numbers: dict[str, int] = {}
    for space_id, dimension in found:
        parts = re.fullmatch(r"(.*)@([^@:]*):(\d+):([^:]*):(l2|raw)", space_id)
        model, revision, stated, pooling, norm = parts.groups() if parts else (space_id, "", dimension, "mean", "l2")
        if int(stated) != dimension or space_id in numbers:
            continue  # a vector of another length than its space says is of no use: it is made anew
        storage = "halfvec" if norm == "l2" else "vector"
        numbers[space_id] = connection.execute(
            sa.text(
                "INSERT INTO embedding_spaces "
                "(space_id, model, revision, dimension, pooling, is_normalised, storage, endpoint) VALUES "
                "(:space_id, :model, :revision, :dimension, :pooling, :is_normalised, :storage, :endpoint) "
                "RETURNING number"
            ),
            {
                "space_id": space_id,
                "model": model,
                "revision": revision,
                "dimension": dimension,
                "pooling": pooling,
                "is_normalised": norm == "l2",
                "storage": storage,
                "endpoint": endpoints.get(space_id),
            },
        ).scalar_one()
        _create_vector_tables(numbers[space_id], dimension, storage)
    return numbers


def _create_vector_tables(number: int, dimension: int, storage: str) -> None:
    """As app.store.space_tables makes them, but for what revision 0008 adds."""
    for kind, (_, item, _) in KINDS.items():
        table, owner = f"{kind}_vectors_{number}", "memories" if kind == "memory" else "users"
        key = "tenant_id, user_id, memory_id" if kind == "memory" else "tenant_id, user_id"
        op.execute(
            f"CREATE TABLE {table} (tenant_id text NOT NULL, user_id text NOT NULL, {item} uuid NOT NULL, "
            f"embedding {storage}({dimension}) NOT NULL, "
            f"CONSTRAINT pk_{table} PRIMARY KEY (tenant_id, user_id, {item}), "
            f"CONSTRAINT fk_{table}_{owner} FOREIGN KEY ({key}) REFERENCES {owner} ({key}) ON DELETE CASCADE) "
            "PARTITION BY HASH (tenant_id, user_id)"
        )
        if dimension * (2 if storage == "halfvec" else 4) <= INLINE_BYTES:
            op.execute(f"ALTER TABLE {table} ALTER embedding SET STORAGE PLAIN")
        _partition(table)
        _close(table)


def _move(space_id: str, number: int) -> None:
    connection = op.get_bind()
    for kind in ("memory", "input"):
        op.execute(f"ALTER TABLE {kind}_vectors_{number} NO FORCE ROW LEVEL SECURITY")
    dimension = "(SELECT dimension FROM embedding_spaces WHERE number = :number)"
    values = {"space_id": space_id, "number": number}
    for source in ("memories_before", "memory_vectors"):
        connection.execute(
            sa.text(
                f"INSERT INTO memory_vectors_{number} SELECT tenant_id, user_id, memory_id, embedding FROM {source} "
                f"WHERE space = :space_id AND vector_dims(embedding) = {dimension} ON CONFLICT DO NOTHING"
            ),
            values,
        )
    connection.execute(
        sa.text(
            f"INSERT INTO input_vectors_{number} SELECT tenant_id, user_id, set_id, input_vector FROM hypothesis_sets "
            f"WHERE space = :space_id AND vector_dims(input_vector) = {dimension}"
        ),
        values,
    )
    for kind in ("memory", "input"):
        op.execute(f"ALTER TABLE {kind}_vectors_{number} FORCE ROW LEVEL SECURITY")


def _assign_roles() -> None:
    """The serving space of each tenant, open trials, and what the serving space lacks."""
    for table in ("tenant_spaces", "space_backlog"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        INSERT INTO tenant_spaces (tenant_id, number, role)
        SELECT DISTINCT ON (tenant_id) tenant_id, number, 'serving'
        FROM (
            SELECT tenant_id, space, count(*) AS held FROM memories_before GROUP BY tenant_id, space
            UNION ALL SELECT tenant_id, space, 0 FROM hypothesis_sets WHERE space IS NOT NULL GROUP BY tenant_id, space
        ) AS counted
        JOIN embedding_spaces ON space_id = space
        ORDER BY tenant_id, held DESC, number
    """)
    op.execute("""
        INSERT INTO tenant_spaces (tenant_id, number, role)
        SELECT tenant_id, number, 'trial' FROM space_trials JOIN embedding_spaces ON space_id = space
        WHERE status <> 'ended' ON CONFLICT DO NOTHING
    """)
    op.execute("""
        INSERT INTO space_backlog (tenant_id, number, kind, user_id, item_id)
        SELECT m.tenant_id, s.number, 'memory', m.user_id, m.memory_id
        FROM memories_before m
        JOIN tenant_spaces s ON s.tenant_id = m.tenant_id AND s.role = 'serving'
        JOIN embedding_spaces e ON e.number = s.number
        WHERE e.space_id <> m.space OR vector_dims(m.embedding) <> e.dimension
    """)
    for table in ("tenant_spaces", "space_backlog"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _create_whole_memories() -> None:
    op.create_table(
        "memories",
        *_memory_columns(),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("embedding", VECTOR(), nullable=False),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_memories_confidence")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_memories_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "memory_id", name=op.f("pk_memories")),
    )
    _index_memories()
    _close("memories")
    op.execute("ALTER TABLE memories NO FORCE ROW LEVEL SECURITY")


def _index_memories() -> None:
    op.create_index("ix_memories_user", "memories", ["tenant_id", "user_id", "type"])
    op.create_index(
        "ix_memories_version",
        "memories",
        ["tenant_id", "version_of"],
        postgresql_where=sa.text("version_of IS NOT NULL"),
    )
    op.create_index(
        "ix_memories_expiry",
        "memories",
        ["tenant_id", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL AND version_of IS NULL"),
    )


def _create_trial_vectors() -> None:
    op.create_table(
        "memory_vectors",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("embedding", VECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "memory_id"],
            ["memories.tenant_id", "memories.memory_id"],
            name=op.f("fk_memory_vectors_memories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "memory_id", "space", name=op.f("pk_memory_vectors")),
    )
    op.create_index("ix_memory_vectors_user", "memory_vectors", ["tenant_id", "user_id", "space"])
    _close("memory_vectors")


def _memory_columns() -> Sequence[sa.Column[Any]]:
    moment = sa.DateTime(timezone=True)
    return (
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("slots", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("valid_from", moment, nullable=False),
        sa.Column("valid_to", moment, nullable=True),
        sa.Column("expires_at", moment, nullable=True),
        sa.Column("superseded_by", sa.Uuid(), nullable=True),
        sa.Column("version_of", sa.Uuid(), nullable=True),
        sa.Column(
            "terms",
            postgresql.ARRAY(sa.Text()),
            sa.Computed("tsvector_to_array(to_tsvector('english'::regconfig, content))", persisted=True),
            nullable=True,
        ),
    )


def _partition(table: str) -> None:
    """Partitions are closed too: a policy of the parent does not hold for who names a partition."""
    for remainder in range(PARTITIONS):
        name = f"{table}_p{remainder:02}"
        op.execute(
            f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {remainder})"
        )
        _close(name)


def _close(table: str, condition: str = IS_TENANT) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({condition}) WITH CHECK ({condition})")


def _with_prefix(alias: str) -> str:
    return ", ".join(f"{alias}.{name.strip()}" for name in FIELDS.split(","))
