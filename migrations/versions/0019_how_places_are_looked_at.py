"""How likely each place of a list is looked at, with every calibration; and lists in an order that was drawn are found
without looking at the others.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

IS_DRAWN = "(policy #>> '{order,is_drawn}') = 'true'"


def upgrade() -> None:
    """A column, empty where nothing was fitted yet, and an index."""
    op.add_column("calibrations", sa.Column("examination", sa.ARRAY(sa.Float)))
    op.create_index(
        "ix_hypothesis_sets_drawn", "hypothesis_sets", ["tenant_id", "created_at"], postgresql_where=sa.text(IS_DRAWN)
    )


def downgrade() -> None:
    """As it was."""
    op.drop_index("ix_hypothesis_sets_drawn", "hypothesis_sets")
    op.drop_column("calibrations", "examination")
