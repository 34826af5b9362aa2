"""A worker process for the tests: `python -m tests.e2e.job_worker`, with the service's settings in the environment.

Each run of a job notes its beginning and its end at once; its effect is kept with the job's end.
"""

import asyncio
import os
import random
import signal
from typing import Any

from sqlalchemy import text

from app.domain.jobs import JobKind
from app.logs import configure_logs
from app.services.jobs.run import JobHandler, JobRun
from app.services.jobs.worker import Pulse, Worker
from app.settings import load_settings
from app.store.engine import Database, open_database
from app.store.jobs import JobStore
from tests.jobs import USER, Numbered, write_effect

STEADY: JobKind[Numbered] = JobKind("test-steady", Numbered, attempts=30, first_wait_s=0.1, longest_wait_s=1.0)
DOOMED: JobKind[Numbered] = JobKind("test-doomed", Numbered, attempts=3, first_wait_s=0.1)
PULSE = Pulse(beat_s=0.5, lost_s=3.0, stale_s=6.0, poll_s=0.2, stop_s=5.0)
MENDED = "JOBS_ARE_MENDED"


def note(kind: str) -> Any:
    """The statement that notes a beginning or an end."""
    return text(
        "INSERT INTO signals (tenant_id, signal_id, user_id, kind, body, created_at) VALUES (:tenant, "
        f"gen_random_uuid(), '{USER}', '{kind}', jsonb_build_object('number', CAST(:number AS int), "
        "'pid', CAST(:pid AS int), 'run', CAST(:run AS text)), clock_timestamp())"
    )


async def main() -> None:
    settings = load_settings()
    configure_logs(settings.log_dir)
    database = await open_database(settings, revision=None)

    async def steady(payload: Numbered, run: JobRun) -> None:
        of_this_run = {
            "tenant": payload.tenant_id,
            "number": payload.number,
            "pid": os.getpid(),
            "run": f"{os.getpid()}-{random.getrandbits(64)}",
        }
        await write(database, payload.tenant_id, "begin", of_this_run)
        await asyncio.sleep(random.uniform(0.02, 0.1))
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)
            await asyncio.sleep(random.uniform(0.0, 0.05))
            await connection.execute(note("end"), of_this_run)

    async def doomed(payload: Numbered, run: JobRun) -> None:
        if MENDED not in os.environ:
            raise LookupError("what Ada said")
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)

    handlers = [JobHandler(STEADY, steady), JobHandler(DOOMED, doomed)]
    worker = Worker(database, JobStore(), handlers, concurrency=4, pulse=PULSE)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()
    await database.aclose()


async def write(database: Database, tenant: str, kind: str, values: dict[str, Any]) -> None:
    """A note that is kept whatever becomes of the job."""
    async with database.begin(tenant) as connection:
        await connection.execute(note(kind), values)


if __name__ == "__main__":
    asyncio.run(main())
