"""The job queue: the library's tables as its version 3.10 makes them, the last error of failed jobs.

`0006_jobs.sql` is `procrastinate/sql/schema.sql` of that version, to the letter: a release of the library with another
schema is another revision.

Revision ID: 0006
Revises: 0005
"""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = Path(__file__).with_suffix(".sql")
IS_QUEUE = "current_setting('app.purpose', true) = 'jobs'"
IS_OWN = f"{IS_QUEUE} OR args ->> 'tenant_id' = current_setting('app.tenant_id', true)"
POLICIES = {
    # A tenant's transaction adds, sees and ends its own jobs; the queue's sees all of them, and no other table's rows.
    "procrastinate_jobs": f"USING ({IS_OWN}) WITH CHECK ({IS_OWN})",
    "procrastinate_workers": f"USING ({IS_QUEUE}) WITH CHECK ({IS_QUEUE})",
    # Written by triggers in the transaction of whoever adds or ends a job; numbers and moments.
    "procrastinate_events": f"USING ({IS_QUEUE}) WITH CHECK (true)",
    "procrastinate_periodic_defers": "USING (true) WITH CHECK (true)",
    "job_failures": f"USING ({IS_QUEUE}) WITH CHECK ({IS_QUEUE})",
}


def statements(script: str) -> list[str]:
    """The statements of a script: a semicolon at the end of a line ends one, but not inside $$."""
    found: list[str] = []
    begun = ""
    for part in re.split(r"(?<=;)\n", re.sub(r"^\s*--.*\n", "", script, flags=re.MULTILINE)):
        begun += f"{part}\n"
        if begun.count("$$") % 2 == 0:
            found.append(begun.strip())
            begun = ""
    return [statement for statement in found if statement]


def upgrade() -> None:
    """Create the queue, closed by row-level security like every table."""
    for statement in statements(SCHEMA.read_text("utf8")):
        op.execute(sa.text(statement.replace("\\", "\\\\")))
    op.create_index(
        "ix_procrastinate_jobs_lane",
        "procrastinate_jobs",
        ["lock", "id"],
        postgresql_where=sa.text("status IN ('todo', 'doing') AND lock IS NOT NULL"),
    )
    op.create_index("ix_procrastinate_jobs_status", "procrastinate_jobs", ["status", "task_name"])
    op.create_table(
        "job_failures",
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["procrastinate_jobs.id"], name=op.f("fk_job_failures_procrastinate_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_failures")),
    )
    for table, policy in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY jobs ON {table} {policy}")
    op.execute(f"CREATE POLICY jobs ON tenants FOR SELECT USING ({IS_QUEUE})")
    op.create_index(
        "ix_memories_expiry",
        "memories",
        ["tenant_id", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL AND version_of IS NULL"),
    )


def downgrade() -> None:
    """Drop the queue with the jobs that wait in it."""
    op.drop_index("ix_memories_expiry", table_name="memories")
    op.execute("DROP POLICY jobs ON tenants")
    for table in reversed(POLICIES):
        op.execute(f"DROP TABLE {table} CASCADE")
    script = SCHEMA.read_text("utf8")
    for name in re.findall(r"CREATE FUNCTION (\w+)", script):
        op.execute(f"DROP FUNCTION IF EXISTS {name} CASCADE")
    for name in re.findall(r"CREATE TYPE (\w+)", script):
        op.execute(f"DROP TYPE {name} CASCADE")
