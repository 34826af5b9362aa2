"""The first tables, and row-level security on all of them.

A connection sees the rows of the tenant named in `app.tenant_id` and no others; without that setting it
sees none. API keys can also be read while `app.purpose` is `authenticate`: a key has to be found before
its tenant is known.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANT_TABLES = (
    "tenants",
    "api_keys",
    "calibrations",
    "users",
    "facet_changes",
    "memories",
    "hypothesis_sets",
    "executions",
    "signals",
)
IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"


def upgrade() -> None:
    """Create the tables and close them."""
    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "api_keys",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_api_keys_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "key_id", name=op.f("pk_api_keys")),
    )
    op.create_index("ix_api_keys_key_hash", "api_keys", ["key_hash"], unique=False)
    op.create_table(
        "calibrations",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("slope", sa.Float(), nullable=False),
        sa.Column("none_score", sa.Float(), nullable=False),
        sa.Column("outcomes", sa.Integer(), nullable=False),
        sa.Column("fitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_calibrations_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "version", name=op.f("pk_calibrations")),
    )
    op.create_table(
        "users",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column(
            "facets",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("vector", VECTOR(), nullable=True),
        sa.Column("vector_space", sa.Text(), nullable=True),
        sa.Column("vector_weight", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("vector_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_users_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", name=op.f("pk_users")),
    )
    op.create_table(
        "executions",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Uuid(), nullable=True),
        sa.Column("hypothesis_id", sa.Text(), nullable=True),
        sa.Column("custom_answer", sa.Text(), nullable=True),
        sa.Column("input_text", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("memories_used", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_success", sa.Boolean(), nullable=True),
        sa.Column("rating", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_executions_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "execution_id", name=op.f("pk_executions")),
    )
    op.create_index("ix_executions_user", "executions", ["tenant_id", "user_id", "created_at"], unique=False)
    op.create_table(
        "facet_changes",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("change_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("facet", sa.Text(), nullable=False),
        sa.Column("before", sa.Float(), nullable=False),
        sa.Column("after", sa.Float(), nullable=False),
        sa.Column("uncertainty", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("signal_id", sa.Uuid(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.user_id"],
            name=op.f("fk_facet_changes_users"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "change_id", name=op.f("pk_facet_changes")),
    )
    op.create_index("ix_facet_changes_user", "facet_changes", ["tenant_id", "user_id", "version"], unique=False)
    op.create_table(
        "hypothesis_sets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("input_text", sa.Text(), nullable=False),
        sa.Column("space", sa.Text(), nullable=True),
        sa.Column("input_vector", VECTOR(), nullable=True),
        sa.Column("intent", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("clarification_need", sa.Float(), nullable=False),
        sa.Column("hypotheses", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("is_degraded", sa.Boolean(), nullable=False),
        sa.Column("calibration_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("chosen_id", sa.Text(), nullable=True),
        sa.Column("chosen_slots", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("rejected_ids", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.user_id"],
            name=op.f("fk_hypothesis_sets_users"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "set_id", name=op.f("pk_hypothesis_sets")),
    )
    op.create_index(
        "ix_hypothesis_sets_answered",
        "hypothesis_sets",
        ["tenant_id", "intent", "answered_at"],
        unique=False,
        postgresql_where=sa.text("outcome IS NOT NULL"),
    )
    op.create_index("ix_hypothesis_sets_created", "hypothesis_sets", ["tenant_id", "created_at"], unique=False)
    op.create_index("ix_hypothesis_sets_user", "hypothesis_sets", ["tenant_id", "user_id", "created_at"], unique=False)
    op.create_table(
        "memories",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("memory_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("slots", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("superseded_by", sa.Uuid(), nullable=True),
        sa.Column("version_of", sa.Uuid(), nullable=True),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("embedding", VECTOR(), nullable=False),
        sa.Column(
            "terms",
            sa.ARRAY(sa.Text()),
            sa.Computed("tsvector_to_array(to_tsvector('english'::regconfig, content))", persisted=True),
            nullable=True,
        ),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_memories_confidence")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_memories_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "memory_id", name=op.f("pk_memories")),
    )
    op.create_index("ix_memories_user", "memories", ["tenant_id", "user_id", "type"], unique=False)
    op.create_index(
        "ix_memories_version",
        "memories",
        ["tenant_id", "version_of"],
        unique=False,
        postgresql_where=sa.text("version_of IS NOT NULL"),
    )
    op.create_table(
        "signals",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("signal_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("set_id", sa.Uuid(), nullable=True),
        sa.Column("execution_id", sa.Uuid(), nullable=True),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_signals_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "signal_id", name=op.f("pk_signals")),
    )
    op.create_index("ix_signals_user", "signals", ["tenant_id", "user_id", "created_at"], unique=False)
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")
    op.execute(
        "CREATE POLICY authenticate ON api_keys FOR SELECT "
        "USING (current_setting('app.purpose', true) = 'authenticate')"
    )


def downgrade() -> None:
    """Drop the tables, and what they hold."""
    op.drop_index("ix_signals_user", table_name="signals")
    op.drop_table("signals")
    op.drop_index("ix_memories_version", table_name="memories", postgresql_where=sa.text("version_of IS NOT NULL"))
    op.drop_index("ix_memories_user", table_name="memories")
    op.drop_table("memories")
    op.drop_index("ix_hypothesis_sets_user", table_name="hypothesis_sets")
    op.drop_index("ix_hypothesis_sets_created", table_name="hypothesis_sets")
    op.drop_index(
        "ix_hypothesis_sets_answered",
        table_name="hypothesis_sets",
        postgresql_where=sa.text("outcome IS NOT NULL"),
    )
    op.drop_table("hypothesis_sets")
    op.drop_index("ix_facet_changes_user", table_name="facet_changes")
    op.drop_table("facet_changes")
    op.drop_index("ix_executions_user", table_name="executions")
    op.drop_table("executions")
    op.drop_table("users")
    op.drop_table("calibrations")
    op.drop_index("ix_api_keys_key_hash", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("tenants")
