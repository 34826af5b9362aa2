"""Background jobs on the real database: added with what they belong to, done once at a time, never lost."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.errors import InvalidInput
from app.domain.jobs import JobPayload
from app.domain.memory import Draft, MemoryType
from app.ports import SystemClock
from app.services.jobs.expiry import EXPIRY, ExpiryService
from app.services.jobs.graphs import GRAPH
from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobHandler, JobRun
from app.settings import Settings
from app.store.engine import MIGRATIONS, Database
from app.store.expiry import ExpiryStore
from app.store.ingests import IngestStore
from app.store.quarantine import QuarantineStore
from app.store.recalls import RecallStore
from app.wiring_jobs import job_handlers
from tests.jobs import (
    PATIENCE_S,
    USER,
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


@pytest.fixture
async def tenant(tenant: str, database: Database) -> str:
    """A tenant of this test's own, with a user."""
    await create_user(database, tenant)
    return tenant


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return queue_of(database)


@pytest.fixture
async def elsewhere(tenant: str, database: Database) -> str:
    """A second tenant."""
    await create_user(database, f"{tenant}-2")
    return f"{tenant}-2"


async def test_a_job_is_added_with_the_transaction_or_not_at_all(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    kind = kind_of_its_own()

    async def add_and_fail() -> None:
        async with database.begin(tenant) as connection:
            await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1)))
            raise LookupError

    with pytest.raises(LookupError):
        await add_and_fail()
    assert await queue.find(kind=kind.name) == []
    async with database.transact(tenant) as statements:
        added = await queue.add(statements, new_job(kind, Numbered(tenant_id=tenant, number=2)))
    assert [(job.job_id, job.payload["number"]) for job in await queue.find(kind=kind.name)] == [(added[0], 2)]


async def test_of_one_key_one_job_waits_and_the_transaction_goes_on(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    kind = kind_of_its_own()
    async with database.begin(tenant) as connection:
        for number in (1, 2):
            payload = Numbered(tenant_id=tenant, number=number)
            added = await queue.add(connection, new_job(kind, payload, key="same"))
            assert bool(added) is (number == 1)
            await write_effect(connection, payload)
    assert await numbers(database, tenant) == [1, 2]
    assert [job.payload["number"] for job in await queue.find(kind=kind.name)] == [1]


async def test_what_is_urgent_comes_first_and_what_is_put_off_waits(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    kind = kind_of_its_own()

    later = datetime.now(UTC) + timedelta(hours=1)
    first, urgent, put_off = (Numbered(tenant_id=tenant, number=number) for number in range(3))
    async with database.begin(tenant) as connection:
        await queue.add(
            connection, new_job(kind, first), new_job(kind, urgent, priority=1), new_job(kind, put_off, run_at=later)
        )
    async with working(database, JobHandler(kind, keep_effect)):
        await until(lambda: are_done(database, tenant, 2))
    assert await numbers(database, tenant) == [1, 0]
    assert [job.run_at for job in await queue.find(kind=kind.name)] == [later]


async def test_a_tenant_sees_and_adds_only_its_own_jobs(
    database: Database, queue: JobQueue, tenant: str, elsewhere: str
) -> None:
    kind = kind_of_its_own()
    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=1)))
    async with database.begin(elsewhere) as connection:
        for table in ("procrastinate_jobs", "procrastinate_events", "procrastinate_workers", "job_failures"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0
    with pytest.raises(Exception, match="row-level security"):
        async with database.begin(elsewhere) as connection:
            await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=2)))
    async with database.transact_jobs() as statements:
        assert await statements.fetch("SELECT 1 FROM signals") == []
        assert await statements.fetch("DELETE FROM tenants RETURNING 1") == []


async def test_a_users_jobs_go_with_the_user(
    database: Database, services: Services, queue: JobQueue, tenant: str
) -> None:
    class AboutUser(JobPayload):
        user_id: str

    kind = kind_of_its_own(AboutUser)
    async with database.begin(tenant) as connection:
        jobs = [new_job(kind, AboutUser(tenant_id=tenant, user_id=user_id)) for user_id in (USER, "somebody else")]
        await queue.add(connection, *jobs)
    await services.transfer.erase(tenant, USER)
    assert [job.payload["user_id"] for job in await queue.find(kind=kind.name)] == ["somebody else"]


