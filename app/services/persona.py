"""Personas: what the signals of a user say about how they like to be answered."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, ModelUnavailable, NotFound, VersionConflict
from app.domain.facet_evidence import MOST_EVIDENCE, Evidence, FacetPrior, believed, changes_between
from app.domain.persona import DEFAULT_FACETS, MOST_FACETS, Facet, FacetChange, Persona, Signal, faded, told
from app.domain.training import Maker
from app.ports import SLM, Clock
from app.services.training import TrainingDataCollector
from app.store.engine import Database
from app.store.facets import FacetStore
from app.store.tables import AnyRow
from app.store.users import UserStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Held:
    """A user's persona as it is now, their row held, with what it comes of."""

    persona: Persona
    evidence: Sequence[Evidence]
    prior: FacetPrior
    now: datetime


@dataclass(frozen=True)
class PersonaService:
    """The use cases about personas."""

    database: Database
    slm: SLM
    fallback: SLM
    collector: TrainingDataCollector
    clock: Clock
    users: UserStore
    facets: FacetStore
    _: KW_ONLY
    half_life_days: float
    """After so long evidence counts half."""

    async def get(self, tenant_id: str, user_id: str) -> Persona:
        """The user's persona. Raises NotFound for an unknown user."""
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            persona = _found(await self.users.persona(connection, tenant_id, user_id))
        return replace(persona, facets=self.now_of(persona.facets, now))

    def now_of(self, facets: Mapping[str, Facet], now: datetime) -> dict[str, Facet]:
        """What is believed at `now` of facets as they were saved."""
        return faded(facets, now, self.half_life_days)

    async def history(self, tenant_id: str, user_id: str) -> Sequence[AnyRow]:
        """Every change of every facet, oldest first. Raises NotFound for an unknown user."""
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
            return await self.users.facet_history(connection, tenant_id, user_id)

    async def learn(
        self, tenant_id: str, user_id: str, signal: Signal, *, signal_id: UUID | None = None
    ) -> list[FacetChange]:
        """Take a signal as evidence; what moved. The user has to exist.

        A choice is a comparison of the options. What else there is the model judges, outside the transaction; its
        deltas are one more likelihood. The evidence is written under a row lock, so that parallel signals all count.
        """
        deltas, judge = await self._judged(signal)
        reason = _reason(signal)
        async with self.database.begin(tenant_id) as connection:
            held = _found(await self.users.persona(connection, tenant_id, user_id, lock=True))
            now = self.clock.now()
            evidence = Evidence(uuid4(), now, signal.shown, signal.chosen, deltas)
            if not evidence.facets:
                return []
            known = await self.facets.evidence(connection, tenant_id, user_id)
            prior = await self.facets.prior(connection, tenant_id)
            await self.facets.add(connection, tenant_id, user_id, evidence, signal_id)
            kept = sorted([*known, evidence], key=lambda each: (each.observed_at, each.evidence_id))
            await self.facets.drop(connection, tenant_id, kept[:-MOST_EVIDENCE])
            before = await self._believed(held, known, prior, now)
            after = await self._believed(before, kept[-MOST_EVIDENCE:], prior, now)
            changes = changes_between(before.facets, after.facets, evidence.facets, reason)
            moved = replace(after, version=held.version + bool(changes))
            await self.users.save_persona(connection, tenant_id, moved, changes, signal_id=signal_id, now=now)
            if deltas:
                await asyncio.to_thread(
                    self.collector.log_persona_update,
                    user_id=user_id,
                    signal=signal.document,
                    facets_before=_values(before),
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
        self,
        tenant_id: str,
        user_id: str,
        values: Mapping[str, float],
        *,
        pins: Mapping[str, bool] | None = None,
        version: int | None = None,
    ) -> Persona:
        """Set facets outright, as the user says, and pin them, or let them be learned again; one that is pinned without
        a value keeps the one it has. What was concluded before counts no more. Raises InvalidInput where none is named,
        VersionConflict when `version` is not the current one."""
        pins = pins or {}
        if not values and not pins:
            raise InvalidInput("name at least one facet, in facets or in pinned", "facets")
        async with self.database.begin(tenant_id) as connection:
            held = await self._locked(connection, tenant_id, user_id, version)
            before, now = held.persona, held.now
            facets = dict(before.facets)
            for name in {**values, **pins}:
                facet = facets.get(name, Facet(name))
                is_pinned = pins.get(name, facet.is_pinned)
                if name in values or is_pinned > facet.is_pinned:
                    facets[name] = told(facet, values.get(name, facet.value), now, is_pinned=is_pinned)
                else:
                    facets[name] = replace(facet, is_pinned=is_pinned)
            if len(facets) > max(MOST_FACETS, len(before.facets)):
                raise InvalidInput(f"a persona has {MOST_FACETS} facets at most: delete some first", "facets")
            after = await self._believed(replace(before, facets=facets), held.evidence, held.prior, now)
            reasons = {**dict.fromkeys(values, "correction"), **{name: _pin(pin) for name, pin in pins.items()}}
            changes = _told_changes(before.facets, after.facets, reasons)
            corrected = replace(after, version=before.version + 1, updated_at=now)
            await self.users.save_persona(connection, tenant_id, corrected, changes, signal_id=None, now=now)
        log.info("persona_corrected", facets=sorted(reasons), version=corrected.version)
        return corrected

    async def forget(self, tenant_id: str, user_id: str, facet: str, *, version: int | None = None) -> Persona:
        """Delete what is known of one facet: what is believed of it, what speaks of it, and its history. Raises
        NotFound for an unknown user or facet, VersionConflict when `version` is not the current one."""
        async with self.database.begin(tenant_id) as connection:
            held = await self._locked(connection, tenant_id, user_id, version)
            before, known, now = held.persona, held.evidence, held.now
            if facet not in before.facets:
                raise NotFound("no such facet")
            left = [each.without(facet) if each.has(facet) else each for each in known]
            await self.facets.drop(connection, tenant_id, [each for each in left if not each.facets])
            changed = [new for old, new in zip(known, left, strict=True) if new is not old and new.facets]
            await self.facets.forget(connection, tenant_id, user_id, facet, changed)
            facets = {name: each for name, each in before.facets.items() if name != facet}
            facets |= {facet: Facet(facet)} if facet in DEFAULT_FACETS else {}
            rest = [each for each in left if each.facets]
            after = await self._believed(replace(before, facets=facets), rest, held.prior, now)
            changes = changes_between(facets, after.facets, frozenset(), "another facet deleted")
            deleted = replace(after, version=before.version + 1, updated_at=now)
            await self.users.save_persona(connection, tenant_id, deleted, changes, signal_id=None, now=now)
        log.info("facet_deleted", version=deleted.version)
        return deleted

    async def _judged(self, signal: Signal) -> tuple[Mapping[str, float], SLM]:
        """What the model makes of a signal beside the choice itself, and which model that was."""
        if not signal.has_words:
            return {}, self.slm
        try:
            return await self.slm.compute_facet_updates(signal), self.slm
        except ModelUnavailable as error:
            log.warning("facet_updates_degraded", cause=error.cause, reason=str(error))
            return await self.fallback.compute_facet_updates(signal), self.fallback

    async def _locked(self, connection: AsyncConnection, tenant_id: str, user_id: str, version: int | None) -> _Held:
        persona = _found(await self.users.persona(connection, tenant_id, user_id, lock=True))
        if version is not None and version != persona.version:
            raise VersionConflict(f"the persona is at version {persona.version}, not {version}: load it again")
        known = await self.facets.evidence(connection, tenant_id, user_id)
        prior = await self.facets.prior(connection, tenant_id)
        now = self.clock.now()
        return _Held(await self._believed(persona, known, prior, now), known, prior, now)

    async def _believed(
        self, persona: Persona, evidence: Sequence[Evidence], prior: FacetPrior, now: datetime
    ) -> Persona:
        facets = await asyncio.to_thread(believed, persona.facets, evidence, prior, now, self.half_life_days)
        return replace(persona, facets=facets)


def _told_changes(
    before: Mapping[str, Facet], after: Mapping[str, Facet], reasons: Mapping[str, str]
) -> list[FacetChange]:
    """A change for each facet the user spoke of, whether it moved or not, and for those that moved with it."""
    told_of = [
        FacetChange(name, before.get(name, Facet(name)).value, after[name].value, after[name].uncertainty, reason)
        for name, reason in reasons.items()
    ]
    others = changes_between(before, after, frozenset(), "another facet corrected")
    return told_of + [each for each in others if each.facet not in reasons]


def _pin(pin: bool) -> str:
    return "pinned" if pin else "unpinned"


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
