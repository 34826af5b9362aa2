"""Queries about background jobs, beside those of `procrastinate` itself (see `docs/decisions/0024-job-queue.md`).

Whatever ends a job names the worker that runs it: a worker that was given up finds that the job is not its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.jobs import JobState, JobView
from app.store.engine import Statements

_STATES: Mapping[JobState, str] = {"waiting": "todo", "running": "doing", "dead": "failed"}
_NAMES: Mapping[str, JobState] = {status: state for state, status in _STATES.items()}

_WAKE = 'pg_notify(\'procrastinate_queue_v1#\' || {queue}, \'{{"type": "job_inserted", "job_id": 0}}\')'

_ADD = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT kind, kind, priority, lane, key, args::jsonb, run_at
FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
     WITH ORDINALITY AS given(kind, priority, lane, key, args, run_at, place)
ORDER BY place
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
RETURNING id
"""

_MINE = "id = $1 AND worker_id = $2 AND status = 'doing'"

# The next of its lane waited for this one, and may be of another kind.
_WAKE_LANE = f"""
SELECT gone.id, (
    SELECT {_WAKE.format(queue="next.queue_name")}
    FROM (
        SELECT queue_name FROM procrastinate_jobs
        WHERE lock = gone.lock AND status = 'todo' AND id <> gone.id ORDER BY priority DESC, id LIMIT 1
    ) AS next
)
FROM gone
"""
_END = f"WITH gone AS (DELETE FROM procrastinate_jobs WHERE {_MINE} RETURNING id, lock) {_WAKE_LANE}"
_BURY = f"""
WITH gone AS (
    UPDATE procrastinate_jobs SET status = 'failed', attempts = attempts + 1, worker_id = NULL WHERE {_MINE}
    RETURNING id, lock
) {_WAKE_LANE}
"""
_RETRY = f"""
UPDATE procrastinate_jobs
SET status = 'todo', attempts = attempts + 1, worker_id = NULL, scheduled_at = now() + make_interval(secs => $3)
WHERE {_MINE} RETURNING id
"""
_GIVE_BACK = f"""
UPDATE procrastinate_jobs SET status = 'todo', worker_id = NULL, scheduled_at = NULL WHERE {_MINE}
RETURNING id, {_WAKE.format(queue="queue_name")}
"""
# One job of a key may wait. The one that was tried already comes before the one that was added meanwhile.
_DROP_TWINS = """
DELETE FROM procrastinate_jobs AS twin USING procrastinate_jobs AS job
WHERE job.id = ANY($1::bigint[]) AND ($2::bigint IS NULL OR job.worker_id = $2 AND job.status = 'doing')
  AND twin.queueing_lock = job.queueing_lock AND twin.status = 'todo' AND twin.id <> job.id
RETURNING twin.id
"""
_NOTE_FAILURES = """
INSERT INTO job_failures (job_id, error) SELECT id, $2 FROM unnest($1::bigint[]) AS id
ON CONFLICT (job_id) DO UPDATE SET error = excluded.error, failed_at = now()
"""

_GIVE_UP_WORKERS = "DELETE FROM procrastinate_workers WHERE last_heartbeat < now() - make_interval(secs => $1)"
_ORPHANS = """
SELECT id, task_name FROM procrastinate_jobs
WHERE status = 'doing' AND worker_id IS NULL AND task_name = ANY($1::text[])
ORDER BY id FOR UPDATE SKIP LOCKED
"""
_ADOPT = f"""
WITH adopted AS (
    UPDATE procrastinate_jobs AS job
    SET attempts = attempts + 1, scheduled_at = NULL,
        status = (CASE WHEN attempts + 1 >= given.attempts_allowed THEN 'failed' ELSE 'todo' END)
                 ::procrastinate_job_status
    FROM unnest($1::bigint[], $2::int[]) AS given(id, attempts_allowed)
    WHERE job.id = given.id
    RETURNING job.id, job.task_name, job.status, job.queue_name
)
SELECT id, task_name, status::text = 'failed' AS is_dead, {_WAKE.format(queue="queue_name")} FROM adopted ORDER BY id
"""

_FIND = """
SELECT job.id, job.task_name, job.status::text AS status, job.args, job.lock, job.queueing_lock, job.attempts,
       job.scheduled_at, failure.error, failure.failed_at
FROM procrastinate_jobs AS job LEFT JOIN job_failures AS failure ON failure.job_id = job.id
WHERE job.status::text = ANY($1::text[]) AND ($2::text IS NULL OR job.task_name = $2)
  AND ($3::text IS NULL OR job.args ->> 'tenant_id' = $3)
ORDER BY job.id LIMIT $4
"""
_DEAD = """
SELECT id FROM procrastinate_jobs
WHERE status = 'failed' AND ($1::bigint[] IS NULL OR id = ANY($1)) ORDER BY id FOR UPDATE
"""
_PUT_BACK = f"""
UPDATE procrastinate_jobs SET status = 'todo', attempts = 0, scheduled_at = NULL WHERE id = $1
RETURNING id, {_WAKE.format(queue="queue_name")}
"""
_STATE = "SELECT status::text AS status FROM procrastinate_jobs WHERE id = $1"
_COUNTS = """
SELECT task_name, status::text AS status, count(*)::int AS jobs FROM procrastinate_jobs
WHERE status IN ('todo', 'doing', 'failed') GROUP BY task_name, status
"""


