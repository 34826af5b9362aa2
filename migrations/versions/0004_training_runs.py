"""Training runs, and which adapter answers whom: the runs, the deployments, and the adapter of each set.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"
TABLES = ("training_runs", "deployments")


def upgrade() -> None:
    """Create both tables, closed like the others."""
    jsonb = postgresql.JSONB(astext_type=sa.Text())
    op.create_table(
        "training_runs",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metadata", jsonb, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("judgement", jsonb, nullable=True),
        sa.Column("user_keys", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("erased_users", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_training_runs_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name=op.f("pk_training_runs")),
    )
    op.create_table(
        "deployments",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("stack", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=True),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_deployments_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "number", name=op.f("pk_deployments")),
    )
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")
    op.add_column("hypothesis_sets", sa.Column("adapter", sa.Text(), nullable=True))


def downgrade() -> None:
    """Forget runs and deployments; the adapters' files stay where they are."""
    op.drop_column("hypothesis_sets", "adapter")
    op.drop_table("deployments")
    op.drop_table("training_runs")
