"""Which memories the user set right.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    column = sa.Column("is_set_right", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    op.add_column("memories", column)


def downgrade() -> None:
    """Forget it."""
    op.drop_column("memories", "is_set_right")
