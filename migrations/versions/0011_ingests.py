"""Conversations that are handed in and remembered in the background, and their turns that wait for it.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"


def upgrade() -> None:
    """Create both tables, closed like the others."""
    op.create_table(
        "ingests",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("ingest_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("turns", sa.Integer(), nullable=False),
        *(
            sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False)
            for name in ("taken", "passed_over", "memories", "deduplicated", "superseded")
        ),
        sa.Column("job", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_ingests_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "ingest_id", name=op.f("pk_ingests")),
    )
    op.create_index("ix_ingests_user", "ingests", ["tenant_id", "user_id", "created_at"])
    op.create_index(
        "ix_ingests_finished",
        "ingests",
        ["tenant_id", "finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_table(
        "utterances",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("ingest_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("speaker", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "ingest_id"], ["ingests.tenant_id", "ingests.ingest_id"], name=op.f("fk_utterances_ingests")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_utterances_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "ingest_id", "number", name=op.f("pk_utterances")),
    )
    op.create_index("ix_utterances_user", "utterances", ["tenant_id", "user_id"])
    for table in ("ingests", "utterances"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")


def downgrade() -> None:
    """What waits to be remembered is lost, and so are its jobs."""
    op.execute("ALTER TABLE procrastinate_jobs NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM procrastinate_jobs WHERE task_name = 'ingest'")
    op.execute("ALTER TABLE procrastinate_jobs FORCE ROW LEVEL SECURITY")
    op.drop_table("utterances")
    op.drop_table("ingests")
