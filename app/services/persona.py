"""Personas: what the signals of a user say about how they like to be answered."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from app.domain.errors import ModelUnavailable, NotFound, VersionConflict
from app.domain.persona import Facet, FacetChange, Persona, Signal, apply_deltas
from app.domain.training import Maker
from app.ports import SLM, Clock
from app.services.training import TrainingDataCollector
from app.store.engine import Database
from app.store.tables import AnyRow
from app.store.users import UserStore

log = structlog.get_logger(__name__)

CORRECTION_STRENGTH = 20.0
"""What a user says of themselves outright is worth this many observations."""


@dataclass(frozen=True)
class PersonaService:
    """The use cases about personas."""

    database: Database
    slm: SLM
    fallback: SLM
    collector: TrainingDataCollector
    clock: Clock
    users: UserStore

    async def get(self, tenant_id: str, user_id: str) -> Persona:
        """The user's persona. Raises NotFound for an unknown user."""
        async with self.database.begin(tenant_id) as connection:
            persona = await self.users.persona(connection, tenant_id, user_id)
        return _found(persona)

    async def history(self, tenant_id: str, user_id: str) -> Sequence[AnyRow]:
        """Every change of every facet, oldest first. Raises NotFound for an unknown user."""
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
            return await self.users.facet_history(connection, tenant_id, user_id)

    async def learn(
        self, tenant_id: str, user_id: str, signal: Signal, *, signal_id: UUID | None = None
    ) -> list[FacetChange]:
        """Move the facets by one signal; what moved. The user has to exist.

        The model judges outside the transaction; its deltas are applied to the facets as they are then,
        under a row lock, so that parallel signals all count.
        """
        judge = self.slm
        try:
            deltas = await self.slm.compute_facet_updates(signal)
        except ModelUnavailable as error:
            log.warning("facet_updates_degraded", cause=error.cause, reason=str(error))
            judge = self.fallback
            deltas = await judge.compute_facet_updates(signal)
        if not deltas:
            return []
        reason = _reason(signal)
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            persona = _found(await self.users.persona(connection, tenant_id, user_id, lock=True))
            moved, changes = apply_deltas(persona, deltas, reason)
            if changes:
                await self.users.save_persona(connection, tenant_id, moved, changes, signal_id=signal_id, now=now)
            await asyncio.to_thread(
                self.collector.log_persona_update,
                user_id=user_id,
                signal=signal.document,
                facets_before=_values(persona),
                updates=deltas,
                facets_after=_values(moved),
                source=judge.name,
                tenant_id=tenant_id,
                maker=Maker(judge.model or judge.name, judge.prompt_version),
                has_consent=self.collector.is_enabled and await self.users.consents(connection, tenant_id, user_id),
            )
        log.info("persona_updated", facets=sorted(change.facet for change in changes), version=moved.version)
        return changes

    async def correct(
        self, tenant_id: str, user_id: str, values: Mapping[str, float], *, version: int | None = None
    ) -> Persona:
        """Set facets outright, as the user says. Raises VersionConflict when `version` is not the current one."""
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            persona = _found(await self.users.persona(connection, tenant_id, user_id, lock=True))
            if version is not None and version != persona.version:
                raise VersionConflict(f"the persona is at version {persona.version}, not {version}: load it again")
            facets = dict(persona.facets)
            changes: list[FacetChange] = []
            for name, value in values.items():
                before = facets.get(name, Facet(name))
                after = Facet(name, value, max(before.strength, CORRECTION_STRENGTH))
                facets[name] = after
                changes.append(FacetChange(name, before.value, after.value, after.uncertainty, "correction"))
            corrected = replace(persona, facets=facets, version=persona.version + 1, updated_at=now)
            await self.users.save_persona(connection, tenant_id, corrected, changes, signal_id=None, now=now)
        log.info("persona_corrected", facets=sorted(values), version=corrected.version)
        return corrected


def _reason(signal: Signal) -> str:
    """Why a signal moves a facet, without the user's words."""
    parts: list[str] = [signal.kind]
    if signal.comment:
        parts.append("comment")
    if signal.rating is not None:
        parts.append(f"rating {signal.rating:+.2f}")
    if signal.is_success is not None:
        parts.append("success" if signal.is_success else "failure")
    if signal.rejected_texts:
        parts.append(f"{len(signal.rejected_texts)} rejected")
    return ", ".join(parts)


def _values(persona: Persona) -> dict[str, float]:
    return {name: facet.value for name, facet in persona.facets.items()}


def _found(persona: Persona | None) -> Persona:
    if persona is None:
        raise NotFound("no such user")
    return persona
