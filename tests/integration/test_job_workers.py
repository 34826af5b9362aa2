"""Workers that die, stand still, are stopped or lose the database: no job is lost, and none is done twice."""

import asyncio

import pytest

from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobHandler, JobRun
from app.services.jobs.worker import Pulse
from app.store.engine import Database, migrate, prepare_database
from app.store.jobs import JobStore
from tests.jobs import (
    Numbered,
    are_done,
    create_user,
    effects,
    is_empty,
    keep_effect,
    kind_of_its_own,
    numbers,
    queue_of,
    until,
    working,
    write_effect,
)
from tests.servers import TcpServer

STANDING_STILL = Pulse(beat_s=60.0, lost_s=60.0, stale_s=120.0, poll_s=0.1, stop_s=0.3)


@pytest.fixture
async def tenant(tenant: str, database: Database) -> str:
    """A tenant of this test's own, with a user."""
    await create_user(database, tenant)
    return tenant


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return queue_of(database)


async def test_a_worker_that_was_given_up_keeps_nothing(database: Database, queue: JobQueue, tenant: str) -> None:
    """The worker stands still in the middle of a job, another one begins the job anew, the first goes on and comes to
    its end before: nothing of what it did is kept, and the second is not disturbed."""
    kind = kind_of_its_own()
    began, began_anew, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    async def first(payload: Numbered, run: JobRun) -> None:
        try:
            async with run.begin(payload.tenant_id) as connection:
                await write_effect(connection, payload, "first")
                began.set()
                await began_anew.wait()
        except BaseException as error:
            ends.append(type(error).__name__)
            raise
        finally:
            ended.set()

    async def second(payload: Numbered, run: JobRun) -> None:
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload, "second")
            began_anew.set()
            await ended.wait()

    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1)))
    async with working(database, JobHandler(kind, first), pulse=STANDING_STILL):
        await began.wait()
        async with database.transact_jobs() as statements:
            orphans = await JobStore().take_over(statements, -1.0, {kind.name: 3}, "WorkerLost")
        assert [orphan.kind for orphan in orphans] == [kind.name]
        async with working(database, JobHandler(kind, second)):
            await until(lambda: is_empty(queue, kind.name))
    assert ends == ["JobLost"]
    assert [effect["worker"] for effect in await effects(database, tenant)] == ["second"]


async def test_a_worker_that_was_given_up_lets_go_and_comes_back(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    """Its heartbeat finds that it is gone: it ends what it runs, and begins that anew under a new name."""
    kind = kind_of_its_own()
    began = asyncio.Event()
    runs: list[tuple[int, int]] = []

    async def handle(payload: Numbered, run: JobRun) -> None:
        runs.append((run.attempt, run.worker_id))
        began.set()
        await asyncio.sleep(3600 if run.attempt == 1 else 0)

    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1)))
    async with working(database, JobHandler(kind, handle)):
        await began.wait()
        async with database.transact_jobs() as statements:
            await statements.fetch("DELETE FROM procrastinate_workers WHERE id = $1", runs[0][1])
        await until(lambda: is_empty(queue, kind.name))
    assert [attempt for attempt, _ in runs] == [1, 2]
    assert runs[0][1] != runs[1][1]


async def test_a_job_that_ends_its_workers_is_dead_at_last(database: Database, queue: JobQueue, tenant: str) -> None:
    """Each worker that is lost with a job costs it a try."""
    kind = kind_of_its_own(attempts=2)
    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1), key="k"))
    states: list[tuple[str, int]] = []
    for _ in range(2):
        async with database.transact_jobs() as statements:
            (worker,) = await statements.fetch("SELECT procrastinate_register_worker_v1() AS id")
            await statements.fetch(
                "SELECT procrastinate_fetch_job_v2($1::text[]::varchar[], $2)", [kind.name], worker["id"]
            )
            # Asked for again while it ran: of its key one waits, and it is the one that was tried.
            await queue.add(statements, new_job(kind, Numbered(tenant_id=tenant, number=2), key="k"))
            await JobStore().take_over(statements, -1.0, {kind.name: 2}, "WorkerLost")
        states += [(job.state, job.attempts) for job in await queue.find(kind=kind.name)]
    assert states == [("waiting", 1), ("dead", 2)]


async def test_a_worker_that_is_stopped_gives_its_jobs_back(database: Database, queue: JobQueue, tenant: str) -> None:
    """Nothing of the job is kept, and it has all its tries."""
    kind = kind_of_its_own()
    began = asyncio.Event()

    async def handle(payload: Numbered, run: JobRun) -> None:
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)
            began.set()
            await asyncio.sleep(3600)

    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1)))
    async with working(database, JobHandler(kind, handle)):
        await began.wait()
    (job,) = await queue.find(kind=kind.name)
    assert (job.state, job.attempts) == ("waiting", 0)
    assert await numbers(database, tenant) == []


async def test_a_worker_comes_back_after_its_connections_were_cut(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    kind = kind_of_its_own(attempts=20)

    async def handle(payload: Numbered, run: JobRun) -> None:
        await asyncio.sleep(0.02)
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)

    async with database.begin(tenant) as connection:
        await queue.add(connection, *(new_job(kind, Numbered(tenant_id=tenant, number=number)) for number in range(60)))
    async with working(database, JobHandler(kind, handle), concurrency=2):
        for done in (5, 20):
            await until(lambda least=done: are_done(database, tenant, least))
            async with database.transact_jobs() as statements:
                await statements.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'embed-service%' AND pid <> pg_backend_pid()"
                )
        await until(lambda: is_empty(queue, kind.name))
    assert sorted(await numbers(database, tenant)) == list(range(60))


@pytest.mark.parametrize("login", ["ordinary", "postgres"])
async def test_a_worker_on_an_outside_database(tcp_server: TcpServer, tenant: str, login: str) -> None:
    """Over TCP, with a password: as the role that owns it, and as a superuser who works as the powerless role."""
    await tcp_server.execute("postgres", f"CREATE DATABASE jobs_{login} OWNER {login}")
    await tcp_server.execute(f"jobs_{login}", "CREATE EXTENSION vector")
    outside = Database(await prepare_database(tcp_server.url(login, f"jobs_{login}")), pool_size=3)
    await migrate(outside)
    await create_user(outside, tenant)
    kind = kind_of_its_own()

    async with outside.begin(tenant) as connection:
        added = [new_job(kind, Numbered(tenant_id=tenant, number=number)) for number in range(3)]
        await queue_of(outside).add(connection, *added)
    async with working(outside, JobHandler(kind, keep_effect)):
        await until(lambda: is_empty(queue_of(outside), kind.name))
    assert await numbers(outside, tenant) == [0, 1, 2]
    await outside.aclose()
    await tcp_server.execute("postgres", f"DROP DATABASE jobs_{login} WITH (FORCE)")
