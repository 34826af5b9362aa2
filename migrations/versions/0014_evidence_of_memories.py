"""What else told a memory: the sources and the words of the tellings after the first.

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

NO_TEXTS = sa.text("'{}'::text[]")


def upgrade() -> None:
    """Add the columns; what was told before has its first telling alone."""
    for name in ("later_sources", "later_quotes"):
        op.add_column("memories", sa.Column(name, ARRAY(sa.Text()), server_default=NO_TEXTS, nullable=False))


def downgrade() -> None:
    """Forget the tellings after the first."""
    for name in ("later_quotes", "later_sources"):
        op.drop_column("memories", name)
