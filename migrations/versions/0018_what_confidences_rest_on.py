"""What the confidences of a set rest on; calibrations by the form of their features, so that what was fitted on numbers
that a model wrote is no calibration of its label probabilities; and the prior that tenants share.

The service reads the calibrations of all tenants in transactions of its own, for that prior and nothing else.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

IS_POOLING = "current_setting('app.purpose', true) = 'pool'"


def upgrade() -> None:
    """Sets from before have no basis; fits from before are of the first form, around the shipped prior."""
    op.add_column("hypothesis_sets", sa.Column("basis", JSONB))
    op.add_column("calibrations", sa.Column("form", sa.Integer(), server_default="1", nullable=False))
    op.add_column("calibrations", sa.Column("prior", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "shared_priors",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("form", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("weights", JSONB, nullable=False),
        sa.Column("none_score", sa.Float(), nullable=False),
        sa.Column("tenants", sa.Integer(), nullable=False),
        sa.Column("fitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "version", name=op.f("pk_shared_priors")),
    )
    op.execute(f"CREATE POLICY pool ON calibrations FOR SELECT USING ({IS_POOLING})")
    op.execute("ALTER TABLE shared_priors ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE shared_priors FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY everyone ON shared_priors FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY pool ON shared_priors FOR INSERT WITH CHECK ({IS_POOLING})")


def downgrade() -> None:
    """As it was; fits of another form than the first would be misread, and go."""
    op.execute("DROP POLICY pool ON calibrations")
    op.drop_table("shared_priors")
    op.execute("ALTER TABLE calibrations NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM calibrations WHERE form <> 1")
    op.execute("ALTER TABLE calibrations FORCE ROW LEVEL SECURITY")
    op.drop_column("calibrations", "prior")
    op.drop_column("calibrations", "form")
    op.drop_column("hypothesis_sets", "basis")
