"""What memories rest on: the words that tell them and how often they were told, and what was known of them when.

Statements that do not pass the write gate are set apart; what was recalled is written down, so that it can be looked at
and done again.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"
MOMENT = sa.DateTime(timezone=True)
NO_MOMENTS = sa.text("'{}'::timestamptz[]")


def upgrade() -> None:
    """Add the columns and both tables, closed like the others."""
    for column in (
        sa.Column("quote", sa.Text()),
        sa.Column("proof_count", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("known_from", MOMENT),
        sa.Column("ended_at", ARRAY(MOMENT), server_default=NO_MOMENTS, nullable=False),
        sa.Column("told_to", ARRAY(MOMENT), server_default=NO_MOMENTS, nullable=False),
    ):
        op.add_column("memories", column)
    op.add_column("users", sa.Column("consolidated", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("ingests", sa.Column("set_apart", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "quarantine",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("valid_from", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_quarantine_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "item_id", name=op.f("pk_quarantine")),
    )
    op.create_index("ix_quarantine_user", "quarantine", ["tenant_id", "user_id", "created_at"])
    op.create_index("ix_quarantine_created", "quarantine", ["tenant_id", "created_at"])
    op.create_table(
        "recalls",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("recall_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("as_of", MOMENT, nullable=False),
        sa.Column("asked", JSONB(), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("is_degraded", sa.Boolean(), nullable=False),
        sa.Column("shown", JSONB(), nullable=False),
        sa.Column("helpful", ARRAY(sa.Text())),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_recalls_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "recall_id", name=op.f("pk_recalls")),
    )
    op.create_index("ix_recalls_user", "recalls", ["tenant_id", "user_id", "asked_at"])
    op.create_index("ix_recalls_asked", "recalls", ["tenant_id", "asked_at"])
    for table in ("quarantine", "recalls"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")


def downgrade() -> None:
    """Forget all of it; the memories themselves stay."""
    op.drop_table("recalls")
    op.drop_table("quarantine")
    op.drop_column("ingests", "set_apart")
    op.drop_column("users", "consolidated")
    for column in ("told_to", "ended_at", "known_from", "proof_count", "quote"):
        op.drop_column("memories", column)
