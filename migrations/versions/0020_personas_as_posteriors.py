"""What is believed of a facet is a mean and a variance out of evidence that is kept, before any that of the tenant's
users. What was believed until now, a Beta's mean and strength, is carried along; what the user said last of a facet
stays what the user said.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

IS_TENANT = "tenant_id = current_setting('app.tenant_id', true)"
MOMENT = sa.DateTime(timezone=True)

# A strength n is that of n - 2 remarks of 0.1, whose precision is 6 each, beside the prior's 12. The variance of the
# Beta itself, which is smaller at the edges, would let nobody change their mind any more.
_UPGRADE = """
UPDATE users SET facets = (
    SELECT coalesce(jsonb_object_agg(name, jsonb_build_object(
        'mean', v,
        'variance', variance,
        'evidence', CASE WHEN told_at IS NULL THEN greatest(1, round(n - 2)) ELSE 0 END::int,
        'evidence_at', CASE WHEN told_at IS NULL THEN users.updated_at END,
        'updated_at', users.updated_at,
        'start', CASE WHEN told_at IS NULL THEN '[0.5, 0.08333333333333333]' ELSE jsonb_build_array(v, variance) END,
        'told_at', told_at,
        'is_pinned', false,
        'carried', CASE WHEN told_at IS NULL THEN jsonb_build_object(
            'mean', v, 'variance', variance, 'evidence', greatest(1, round(n - 2))::int, 'at', users.updated_at
        ) END
    )), '{}'::jsonb)
    FROM jsonb_each(users.facets) AS held(name, body),
    LATERAL (SELECT (body ->> 'value')::float8 AS v, (body ->> 'strength')::float8 AS n) AS beta,
    LATERAL (SELECT 1 / (6 * greatest(n, 2)) AS variance) AS spread,
    LATERAL (SELECT (
        SELECT CASE WHEN reason = 'correction' THEN changed_at END FROM facet_changes AS c
        WHERE c.tenant_id = users.tenant_id AND c.user_id = users.user_id AND c.facet = name
        ORDER BY version DESC LIMIT 1
    ) AS told_at) AS said
    WHERE NOT (v = 0.5 AND n <= 2) OR told_at IS NOT NULL
)
WHERE facets <> '{}'::jsonb
"""

# The strength whose variance it is; between 2, that of no evidence, and the ceiling there was.
_DOWNGRADE = """
UPDATE users SET facets = (
    SELECT jsonb_object_agg(name, jsonb_build_object(
        'value', v, 'strength', least(60, greatest(2, 1 / (6 * variance)))
    ))
    FROM jsonb_each(users.facets) AS held(name, body),
    LATERAL (
        SELECT least(1, greatest(0, (body ->> 'mean')::float8)) AS v, (body ->> 'variance')::float8 AS variance
    ) AS belief
)
WHERE facets <> '{}'::jsonb
"""


def upgrade() -> None:
    """Create both tables, closed like the others, and carry the beliefs along."""
    op.create_table(
        "facet_evidence",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("evidence_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("evidence", JSONB(), nullable=False),
        sa.Column("signal_id", sa.Uuid(), nullable=True),
        sa.Column("observed_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.user_id"], name=op.f("fk_facet_evidence_users")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "evidence_id", name=op.f("pk_facet_evidence")),
    )
    op.create_index("ix_facet_evidence_user", "facet_evidence", ["tenant_id", "user_id", "observed_at"])
    op.create_table(
        "facet_priors",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("facets", ARRAY(sa.Text()), nullable=False),
        sa.Column("mean", ARRAY(sa.Float()), nullable=False),
        sa.Column("covariance", JSONB(), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("fitted_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=op.f("fk_facet_priors_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_facet_priors")),
    )
    for table in ("facet_evidence", "facet_priors"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} USING ({IS_TENANT}) WITH CHECK ({IS_TENANT})")
    _of_every_tenant(_UPGRADE)


def downgrade() -> None:
    """Beliefs as a mean and a strength again; the evidence behind them is lost."""
    _of_every_tenant(_DOWNGRADE)
    op.drop_table("facet_priors")
    op.drop_table("facet_evidence")


def _of_every_tenant(statement: str) -> None:
    for table in ("users", "facet_changes"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(statement)
    for table in ("users", "facet_changes"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
