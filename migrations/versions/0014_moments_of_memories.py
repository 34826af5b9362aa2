"""Of which later moments a memory was told again: what turns out to lie between two of them interrupts it.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NO_MOMENTS = sa.text("'{}'::timestamptz[]")


def upgrade() -> None:
    """Add the column."""
    column = sa.Column("told_at", ARRAY(sa.DateTime(timezone=True)), server_default=NO_MOMENTS, nullable=False)
    op.add_column("memories", column)


def downgrade() -> None:
    """Forget them; each memory holds as it does."""
    op.drop_column("memories", "told_at")
