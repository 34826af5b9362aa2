"""Whether a user's choices may be kept as training samples.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; everybody known so far consents, as before."""
    op.add_column("users", sa.Column("has_consent", sa.Boolean(), server_default=sa.text("true"), nullable=False))


def downgrade() -> None:
    """Drop the column, and with it who opted out."""
    op.drop_column("users", "has_consent")