def test_a_payload_is_ids() -> None:
    class Texted(JobPayload):
        text: str

    with pytest.raises(InvalidInput):
        new_job(kind_of_its_own(Texted), Texted(tenant_id="any", text="x" * 5000))


async def test_what_a_job_does_and_its_end_are_one(database: Database, queue: JobQueue, tenant: str) -> None:
    """A hundred jobs, four at a time in each of two workers: each has its effect once, and none is left."""
    kind = kind_of_its_own()

    async with database.begin(tenant) as connection:
        await queue.add(
            connection, *(new_job(kind, Numbered(tenant_id=tenant, number=number)) for number in range(100))
        )
    handler = JobHandler(kind, keep_effect)
    async with working(database, handler, concurrency=4), working(database, handler, concurrency=4):
        await until(lambda: is_empty(queue, kind.name))
    assert sorted(await numbers(database, tenant)) == list(range(100))


async def test_a_job_that_fails_is_tried_again_then_rests_until_it_is_put_back(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    kind = kind_of_its_own()
    attempts: list[int] = []
    is_mended = False

    async def handle(payload: Numbered, run: JobRun) -> None:
        attempts.append(run.attempt)
        if not is_mended:
            raise LookupError("what Ada said")
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)

    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, Numbered(tenant_id=tenant, number=7)))
    async with working(database, JobHandler(kind, handle)):
        await until(lambda: is_empty(queue, kind.name))
        (dead,) = await queue.find(kind=kind.name)
        assert (dead.state, dead.attempts, attempts) == ("dead", 3, [1, 2, 3])
        assert dead.error is not None
        assert dead.error.startswith("LookupError at test_jobs.py:")
        is_mended = True
        assert await queue.put_back([dead.job_id]) == [dead.job_id]
        assert await queue.put_back([dead.job_id]) == []
        await until(lambda: is_empty(queue, kind.name))
    assert await numbers(database, tenant) == [7]
    assert await queue.find(kind=kind.name) == []


async def test_a_payload_that_cannot_be_read_is_not_tried_again(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    old, kind = kind_of_its_own(), kind_of_its_own(JobPayload)
    kind = type(kind)(old.name, JobPayload)

    async def handle(payload: JobPayload, run: JobRun) -> None:
        raise AssertionError

    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(old, Numbered(tenant_id=tenant, number=1)))
    async with working(database, JobHandler(kind, handle)):
        await until(lambda: is_empty(queue, kind.name))
    (dead,) = await queue.find(kind=kind.name)
    assert (dead.attempts, (dead.error or "").split()[0]) == (1, "ValidationError")
    assert await queue.drop(None) != []
    assert await queue.find(kind=kind.name) == []


async def test_a_lane_keeps_its_order_also_when_one_of_it_fails(
    database: Database, queue: JobQueue, tenant: str
) -> None:
    """Three lanes over two workers: in each lane one at a time, in the order of adding; a failure holds up its own
    lane only, and one that is dead lets the others by."""
    kind = kind_of_its_own(attempts=2)
    running: dict[int, int] = {}
    failed: set[int] = set()

    async def handle(payload: Numbered, run: JobRun) -> None:
        assert payload.lane not in running
        running[payload.lane] = payload.number
        await asyncio.sleep(0.01)
        if payload.number == 4 or (payload.number % 5 == 1 and payload.number not in failed):
            failed.add(payload.number)
            del running[payload.lane]
            raise LookupError
        async with run.begin(payload.tenant_id) as connection:
            await write_effect(connection, payload)
            # With this transaction the job is done: the next of its lane may begin before anything behind it.
            del running[payload.lane]

    async with database.begin(tenant) as connection:
        for number in range(30):
            payload = Numbered(tenant_id=tenant, number=number, lane=number % 3)
            await queue.add(connection, new_job(kind, payload, lane=str(payload.lane)))
    handler = JobHandler(kind, handle)
    async with working(database, handler, concurrency=3), working(database, handler, concurrency=3):
        await until(lambda: is_empty(queue, kind.name))
    done = await effects(database, tenant)
    for lane in range(3):
        wanted = [number for number in range(lane, 30, 3) if number != 4]
        assert [effect["number"] for effect in done if effect["lane"] == lane] == wanted
    assert [job.payload["number"] for job in await queue.find(kind=kind.name)] == [4]


