"""What else told a memory: the sources and the words of the tellings after the first; where an ingest begins.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NO_TEXTS = sa.text("'{}'::text[]")


def upgrade() -> None:
    """Add the columns; what was told before has its first telling alone, an ingest goes on behind
    the last turn."""
    for name in ("later_sources", "later_quotes"):
        op.add_column("memories", sa.Column(name, ARRAY(sa.Text()), server_default=NO_TEXTS, nullable=False))
    op.add_column("ingests", sa.Column("first_turn", sa.Integer()))


def downgrade() -> None:
    """Forget both."""
    op.drop_column("ingests", "first_turn")
    for name in ("later_quotes", "later_sources"):
        op.drop_column("memories", name)
