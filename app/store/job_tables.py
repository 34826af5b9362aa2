"""The tables of the job queue: `procrastinate`'s own, as `migrations/versions/0006_jobs.sql` makes them, and the last
errors of failed jobs. Declared for Alembic, which compares them with the database; `app.store.jobs` asks in SQL.

Their rows hold ids and names of job kinds, never a text of a user.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ENUM, JSONB

Moment = DateTime(timezone=True)
_STATES = ("todo", "doing", "succeeded", "failed", "cancelled", "aborting", "aborted")
_EVENTS = (
    "deferred",
    "started",
    "deferred_for_retry",
    "failed",
    "succeeded",
    "cancelled",
    "abort_requested",
    "aborted",
    "scheduled",
    "retried",
)


def declare_job_tables(metadata: MetaData) -> None:
    """Add the tables to `metadata`."""
    Table(
        "procrastinate_workers",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("last_heartbeat", Moment, nullable=False, server_default=text("now()")),
        Index("idx_procrastinate_workers_last_heartbeat", "last_heartbeat"),
    )
    Table(
        "procrastinate_jobs",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("queue_name", String(128), nullable=False),
        Column("task_name", String(128), nullable=False),
        Column("priority", Integer, nullable=False, server_default=text("0")),
        Column("lock", Text),
        Column("queueing_lock", Text),
        Column("args", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
        Column[Any](
            "status",
            ENUM(*_STATES, name="procrastinate_job_status", create_type=False),
            nullable=False,
            server_default=text("'todo'::procrastinate_job_status"),
        ),
        Column("scheduled_at", Moment),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("abort_requested", Boolean, nullable=False, server_default=text("false")),
        Column("worker_id", BigInteger),
        CheckConstraint("NOT (status = 'todo' AND abort_requested = true)", name="check_not_todo_abort_requested"),
        ForeignKeyConstraint(["worker_id"], ["procrastinate_workers.id"], ondelete="SET NULL"),
        Index(
            "procrastinate_jobs_queueing_lock_idx_v1",
            "queueing_lock",
            unique=True,
            postgresql_where=text("status = 'todo'"),
        ),
        Index("procrastinate_jobs_lock_idx_v1", "lock", unique=True, postgresql_where=text("status = 'doing'")),
        Index(
            "idx_procrastinate_jobs_worker_not_null",
            "worker_id",
            postgresql_where=text("worker_id IS NOT NULL AND status = 'doing'"),
        ),
        Index("procrastinate_jobs_queue_name_idx_v1", "queue_name"),
        Index("procrastinate_jobs_id_lock_idx_v1", "id", "lock", postgresql_where=text("status IN ('todo', 'doing')")),
        Index(
            "procrastinate_jobs_priority_idx_v1", text("priority DESC"), "id", postgresql_where=text("status = 'todo'")
        ),
        Index(
            "ix_procrastinate_jobs_lane",
            "lock",
            "id",
            postgresql_where=text("status IN ('todo', 'doing') AND lock IS NOT NULL"),
        ),
        Index("ix_procrastinate_jobs_status", "status", "task_name"),
    )
    Table(
        "procrastinate_periodic_defers",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("task_name", String(128), nullable=False),
        Column("defer_timestamp", BigInteger),
        Column("job_id", BigInteger),
        Column("periodic_id", String(128), nullable=False, server_default=text("''::character varying")),
        ForeignKeyConstraint(["job_id"], ["procrastinate_jobs.id"]),
        UniqueConstraint("task_name", "periodic_id", "defer_timestamp", name="procrastinate_periodic_defers_unique"),
        Index("procrastinate_periodic_defers_job_id_fkey_v1", "job_id"),
    )
    Table(
        "procrastinate_events",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("job_id", BigInteger, nullable=False),
        Column[Any]("type", ENUM(*_EVENTS, name="procrastinate_job_event_type", create_type=False)),
        Column("at", Moment, server_default=text("now()")),
        ForeignKeyConstraint(["job_id"], ["procrastinate_jobs.id"], ondelete="CASCADE"),
        Index("procrastinate_events_job_id_fkey_v1", "job_id"),
    )
    Table(
        "job_failures",
        metadata,
        Column("job_id", BigInteger, primary_key=True, autoincrement=False),
        Column("error", Text, nullable=False),
        Column("failed_at", Moment, nullable=False, server_default=text("now()")),
        ForeignKeyConstraint(["job_id"], ["procrastinate_jobs.id"], ondelete="CASCADE"),
    )
