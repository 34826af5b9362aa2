"""A key may open one user alone.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keys that exist go on opening all users of their tenant."""
    op.add_column("api_keys", sa.Column("user_id", sa.Text(), nullable=True))


def downgrade() -> None:
    """Keys of one user would open all of them: they go."""
    op.execute("ALTER TABLE api_keys NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM api_keys WHERE user_id IS NOT NULL")
    op.execute("ALTER TABLE api_keys FORCE ROW LEVEL SECURITY")
    op.drop_column("api_keys", "user_id")
