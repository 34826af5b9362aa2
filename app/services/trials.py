"""Trials of a second embedding space: begun, filled, compared with the one that serves, ended."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, NotFound, NotReady, Overloaded
from app.domain.promotion import Bootstrap
from app.domain.trials import (
    LEAST_USERS,
    METRICS,
    Advice,
    Compared,
    Outcomes,
    Trial,
    advise,
    chance_of_no_difference,
    figure_of,
    sums_of,
)
from app.ports import Clock
from app.services.spaces import Spaces
from app.services.training.intervals import difference_of, interval_of, ratio
from app.services.trial_spaces import TrialSpaces
from app.store.engine import Database
from app.store.spaces import SpaceStore
from app.store.trials import TrialStore

log = structlog.get_logger(__name__)

DEFAULT_SHARE = 0.5

BOOTSTRAP = Bootstrap(resamples=2000)

OnFilled = Callable[[int, int], None]
"""Hears how many of how many memories have a vector in the trial's space."""


@dataclass(frozen=True)
class TrialStatus:
    """A trial and how many of the tenant's memories have a vector in its space."""

    trial: Trial
    filled: int
    memories: int


@dataclass(frozen=True)
class TrialReport:
    """What the users of both arms did, and what to do about it."""

    trial: Trial
    users: int
    figures: tuple[Compared, ...]
    advice: Advice


