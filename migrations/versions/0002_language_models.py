"""Language models: calibrations by source of hypotheses, with a weight per feature; what made each set.

Going down keeps the local source's fits and drops those of language models.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the source and the weights; what was fitted so far is the local source's."""
    op.add_column("calibrations", sa.Column("source", sa.Text(), nullable=True))
    op.add_column("calibrations", sa.Column("weights", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    _for_all_tenants("UPDATE calibrations SET source = 'local', weights = jsonb_build_object('score', slope)")
    op.alter_column("calibrations", "source", nullable=False)
    op.alter_column("calibrations", "weights", nullable=False)
    op.drop_constraint(op.f("pk_calibrations"), "calibrations", type_="primary")
    op.create_primary_key(op.f("pk_calibrations"), "calibrations", ["tenant_id", "source", "version"])
    op.drop_column("calibrations", "slope")
    op.add_column("hypothesis_sets", sa.Column("model", sa.Text(), nullable=True))
    op.add_column("hypothesis_sets", sa.Column("prompt_version", sa.Text(), nullable=True))


def downgrade() -> None:
    """Put the local source's slope back."""
    op.drop_column("hypothesis_sets", "prompt_version")
    op.drop_column("hypothesis_sets", "model")
    op.add_column("calibrations", sa.Column("slope", sa.Float(), nullable=True))
    _for_all_tenants(
        "DELETE FROM calibrations WHERE source <> 'local'",
        "UPDATE calibrations SET slope = (weights->>'score')::float8",
    )
    op.alter_column("calibrations", "slope", nullable=False)
    op.drop_constraint(op.f("pk_calibrations"), "calibrations", type_="primary")
    op.create_primary_key(op.f("pk_calibrations"), "calibrations", ["tenant_id", "version"])
    op.drop_column("calibrations", "weights")
    op.drop_column("calibrations", "source")


def _for_all_tenants(*statements: str) -> None:
    """Run statements on every tenant's rows: the tables' owner is subject to row-level security, too."""
    op.execute("ALTER TABLE calibrations NO FORCE ROW LEVEL SECURITY")
    for statement in statements:
        op.execute(statement)
    op.execute("ALTER TABLE calibrations FORCE ROW LEVEL SECURITY")
