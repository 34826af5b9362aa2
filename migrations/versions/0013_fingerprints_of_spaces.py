"""What embedding spaces are recognised by, and the role of one whose vectors are being deleted.

A space keeps the vector of one text, and what its model called its own space, from its first use on. A tenant's space
is `dropped` until nothing of it is left: nobody compares with it, and nobody writes into it.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ROLES = ("serving", "filling", "filled", "kept", "trial")
ROLE = "ck_tenant_spaces_role"

# As revision 0007 made it, but for the part that {is_used} stands for.
IN_SPACE = """
CREATE OR REPLACE FUNCTION in_space(given vector, given_tenant text, given_number int, given_role text) RETURNS vector
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF given IS NOT NULL AND EXISTS (SELECT FROM tenant_spaces WHERE tenant_id = given_tenant) AND NOT EXISTS (
        SELECT FROM tenant_spaces
        WHERE tenant_id = given_tenant AND number = given_number AND {is_used}
    ) THEN
        RAISE EXCEPTION 'space % is not % for this tenant', given_number, coalesce(given_role, 'used')
            USING ERRCODE = 'ES001';
    END IF;
    RETURN given;
END
$$
"""
RETIRED = "SELECT number FROM embedding_spaces WHERE space_id LIKE '%#' || number"
"""Spaces whose tables are being dropped."""

BEFORE = "(given_role IS NULL OR role = given_role)"
SINCE = "role = given_role OR (given_role IS NULL AND role <> 'dropped')"


def upgrade() -> None:
    """Add the columns, and the role."""
    op.add_column("embedding_spaces", sa.Column("told", sa.Text(), nullable=True))
    op.add_column("embedding_spaces", sa.Column("fingerprint", VECTOR(), nullable=True))
    _allow((*ROLES, "dropped"))
    op.execute(IN_SPACE.format(is_used=f"({SINCE})"))


def downgrade() -> None:
    """What is left of spaces that were dropped goes at once."""
    connection = op.get_bind()
    op.execute("ALTER TABLE tenant_spaces NO FORCE ROW LEVEL SECURITY")
    for tenant_id, number in connection.execute(
        sa.text(f"SELECT tenant_id, number FROM tenant_spaces WHERE role = 'dropped' AND number NOT IN ({RETIRED})")
    ).all():
        connection.execute(sa.text("SELECT set_config('app.tenant_id', :tenant_id, true)"), {"tenant_id": tenant_id})
        for kind in ("memory", "input"):
            connection.execute(
                sa.text(f"DELETE FROM {kind}_vectors_{number} WHERE tenant_id = :tenant_id"), {"tenant_id": tenant_id}
            )
    op.execute("DELETE FROM tenant_spaces WHERE role = 'dropped'")
    for number in connection.execute(sa.text(RETIRED)).scalars().all():
        for kind in ("memory", "input"):
            op.execute(f"DROP TABLE IF EXISTS {kind}_vectors_{number}")
        op.execute(f"DELETE FROM embedding_spaces WHERE number = {number}")
    op.execute("ALTER TABLE tenant_spaces FORCE ROW LEVEL SECURITY")
    op.execute(IN_SPACE.format(is_used=BEFORE))
    _allow(ROLES)
    op.drop_column("embedding_spaces", "fingerprint")
    op.drop_column("embedding_spaces", "told")


def _allow(roles: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(ROLE), "tenant_spaces", type_="check")
    op.create_check_constraint(op.f(ROLE), "tenant_spaces", f"role IN {roles}")
