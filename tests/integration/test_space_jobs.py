"""Workers fill spaces: asked to, in slices that several share; and by themselves, where something is lacking."""

from typing import Any

import pytest

from app.services.jobs.queue import JobQueue, tenant_job
from app.services.jobs.run import JobHandler
from app.services.jobs.spaces import SPACE_BACKLOG, SPACE_FILL, FillPayload, SpaceJobs
from app.store.engine import Database
from tests.integration.test_space_switch import ENDPOINT, OLD, House, house
from tests.jobs import is_empty, queue_of, until, working

__all__ = ["house"]


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return queue_of(database)


@pytest.fixture
def jobs(house: House, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> SpaceJobs:
    """With slices so short that a filling takes many, and batches to match."""
    monkeypatch.setattr("app.services.jobs.spaces.SLICE_S", 0.05)
    monkeypatch.setattr("app.services.space_filler.BATCH", 8)
    return SpaceJobs(house.one.database, queue, house.switch)


def handlers(jobs: SpaceJobs) -> list[JobHandler[Any]]:
    return [JobHandler(SPACE_FILL, jobs.fill), JobHandler(SPACE_BACKLOG, jobs.look)]


async def test_two_workers_share_a_filling(house: House, jobs: SpaceJobs, queue: JobQueue) -> None:
    await house.remember("ada", *(f"I keep thing number {number} of {number * 7}" for number in range(120)))
    await house.switch.create(house.tenant, ENDPOINT)
    await jobs.begin(house.tenant, 2, 1.5)
    assert [job.payload["part"] for job in await queue.find(kind="space_fill")] == [0, 1]
    seen: set[int] = set()

    async def fill(payload: FillPayload, run: object) -> None:
        seen.add(payload.part)
        await jobs.fill(payload, run)  # pyright: ignore[reportArgumentType]

    other = JobHandler(SPACE_FILL, fill)
    async with working(house.one.database, other), working(house.other.database, other):
        await until(lambda: is_empty(queue, "space_fill"))
    assert await house.roles() == {OLD: ("serving", 0), "new": ("filled", 0)}
    assert (await house.switch.verify(house.tenant)).is_good
    assert seen == {0, 1}


async def test_what_was_missed_is_filled_without_being_asked(house: House, jobs: SpaceJobs, queue: JobQueue) -> None:
    """The new model was away while something was written; the recurring job finds it."""
    await house.remember("ada", "I like tea")
    await house.switch.create(house.tenant, ENDPOINT)
    await house.switch.fill(house.tenant)
    house.new.is_down = True
    await house.remember("ada", "I like snow")
    assert (await house.roles())["new"] == ("filled", 1)
    house.new.is_down = False

    async with house.one.database.begin(house.tenant) as connection:
        await queue.add(connection, tenant_job(SPACE_BACKLOG, house.tenant))
    async with working(house.one.database, *handlers(jobs)):
        await until(lambda: is_empty(queue, "space_backlog"))
        await until(lambda: is_empty(queue, "space_fill"))
    assert (await house.roles())["new"] == ("filled", 0)


async def test_a_tenant_without_anything_costs_no_model(house: House, jobs: SpaceJobs, queue: JobQueue) -> None:
    await house.one.keys.ensure_default_tenant()
    assert await house.switch.lacking("default") == []
    assert await house.switch.fill_slice("default", 1, 1.0, None, is_noted=False), "nothing to do"


async def test_a_space_that_was_dropped_ends_its_jobs(house: House, jobs: SpaceJobs, queue: JobQueue) -> None:
    await house.remember("ada", "I like tea")
    await house.switch.create(house.tenant, ENDPOINT)
    await jobs.begin(house.tenant, 1, 1.5)
    await house.switch.drop(house.tenant)
    async with working(house.one.database, *handlers(jobs)):
        await until(lambda: is_empty(queue, "space_fill"))
    assert await queue.find(kind="space_fill", states=("dead",)) == []
