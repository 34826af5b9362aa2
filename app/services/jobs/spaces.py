"""Filling embedding spaces by workers: what a space lacks is looked for now and then, and embedded slice by slice."""

from dataclasses import dataclass

from app.domain.jobs import JobKind, JobPayload
from app.domain.spaces import StoredSpace
from app.services.jobs.queue import JobQueue, new_job
from app.services.jobs.run import JobRun
from app.services.space_switch import SpaceSwitch
from app.store.engine import Database
from app.store.jobs import NewJob


class FillPayload(JobPayload):
    """One of several jobs that fill a space side by side, each slice after slice."""

    number: int
    part: int = 0
    slowdown: float | None = None
    """As `space fill` has it; None: no search is looked at."""
    usual_s: float = 0.0
    """What a search took before it began, by the upper quartile (`Throttle`)."""
    is_noted: bool = False
    """Whether an earlier slice has noted what there is."""


SPACE_BACKLOG = JobKind("space_backlog", JobPayload)
SPACE_FILL = JobKind("space_fill", FillPayload)
EVERY_FIVE_MINUTES = "*/5 * * * *"
SLICE_S = 20.0
"""After so long a job makes room for others: a worker that does one job at a time does them all in turn."""


@dataclass(frozen=True)
class SpaceJobs:
    """What workers do about spaces."""

    database: Database
    queue: JobQueue
    switch: SpaceSwitch

    async def begin(self, tenant_id: str, parts: int, slowdown: float) -> StoredSpace:
        """Have the workers fill the tenant's new space, in so many jobs side by side. Raises NotFound."""
        space = await self.switch.to_fill(tenant_id)
        throttle = await self.switch.throttle(tenant_id, slowdown)
        payload = FillPayload(tenant_id=tenant_id, number=space.number)
        if throttle is not None:
            await throttle.measure()
            payload = payload.model_copy(update={"slowdown": slowdown, "usual_s": throttle.usual_s})
        added = [_fill_job(payload.model_copy(update={"part": part})) for part in range(parts)]
        async with self.database.begin(tenant_id) as connection:
            await self.queue.add(connection, *added)
        return space

    async def look(self, payload: JobPayload, run: JobRun) -> None:
        """The recurring job of a tenant: a filling for each space in which something lacks that was to be there."""
        lacking = await self.switch.lacking(payload.tenant_id)
        async with run.begin(payload.tenant_id) as connection:
            for space in lacking:
                await self.queue.add(
                    connection, _fill_job(FillPayload(tenant_id=payload.tenant_id, number=space.number))
                )

    async def fill(self, payload: FillPayload, run: JobRun) -> None:
        """A slice of a filling; the next one is added where something is left. May be done twice. Raises
        ModelUnavailable."""
        pause = None
        if payload.slowdown is not None:
            pause = await self.switch.throttle(payload.tenant_id, payload.slowdown, payload.usual_s)
        is_done = await self.switch.fill_slice(
            payload.tenant_id, payload.number, SLICE_S, pause, is_noted=payload.is_noted
        )
        if not is_done:
            async with run.begin(payload.tenant_id) as connection:
                await self.queue.add(connection, _fill_job(payload.model_copy(update={"is_noted": True})))


def _fill_job(payload: FillPayload) -> NewJob:
    return new_job(SPACE_FILL, payload, key=f"{payload.number}/{payload.part}")
