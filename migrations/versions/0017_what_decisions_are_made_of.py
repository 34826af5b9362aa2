"""What a decision to ask, to go ahead or to leave an input as it is was made of, so that it can be made again, and what
the user may mean, which answers move.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column for each; sets from before have none."""
    op.add_column("hypothesis_sets", sa.Column("policy", JSONB))
    op.add_column("hypothesis_sets", sa.Column("belief", JSONB))


def downgrade() -> None:
    """As it was."""
    op.drop_column("hypothesis_sets", "belief")
    op.drop_column("hypothesis_sets", "policy")
