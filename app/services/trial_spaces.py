"""The second embedding space while it is on trial: who searches in it, and how its vectors keep up with memories."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from app.domain.errors import DomainError, ModelUnavailable, Overloaded
from app.domain.spaces import Embedded
from app.domain.trials import Trial
from app.ports import Clock
from app.request import remaining_s
from app.services.afterwards import Afterwards
from app.services.catalogues import SETTINGS_TTL
from app.services.spaces import Spaces
from app.store.engine import Database
from app.store.trials import TrialStore

log = structlog.get_logger(__name__)

QUERY_S = 1.0
"""How long a search waits for the endpoint of a trial before the serving space answers."""

REST = timedelta(seconds=5)
"""How long an endpoint that failed is left alone."""

WRITE_S = 0.25
"""The caller's time that the vectors of a new memory may take; they are made after the answer otherwise."""

BATCH = 32
IN_FLIGHT = 4
"""Texts of one call to the endpoint, and calls at once."""

MAX_CACHED = 1024


@dataclass(frozen=True)
class Filled:
    """How many vectors were written, and the id of the last memory that lacked one; None where none did."""

    written: int
    last: UUID | None


class TrialSpaces:
    """What a request needs of a trial. A process knows of a trial, or of its end, at most SETTINGS_TTL later: one
    indexed query for each tenant in that time, and none in between."""

    def __init__(
        self,
        database: Database,
        trials: TrialStore,
        spaces: Spaces,
        clock: Clock,
        afterwards: Afterwards,
    ) -> None:
        self._database = database
        self._trials = trials
        self._spaces = spaces
        self._clock = clock
        self._afterwards = afterwards
        self._running: dict[str, tuple[datetime, Trial | None]] = {}
        self._resting: dict[str, datetime] = {}
        self._filling: set[tuple[str, str]] = set()

    async def running(self, tenant_id: str) -> Trial | None:
        """The tenant's trial, where one runs."""
        now = self._clock.now()
        held = self._running.get(tenant_id)
        if held is None or not timedelta(0) <= now - held[0] < SETTINGS_TTL:
            async with self._database.begin(tenant_id) as connection:
                trial = await self._trials.open(connection, tenant_id)
            held = (now, trial if trial is not None and trial.status == "running" else None)
            if len(self._running) >= MAX_CACHED:
                self._running.clear()
            self._running[tenant_id] = held
        return held[1]

    async def serving(self, tenant_id: str, user_id: str) -> Trial | None:
        """The trial in whose arm a user is."""
        trial = await self.running(tenant_id)
        return trial if trial is not None and trial.has(user_id) else None

    def forget(self, tenant_id: str) -> None:
        """Look again: the tenant's trial was changed."""
        self._running.pop(tenant_id, None)

    async def vector(self, trial: Trial, query: str) -> Embedded | None:
        """A query's vector in the space of a trial; None where the endpoint does not give it soon, and for REST after
        that."""
        if self._is_resting(trial):
            return None
        try:
            async with asyncio.timeout(min(QUERY_S, remaining_s(QUERY_S))):
                return await self.embed(trial, [query])
        except TimeoutError:
            self._rest(trial, "timeout", f"no answer within {QUERY_S:g} s")
        except (ModelUnavailable, Overloaded) as error:
            self._rest(trial, getattr(error, "cause", "busy"), str(error))
        return None

    async def embed(self, trial: Trial, texts: Sequence[str]) -> Embedded:
        """Vectors in the space of a trial. Raises ModelUnavailable, also where the endpoint has another model by now,
        and Overloaded."""
        return await self._spaces.embed_in(await self._spaces.stored(trial.space), texts)

    async def keep_up(self, tenant_id: str, user_id: str, seconds: float = WRITE_S) -> None:
        """Give the user's new memories their vectors in the space of a trial, where one runs; returns at the latest
        after `seconds`. The memories stand whatever happens here."""
        trial = await self.running(tenant_id)
        if trial is not None:
            await self.give(trial, tenant_id, user_id, seconds)

    async def give(self, trial: Trial, tenant_id: str, user_id: str, seconds: float = 0.0) -> None:
        """As `keep_up`, for whoever knows the trial; by default wholly in the background."""
        if (tenant_id, user_id) not in self._filling and not self._is_resting(trial):
            await self._afterwards.give(self._fill_user(trial, tenant_id, user_id), seconds)

    async def fill(
        self, trial: Trial, tenant_id: str, *, user_id: str | None = None, after: UUID | None = None
    ) -> Filled:
        """Make the vectors that the next BATCH * IN_FLIGHT memories lack, by their ids. Raises ModelUnavailable and
        Overloaded; what was made until then stays."""
        space = await self._spaces.stored(trial.space)
        async with self._database.begin(tenant_id) as connection:
            lacking = await self._trials.unfilled(
                connection, tenant_id, space, limit=BATCH * IN_FLIGHT, user_id=user_id, after=after
            )
        if not lacking:
            return Filled(0, None)
        batches = [lacking[start : start + BATCH] for start in range(0, len(lacking), BATCH)]
        made = await asyncio.gather(
            *(self.embed(trial, [one.content for one in batch]) for batch in batches), return_exceptions=True
        )
        written = 0
        async with self._database.begin(tenant_id) as connection:
            for batch, embedded in zip(batches, made, strict=True):
                if not isinstance(embedded, BaseException):
                    written += await self._trials.write_vectors(connection, tenant_id, space, batch, embedded.vectors)
        for failure in made:
            if isinstance(failure, BaseException):
                raise failure
        return Filled(written, lacking[-1].memory_id)

    async def _fill_user(self, trial: Trial, tenant_id: str, user_id: str) -> None:
        self._filling.add((tenant_id, user_id))
        try:
            while (await self.fill(trial, tenant_id, user_id=user_id)).written:
                pass
        except DomainError as error:
            self._rest(trial, getattr(error, "cause", "busy"), str(error))
        finally:
            self._filling.discard((tenant_id, user_id))

    def _is_resting(self, trial: Trial) -> bool:
        ends_at = self._resting.get(trial.endpoint)
        return ends_at is not None and self._clock.now() < ends_at

    def _rest(self, trial: Trial, cause: str, reason: str) -> None:
        self._resting[trial.endpoint] = self._clock.now() + REST
        log.warning("trial_space_unavailable", trial=trial.trial_id, cause=cause, reason=reason)