@dataclass(frozen=True)
class NewJob:
    """A job to be added. Of one `key` one job waits at most; jobs of one `lane` run one after the other."""

    kind: str
    payload: str
    """JSON."""
    lane: str | None = None
    key: str | None = None
    run_at: datetime | None = None
    priority: int = 0


@dataclass(frozen=True)
class Orphan:
    """A job whose worker was lost: it waits again, or it is dead because it was tried often enough."""

    job_id: int
    kind: str
    is_dead: bool


class JobStore:
    """What is asked and written about jobs. All but `add` and `end` want `Database.transact_jobs`."""

    async def add(self, statements: Statements, jobs: Sequence[NewJob]) -> list[int]:
        """Write jobs, in order, with the caller's transaction; the ids of those that were added. One whose key is
        waiting already is not, nor does it disturb the transaction."""
        columns = zip(
            *((job.kind, job.priority, job.lane, job.key, job.payload, job.run_at) for job in jobs), strict=True
        )
        return (
            [row["id"] for row in await statements.fetch(_ADD, *(list(column) for column in columns))] if jobs else []
        )

    async def end(self, statements: Statements, job_id: int, worker_id: int) -> bool:
        """Take a job away that is done; False when it is not this worker's any more."""
        return bool(await statements.fetch(_END, job_id, worker_id))

    async def bury(self, statements: Statements, job_id: int, worker_id: int, error: str) -> bool:
        """Let a job rest that failed for good; False as `end`."""
        if not await statements.fetch(_BURY, job_id, worker_id):
            return False
        await statements.fetch(_NOTE_FAILURES, [job_id], error)
        return True

    async def retry(self, statements: Statements, job_id: int, worker_id: int, wait_s: float, error: str) -> bool:
        """Let a job that failed wait for its next try; False as `end`."""
        await statements.fetch(_DROP_TWINS, [job_id], worker_id)
        if not await statements.fetch(_RETRY, job_id, worker_id, wait_s):
            return False
        await statements.fetch(_NOTE_FAILURES, [job_id], error)
        return True

    async def give_back(self, statements: Statements, job_id: int, worker_id: int) -> bool:
        """Let a job wait again as if it had not been begun; False as `end`."""
        await statements.fetch(_DROP_TWINS, [job_id], worker_id)
        return bool(await statements.fetch(_GIVE_BACK, job_id, worker_id))

    async def take_over(
        self, statements: Statements, stale_s: float, attempts: Mapping[str, int], error: str
    ) -> list[Orphan]:
        """Give up the workers that said nothing for `stale_s` and let their jobs wait again; `attempts` by kind, of
        which each lost worker cost one."""
        await statements.fetch(_GIVE_UP_WORKERS, stale_s)
        found = await statements.fetch(_ORPHANS, list(attempts))
        if not found:
            return []
        ids = [row["id"] for row in found]
        await statements.fetch(_DROP_TWINS, ids, None)
        rows = await statements.fetch(_ADOPT, ids, [attempts[row["task_name"]] for row in found])
        await statements.fetch(_NOTE_FAILURES, ids, error)
        return [Orphan(row["id"], row["task_name"], row["is_dead"]) for row in rows]

    async def find(
        self,
        statements: Statements,
        *,
        states: Sequence[JobState] = ("waiting", "running", "dead"),
        kind: str | None = None,
        tenant_id: str | None = None,
        limit: int = 100,
    ) -> list[JobView]:
        """Jobs in the order in which they were added."""
        rows = await statements.fetch(_FIND, [_STATES[state] for state in states], kind, tenant_id, limit)
        return [_view(row) for row in rows]

    async def put_back(self, statements: Statements, job_ids: Sequence[int] | None) -> list[int]:
        """Let dead jobs (all of them for None) wait again, with all their tries; the ids of those that were dead."""
        back: list[int] = []
        for row in await statements.fetch(_DEAD, _ids(job_ids)):
            # Of several dead jobs of one key the last one stays: it sends the one before away.
            gone = await statements.fetch(_DROP_TWINS, [row["id"]], None)
            back = [job_id for job_id in back if job_id not in {twin["id"] for twin in gone}]
            back += [put["id"] for put in await statements.fetch(_PUT_BACK, row["id"])]
        return back

    async def drop(self, statements: Statements, job_ids: Sequence[int] | None) -> list[int]:
        """Delete dead jobs (all of them for None); the ids of those that were dead."""
        found = [row["id"] for row in await statements.fetch(_DEAD, _ids(job_ids))]
        await statements.fetch("DELETE FROM procrastinate_jobs WHERE id = ANY($1::bigint[])", found)
        return found

    async def state(self, statements: Statements, job_id: int) -> JobState | None:
        """How a job stands; None where there is none of that number."""
        rows = await statements.fetch(_STATE, job_id)
        return _NAMES[rows[0]["status"]] if rows else None

    async def counts(self, statements: Statements) -> dict[tuple[str, JobState], int]:
        """Jobs by kind and state."""
        return {(row["task_name"], _NAMES[row["status"]]): row["jobs"] for row in await statements.fetch(_COUNTS)}


def _ids(job_ids: Sequence[int] | None) -> list[int] | None:
    return None if job_ids is None else list(job_ids)


def _view(row: Any) -> JobView:
    return JobView(
        job_id=row["id"],
        kind=row["task_name"],
        state=_NAMES[row["status"]],
        payload=row["args"],
        lane=row["lock"],
        key=row["queueing_lock"],
        attempts=row["attempts"],
        run_at=row["scheduled_at"],
        error=row["error"],
        failed_at=row["failed_at"],
    )
