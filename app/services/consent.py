"""Consent: whether what a user does may become training data."""

from dataclasses import dataclass

import structlog

from app.domain.errors import NotFound
from app.ports import Clock
from app.services.training.erasure import Erasure, TrainingErasure
from app.store.engine import Database
from app.store.users import UserStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ConsentService:
    """The use cases about consent. A user consents unless they, or their tenant, opted out."""

    database: Database
    users: UserStore
    training: TrainingErasure
    clock: Clock

    async def get(self, tenant_id: str, user_id: str) -> bool:
        """Whether samples of the user are kept. Raises NotFound for an unknown one."""
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
            return await self.users.consents(connection, tenant_id, user_id)

    async def set(self, tenant_id: str, user_id: str, *, has_consent: bool) -> tuple[bool, Erasure]:
        """Write what the user says, creating them at first contact; whether samples are kept from now on, and what was
        erased of old ones for want of consent.

        Whoever writes a sample holds the user meanwhile, and so comes before the erasure or after the refusal.
        """
        async with self.database.begin(tenant_id) as connection:
            await self.users.ensure(connection, tenant_id, user_id, self.clock.now())
            await self.users.hold_alone(connection, tenant_id, user_id)
            await self.users.set_consent(connection, tenant_id, user_id, has_consent=has_consent)
            left = Erasure()
            if not has_consent:
                left = await self.training.erase_user(connection, tenant_id, user_id)
            is_kept = await self.users.consents(connection, tenant_id, user_id)
        lines = sum(left.erased.values())
        log.info("consent_changed", has_consent=has_consent, training_lines=lines, adapters=left.trained_adapters)
        return is_kept, left