class TrialService:
    """The use cases about trials."""

    def __init__(
        self,
        database: Database,
        spaces: Spaces,
        trial_spaces: TrialSpaces,
        trials: TrialStore,
        roles: SpaceStore,
        clock: Clock,
    ) -> None:
        self.database = database
        self._spaces = spaces
        self._trial_spaces = trial_spaces
        self._trials = trials
        self._roles = roles
        self._clock = clock

    async def start(
        self,
        tenant_id: str,
        endpoint: str,
        share: float = DEFAULT_SHARE,
        on_filled: OnFilled | None = None,
    ) -> TrialStatus:
        """Give every memory of the tenant a vector in the space of `endpoint`, then have `share` of the users search
        there. Broken off, the same call goes on; for a trial that runs it makes what is missing.

        Raises InvalidInput (the space that serves already, another trial is open), ModelUnavailable.
        """
        trial = await self._opened(tenant_id, endpoint, share)
        await self._fill(tenant_id, trial, on_filled)
        if trial.status == "filling":
            async with self.database.begin(tenant_id) as connection:
                held = await self._trials.open(connection, tenant_id, lock=True)
                if held is None or held.trial_id != trial.trial_id:
                    raise NotReady(f"The trial {trial.trial_id} was stopped while it was being filled.")
                now = self._clock.now()
                await self._trials.change(connection, tenant_id, trial.trial_id, status="running", started_at=now)
            log.info("trial_started", trial=trial.trial_id, space=trial.space, share=trial.share)
        self._trial_spaces.forget(tenant_id)
        return await self.status(tenant_id, trial.trial_id)

    async def status(self, tenant_id: str, trial_id: str | None = None) -> TrialStatus:
        """A trial, by default the newest one. Raises NotFound."""
        async with self.database.begin(tenant_id) as connection:
            trial = await self._found(tenant_id, trial_id, connection)
            space = await self._roles.registered(connection, trial.space) if trial.status != "ended" else None
            return TrialStatus(trial, *await self._trials.count(connection, tenant_id, space))

    async def report(self, tenant_id: str, trial_id: str | None = None) -> TrialReport:
        """Both arms' outcomes since the trial began, with intervals. Raises NotFound, NotReady where it has not begun,
        ModelUnavailable where scipy is not installed."""
        async with self.database.begin(tenant_id) as connection:
            trial = await self._found(tenant_id, trial_id, connection)
            if trial.started_at is None:
                raise NotReady(f"The trial {trial.trial_id} has not begun: its vectors are not complete.")
            until = trial.ended_at or self._clock.now()
            outcomes = await self._trials.outcomes(connection, tenant_id, trial.started_at, until)
        return await asyncio.to_thread(compare, trial, outcomes)

    async def stop(self, tenant_id: str, reason: str = "by hand") -> Trial:
        """End the open trial and delete its vectors: all users search in the serving space again, every process at
        most a few seconds later. The outcomes stay. Raises NotFound."""
        async with self.database.begin(tenant_id) as connection:
            trial = await self._trials.open(connection, tenant_id, lock=True)
            if trial is None:
                raise NotFound("no trial is filling or running")
            now = self._clock.now()
            await self._trials.change(connection, tenant_id, trial.trial_id, status="ended", ended_at=now)
            space = await self._spaces.stored(trial.space)
            await self._roles.drop_vectors(connection, tenant_id, space)
            await self._roles.set_role(connection, tenant_id, space.number, None)
        self._trial_spaces.forget(tenant_id)
        log.info("trial_ended", trial=trial.trial_id, space=trial.space, reason=reason)
        return (await self.status(tenant_id, trial.trial_id)).trial

    async def _opened(self, tenant_id: str, endpoint: str, share: float) -> Trial:
        """The open trial of this endpoint, or a new one."""
        async with self.database.begin(tenant_id) as connection:
            held = await self._trials.open(connection, tenant_id)
        if held is not None:
            if held.endpoint != endpoint:
                raise InvalidInput(
                    f"{held.trial_id} is {held.status} on {held.endpoint}: stop it first "
                    "(`embed-service space trial stop`).",
                    field="endpoint",
                )
            return held
        if urlsplit(endpoint).scheme not in {"http", "https"} or "@" in urlsplit(endpoint).netloc:
            raise InvalidInput("endpoint is an http:// or https:// address without a password.", field="endpoint")
        space = await self._spaces.register(endpoint)
        spaces = await self._spaces.of(tenant_id)
        role = spaces.role_of(space)
        if role is not None:
            used = "serves" if role == "serving" else f"is {role}"
            raise InvalidInput(f"{endpoint} has the space {space.id}, which {used} already.", field="endpoint")
        trial = Trial(
            f"trial-{secrets.token_hex(5)}",
            endpoint,
            space.id,
            space.space.dimension,
            spaces.serving.id,
            share,
            "filling",
            self._clock.now(),
        )
        async with self.database.begin(tenant_id) as connection:
            await self._roles.begin_to_serve(connection, tenant_id, spaces.serving)
            await self._roles.set_role(connection, tenant_id, space.number, "trial")
            if not await self._trials.insert(connection, tenant_id, trial):
                raise InvalidInput("Another trial was begun at this moment: see `embed-service space trial status`.")
        log.info("trial_created", trial=trial.trial_id, space=trial.space)
        return trial

    async def _fill(self, tenant_id: str, trial: Trial, on_filled: OnFilled | None) -> None:
        """Pass by pass over the memories, in the order of their ids, until a pass finds none without a vector: some are
        added meanwhile. Waits where the endpoint is busy."""
        is_complete = False
        while not is_complete:
            space = await self._spaces.stored(trial.space)
            async with self.database.begin(tenant_id) as connection:
                done, memories = await self._trials.count(connection, tenant_id, space)
            after: UUID | None = None
            while True:
                if on_filled is not None:
                    on_filled(done, max(memories, done))
                try:
                    filled = await self._trial_spaces.fill(trial, tenant_id, after=after)
                except Overloaded as error:
                    await asyncio.sleep(error.retry_after_s)
                    continue
                if filled.last is None:
                    is_complete = after is None
                    break
                after = filled.last
                done += filled.written

    async def _found(self, tenant_id: str, trial_id: str | None, connection: AsyncConnection) -> Trial:
        trial = await self._trials.latest(connection, tenant_id, trial_id)
        if trial is None:
            raise NotFound("no such trial" if trial_id else "this tenant has had no trial of an embedding space")
        return trial


def compare(trial: Trial, outcomes: list[Outcomes], options: Bootstrap = BOOTSTRAP) -> TrialReport:
    """The figures of both arms by what users did, with intervals by a bootstrap over users."""
    figures: list[Compared] = []
    for metric in METRICS:
        serving, candidate = sums_of(trial, outcomes, metric)
        # Every user stands in one list, with nothing in the other's: drawn together, the arms vary as they would.
        own = np.concatenate([np.zeros_like(serving), candidate])
        other = np.concatenate([serving, np.zeros_like(candidate)])
        is_known = min(len(serving), len(candidate)) >= LEAST_USERS
        found = interval_of(difference_of(ratio, own, other), len(own), options) if is_known else None
        low, high = found or (None, None)
        chance = chance_of_no_difference(serving, candidate)
        figures.append(Compared(metric, figure_of(serving), figure_of(candidate), chance, low, high))
    return TrialReport(trial, len(outcomes), tuple(figures), advise(figures))