async def test_a_recurring_job_is_added_once_for_every_tenant(
    database: Database, queue: JobQueue, tenant: str, elsewhere: str
) -> None:
    """Three workers that come up together, an hour after it was due."""
    kind = kind_of_its_own(JobPayload)
    due = datetime.now(UTC) - timedelta(hours=1)
    began = asyncio.Event()
    ran: list[str] = []

    async def handle(payload: JobPayload, run: JobRun) -> None:
        ran.append(payload.tenant_id)
        began.set()

    handler = JobHandler(kind, handle, cron=f"{due.minute} {due.hour} * * *")
    async with working(database, handler), working(database, handler), working(database, handler):
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        await until(lambda: is_empty(queue, kind.name))
    assert {tenant, elsewhere} <= set(ran)
    assert len(ran) == len(set(ran))
    async with working(database, handler):
        await asyncio.sleep(0.5)
    assert len(ran) == len(set(ran))


async def test_what_expired_long_ago_is_removed_with_its_versions(
    database: Database, queue: JobQueue, tenant: str, elsewhere: str, services: Services
) -> None:
    """What expired of late, and what did not, stays; so does the earlier version of what was given a longer life, and
    everything of another tenant."""
    now = datetime.now(UTC)
    moments = {"long ago": now - timedelta(days=8), "of late": now - timedelta(days=6), "never": None}
    for name in (tenant, elsewhere):
        for word, moment in moments.items():
            await services.memories.add(name, USER, [Draft(MemoryType.HISTORY, f"Went by {word}", expires_at=moment)])
        added = await services.memories.add(
            name, USER, [Draft(MemoryType.HISTORY, "A parcel was sent", expires_at=moments["long ago"])]
        )
        await services.memories.update(name, added.ids[0], {"expires_at": None})
        gone = await services.memories.add(name, USER, [Draft(MemoryType.HISTORY, "The bell rang", expires_at=None)])
        await services.memories.update(name, gone.ids[0], {"expires_at": moments["long ago"]})
    expiry = ExpiryService(
        database,
        ExpiryStore(),
        IngestStore(),
        QuarantineStore(),
        RecallStore(),
        SystemClock(),
        timedelta(days=7),
        timedelta(days=7),
    )
    kind = kind_of_its_own(JobPayload)
    async with database.begin(tenant) as connection:
        await queue.add(connection, new_job(kind, JobPayload(tenant_id=tenant)))
    async with working(database, JobHandler(kind, expiry.handle)):
        await until(lambda: is_empty(queue, kind.name))
    assert await contents(database, tenant) == [
        "A parcel was sent",
        "A parcel was sent",
        "Went by never",
        "Went by of late",
    ]
    assert len(await contents(database, elsewhere)) == 7


async def contents(database: Database, tenant: str) -> list[str]:
    """What the tenant's memories say, versions included."""
    async with database.begin(tenant) as connection:
        return list((await connection.execute(text("SELECT content FROM memories ORDER BY content"))).scalars())


def test_expiry_and_graphs_recur() -> None:
    """What the service's own worker does: of every tenant, every hour."""
    built = job_handlers(Settings(_env_file=None), None, None, None)  # pyright: ignore[reportArgumentType]
    handlers = {handler.kind: handler.cron for handler in built}
    assert handlers[EXPIRY]
    assert handlers[GRAPH]


async def test_the_kind_in_the_documents_works(database: Database, queue: JobQueue, tenant: str) -> None:
    """The example of `docs/jobs.md`, as it is written there."""
    page = (MIGRATIONS.parent / "docs/jobs.md").read_text("utf8")
    names: dict[str, Any] = {"__name__": __name__}
    exec(page.split("```python\n")[1].split("```")[0], names)
    await names["ask_for_it"](database, queue, tenant, USER)
    await names["ask_for_it"](database, queue, tenant, USER)
    (job,) = await queue.find(kind="reminder")
    assert job.payload == {"tenant_id": tenant, "user_id": USER}
    async with working(database, names["HANDLER"]):
        await until(lambda: is_empty(queue, "reminder"))
    assert await queue.find(kind="reminder") == []
