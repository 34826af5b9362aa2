"""The job of priors: what the facets of a tenant's users are like, learned every night."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from app.domain.facet_evidence import MOST_USERS, Evidence, FacetPrior, learned_prior
from app.domain.jobs import JobKind, JobPayload
from app.domain.persona import Facet
from app.ports import Clock
from app.services.jobs.run import JobRun
from app.store.engine import Database
from app.store.facets import FacetStore

log = structlog.get_logger(__name__)

FACET_PRIORS = JobKind("facet_priors", JobPayload)
EVERY_NIGHT = "23 3 * * *"

USERS = 100
"""Users who are read at a time."""


@dataclass(frozen=True)
class FacetPriorService:
    """Learns what is believed of a user's facets before anything speaks of them."""

    database: Database
    facets: FacetStore
    clock: Clock
    half_life_days: float

    async def handle(self, payload: JobPayload, run: JobRun) -> None:
        """The job of a tenant, which may be done twice."""
        await self.learn(payload.tenant_id)

    async def learn(self, tenant_id: str) -> FacetPrior | None:
        """Put what the tenant's users tell in the place of the prior there was; None, and none is kept, where they are
        too few."""
        now = self.clock.now()
        people: list[tuple[Mapping[str, Facet], list[Evidence]]] = []
        async with self.database.begin(tenant_id) as connection:
            held = await self.facets.prior(connection, tenant_id)
            user_ids = await self.facets.known_users(connection, tenant_id, MOST_USERS)
        for start in range(0, len(user_ids), USERS):
            async with self.database.begin(tenant_id) as connection:
                people += await self.facets.known_of(connection, tenant_id, user_ids[start : start + USERS])
        learned = await asyncio.to_thread(learned_prior, people, now, self.half_life_days)
        prior = None if learned is None else replace(learned, version=held.version + 1)
        async with self.database.begin(tenant_id) as connection:
            await self.facets.save_prior(connection, tenant_id, prior, now)
        if prior is not None:
            log.info("facet_prior_learned", version=prior.version, users=prior.users, facets=len(prior.names))
        return prior
