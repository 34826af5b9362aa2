"""Calibrations: fitted anew on a tenant's own outcomes as they come, around a prior that tenants share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from app.domain.calibration import Calibration, fit, prior_of
from app.domain.position import examination
from app.domain.shared_prior import shared_prior
from app.ports import Clock
from app.store.calibrations import CalibrationStore
from app.store.engine import Database

log = structlog.get_logger(__name__)

REFIT_EVERY = 5
REFIT_SHARE = 0.1
"""A calibration is fitted anew after REFIT_EVERY new outcomes, or REFIT_SHARE of those it was fitted on,
whichever is more."""

POOLED_FOR = timedelta(hours=1)
"""How old the other tenants' fits may be that a prior is made of."""

MOVED = 0.01
"""A shared prior is written again when one of its numbers moved by so much."""


@dataclass(frozen=True)
class Pool:
    """The fits of all tenants, and the version of the prior that they share: 0 is the shipped one."""

    fits: Mapping[str, Calibration]
    version: int
    at: datetime


@dataclass(frozen=True)
class CalibrationService:
    """The use cases about calibrations."""

    database: Database
    store: CalibrationStore
    clock: Clock
    pools: dict[str, Pool] = field(default_factory=dict[str, Pool])
    """By source, as of the last hour."""

    async def calibration(self, tenant_id: str, source: str) -> Calibration:
        """What makes a source's features probabilities for a tenant now."""
        async with self.database.begin(tenant_id) as connection:
            return await self.store.calibration(connection, tenant_id, source)

    async def recalibrate(self, tenant_id: str) -> None:
        """Fit the tenant's calibrations anew, those of the sources with enough outcomes since the last fit."""
        async with self.database.begin(tenant_id) as connection:
            counts = await self.store.count_new_outcomes(connection, tenant_id)
        for source, new in counts.items():
            if new >= REFIT_EVERY:
                await self._recalibrate(tenant_id, source, new)

    async def _recalibrate(self, tenant_id: str, source: str, new: int) -> None:
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            held = await self.store.held(connection, tenant_id, source)
            if new < REFIT_SHARE * held.calibration.outcomes:
                return
            looked_at = examination(await self.store.drawn_choices(connection, tenant_id))
            outcomes = await self.store.outcomes(connection, tenant_id, source, looked_at, now)
        if not outcomes:  # all of them are of a form that is not read any more
            return
        prior = await self._prior(tenant_id, source, now)
        fitted = replace(fit(outcomes, held.next_version, prior), examination=looked_at)
        async with self.database.begin(tenant_id) as connection:
            await self.store.save(connection, tenant_id, source, fitted, now)
        log.info(
            "calibration_fitted",
            source=source,
            version=fitted.version,
            outcomes=fitted.outcomes,
            weights={name: round(weight, 4) for name, weight in fitted.weights.items()},
            none_score=round(fitted.none_score, 4),
            prior=fitted.prior,
        )

    async def _prior(self, tenant_id: str, source: str, now: datetime) -> Calibration:
        """What the tenant's fit is pulled to: the other tenants' mean. Its own fit does not count twice."""
        pool = self.pools.get(source)
        if pool is None or now - pool.at >= POOLED_FOR:
            pool = self.pools[source] = await self._pooled(source, now)
        shipped = prior_of(source)
        others = [each for other, each in pool.fits.items() if other != tenant_id]
        learned = shared_prior(others, shipped)
        return shipped if learned is None else replace(learned, prior=pool.version)

    async def _pooled(self, source: str, now: datetime) -> Pool:
        async with self.database.begin_pooling() as connection:
            fits = await self.store.fits(connection, source)
            held = await self.store.shared(connection, source)
            made = shared_prior(list(fits.values()), prior_of(source))
            if made is None or not _is_moved(held, made):
                return Pool(fits, held.prior, now)
            version = await self.store.save_shared(connection, source, made, len(fits), now)
        log.info(
            "shared_prior_fitted",
            source=source,
            version=version,
            tenants=len(fits),
            weights={name: round(weight, 4) for name, weight in made.weights.items()},
            none_score=round(made.none_score, 4),
        )
        return Pool(fits, version, now)


def _is_moved(held: Calibration, made: Calibration) -> bool:
    moves = [abs(made.weights[name] - held.weights[name]) for name in made.weights]
    return max([*moves, abs(made.none_score - held.none_score)]) >= MOVED
