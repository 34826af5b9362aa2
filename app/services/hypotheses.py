"""Hypotheses: what the user may mean, how likely each is, and whether to ask."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from app.domain.basis import Basis
from app.domain.calibration import Calibration
from app.domain.catalogue import Intent
from app.domain.decisions import Decided, Decision, Stakes, decide
from app.domain.deployments import Routed
from app.domain.embeddings import Vector
from app.domain.errors import ModelUnavailable
from app.domain.hypotheses import (
    Hypothesis,
    HypothesisContext,
    Reading,
    Turn,
    clarification_need,
    ordered,
    ranked_readings,
    reading_document,
    shown_hypotheses,
    specificity,
)
from app.domain.meanings import Meanings, meanings_of
from app.domain.meanings import as_document as meanings_document
from app.domain.ordering import Order
from app.domain.outcomes import weight
from app.domain.persona import faded, moved_centroid
from app.domain.ranker import Ranker
from app.domain.ranking import Ranked, Weights, rank
from app.domain.readings import MIN_CHOICE_SIMILARITY
from app.domain.spaces import StoredSpace
from app.domain.training import Maker
from app.ports import SLM, Clock
from app.services.calibrations import CalibrationService
from app.services.catalogues import CatalogueService, TenantSettings
from app.services.chance import Chance, policy_record
from app.services.deployments import DeploymentService
from app.services.ranking import Query, RankingService
from app.services.spaces import Spaces, follows_switch
from app.services.telemetry import telemetry_service
from app.services.weighing import weighed
from app.store.engine import Database
from app.store.hypotheses import Background, HypothesisStore
from app.store.memories import SearchFilter
from app.store.tables import AnyRow
from app.store.users import Centroid, UserStore

log = structlog.get_logger(__name__)

CONTEXT_MEMORIES = 40
CONTEXT_ARM = 20
"""Memories an input is read with, out of so many nearest by vector, by words, and newest with an open slot."""

MISSING = "unknown_adapter"
OWN_FAULTS = frozenset({MISSING, "broken_answer", "wrong_shape", "wrong_language", "off_topic", "too_large"})
"""Failures of an adapter that its base model may be free of."""


@dataclass(frozen=True)
class HypothesisSet:
    """The hypotheses shown for one input, with the decision."""

    set_id: UUID
    decided: Decided
    clarification_need: float
    hypotheses: Sequence[Hypothesis]
    source: str
    is_degraded: bool
    calibration: Calibration
    basis: Basis
    model: str | None = None
    prompt_version: str | None = None
    adapter: str | None = None
    """The adapter that answered, in the base model's place."""
    meanings: Meanings | None = None
    """What may be meant, the readings that are not shown included; None where nobody asks further."""
    order: Order | None = None
    """In which it is shown, where whoever shows it does so by rank."""
    route: Routed | None = None
    """Which adapter it was to be made by, while one is tried."""
    ranker: Ranker | None = None
    """The weights of origins that its log-odds have in them."""

    @property
    def calibration_version(self) -> int:
        """Of the calibration that made its confidences; 0 is the prior."""
        return self.calibration.version

    @property
    def decision(self) -> Decision:
        """What to do."""
        return self.decided.decision


@dataclass(frozen=True)
class Proposed:
    """A hypothesis set before it is kept, with what it was made from."""

    tenant_id: str
    user_id: str
    query: Query
    context: HypothesisContext
    made: HypothesisSet
    centroid: Centroid


@dataclass(frozen=True)
class HypothesisService:
    """The use cases about hypothesis sets."""

    database: Database
    ranking: RankingService
    catalogues: CatalogueService
    slm: SLM
    fallback: SLM
    clock: Clock
    users: UserStore
    hypotheses: HypothesisStore
    deployments: DeploymentService
    calibrations: CalibrationService
    _: KW_ONLY
    stakes: Stakes
    """Where a tenant says nothing else."""
    k_anonymity: int
    chance: Chance
    """What is left to it where a tenant says nothing else."""
    facet_half_life_days: float

    @property
    def spaces(self) -> Spaces:
        """Where inputs are embedded."""
        return self.ranking.spaces

    async def hypothesize(
        self,
        tenant_id: str,
        user_id: str,
        input_text: str,
        *,
        conversation: Sequence[Turn] = (),
        count: int = 3,
        by_rank: bool = False,
    ) -> HypothesisSet:
        """Propose up to `count` readings of an input and decide whether to ask; creates the user at first
        contact. The set is stored with its scores before it is returned. `by_rank`: the caller shows the options of a
        question by their ranks, so that their order may be drawn."""
        proposed = await self.propose(
            tenant_id, user_id, input_text, conversation=conversation, count=count, by_rank=by_rank
        )
        await self.keep(proposed)
        return proposed.made

    async def propose(
        self,
        tenant_id: str,
        user_id: str,
        input_text: str,
        *,
        conversation: Sequence[Turn] = (),
        count: int = 3,
        by_rank: bool = False,
    ) -> Proposed:
        """The same, and nothing is written: who wants to find the set again has to `keep` it."""
        now = self.clock.now()
        settings = await self.catalogues.settings(tenant_id)
        query, context, background = await self.context(
            tenant_id, user_id, input_text, settings, now, conversation=conversation, count=count
        )
        routed = background.route.routed(user_id) if self.deployments.has_adapters else None
        adapter = background.route.adapter_for(user_id) if self.deployments.has_adapters else None
        readings, reader, adapter = await self._read(tenant_id, context, adapter)
        readings, basis = await weighed(self.spaces, tenant_id, reader, context, readings)
        if settings.ranker:
            readings = ranked_readings(readings, settings.ranker)
        calibration = background.calibration(reader.name)
        shown = shown_hypotheses(readings, calibration, count)
        confidences = [one.confidence for one in shown]
        said = context.catalogue.values_in(input_text)
        specific = specificity(input_text, said, context.intent)
        intent = context.intent.intent if context.intent else None
        decided = decide(confidences, specific, self.stakes_of(settings, intent))
        set_id = uuid4()
        order = self.chance.order_of(settings, set_id, decided, len(shown)) if by_rank else None
        made = HypothesisSet(
            set_id,
            decided,
            clarification_need(confidences, specific),
            ordered(shown, order) if order else shown,
            reader.name,
            reader is not self.slm or query.vector is None,
            calibration,
            basis,
            reader.model,
            reader.prompt_version,
            adapter,
            meanings_of(readings, calibration, shown).showing(range(len(shown))),
            order,
            routed,
            settings.ranker,
        )
        return Proposed(tenant_id, user_id, query, context, made, background.centroid)

    async def keep(self, proposed: Proposed, *, is_learned: bool = True) -> None:
        """Store a set, and its user at first contact; what was said moves the user's centroid where it `is_learned`.
        Raises UserErased."""
        made, intent = proposed.made, proposed.context.intent
        await self._save(proposed.tenant_id, proposed, is_learned=is_learned)
        telemetry_service.count_decision(made.decision)
        log.info(
            "hypotheses_proposed",
            hypothesis_set_id=str(made.set_id),
            count=len(made.hypotheses),
            decision=made.decision,
            gain=round(made.decided.gain, 4),
            intent=intent.intent.name if intent else None,
            top_confidence=round(made.hypotheses[0].confidence, 4) if made.hypotheses else None,
            source=made.source,
            evidence=made.basis.evidence,
            calibration_version=made.calibration_version,
            weighed_s=round(made.basis.seconds, 4),
            weighed_tokens=made.basis.tokens,
            adapter=made.adapter,
            degraded=made.is_degraded,
        )

    def stakes_of(self, settings: TenantSettings, intent: Intent | None) -> Stakes:
        """What is at stake for a tenant's input of an intent."""
        cost, floor = settings.question_cost, settings.auto_advance_confidence
        return Stakes(
            self.stakes.question_cost if cost is None else cost,
            intent.loss if intent else self.stakes.loss,
            floor or self.stakes.floor,
        )

    @follows_switch
    async def context(
        self,
        tenant_id: str,
        user_id: str,
        input_text: str,
        settings: TenantSettings,
        now: datetime,
        *,
        conversation: Sequence[Turn] = (),
        count: int = 3,
    ) -> tuple[Query, HypothesisContext, Background]:
        """All that is known when the input is read, with the tenant's calibration and the user's centroid."""
        query = await self.ranking.read(tenant_id, user_id, input_text)
        vector = query.vector
        catalogue = self.catalogues.catalogue(settings)
        intent = await self.catalogues.match(tenant_id, settings, query.space, vector) if vector is not None else None
        async with self.database.transact(tenant_id) as statements:
            candidates = await self.ranking.candidates(
                statements,
                tenant_id,
                user_id,
                query,
                arm=CONTEXT_ARM,
                where=SearchFilter(now),
                slots=intent.intent.slots if intent else (),
            )
            past = cohort = []
            if vector is not None:
                past = await self.hypotheses.past_choices(
                    statements,
                    tenant_id,
                    user_id,
                    vector=vector,
                    space=query.space,
                    nearest=MIN_CHOICE_SIMILARITY,
                    now=now,
                )
            if vector is not None and intent is not None:
                cohort = await self.hypotheses.cohort_choices(
                    statements,
                    tenant_id,
                    user_id,
                    vector=vector,
                    space=query.space,
                    intent=intent.intent.name,
                    k=self.k_anonymity,
                )
            background = await self.hypotheses.background(statements, tenant_id, user_id)
        looked_at = background.calibration(self.slm.name).examination
        past = [replace(each, weight=weight(each.outcome, each.place, looked_at)) for each in past]
        ranked: list[Ranked] = rank(candidates.found, settings.weights or Weights(), now, CONTEXT_MEMORIES)
        facets = faded(background.facets, now, self.facet_half_life_days)
        made = HypothesisContext(
            query.text, now, catalogue, intent, ranked, past, cohort, facets, tuple(conversation), count
        )
        return query, made, background

    async def input_vectors(self, tenant_id: str, query: Query) -> list[tuple[StoredSpace, Vector]]:
        """An input's vector in the space that serves, then those in the others that are to have what is written, as far
        as they can be had; none where the embedder is out of service."""
        if query.vector is None:
            return []
        also = await self.spaces.embed_also(tenant_id, [query.text])
        return [(query.space, query.vector), *((each.space, each.vectors[0]) for each in also)]

    async def recalibrate(self, tenant_id: str) -> None:
        """Fit the tenant's calibrations anew, those of the sources with enough outcomes since the last fit."""
        await self.calibrations.recalibrate(tenant_id)

    async def _read(
        self, tenant_id: str, context: HypothesisContext, adapter: str | None
    ) -> tuple[Sequence[Reading], SLM, str | None]:
        """The readings, which of the two models made them, and with which adapter. Where an adapter is missing or its
        answer is of no use, the base model answers; a missing one is loaded for those who come later."""
        try:
            try:
                return await self.slm.propose_readings(context, adapter), self.slm, adapter
            except ModelUnavailable as error:
                if adapter is None or error.cause not in OWN_FAULTS:
                    raise
                await self._blame(tenant_id, adapter, error.cause)
            return await self.slm.propose_readings(context), self.slm, None
        except ModelUnavailable as error:
            log.warning("hypotheses_degraded", cause=error.cause, reason=str(error))
            return await self.fallback.propose_readings(context), self.fallback, None

    async def _blame(self, tenant_id: str, adapter: str, cause: str) -> None:
        if cause == MISSING:
            await self.deployments.begin_loading(tenant_id, adapter)
        else:
            log.warning("adapter_failed", adapter=adapter, cause=cause)

    @follows_switch
    async def _save(self, tenant_id: str, proposed: Proposed, *, is_learned: bool) -> None:
        made, context, query, centroid = proposed.made, proposed.context, proposed.query, proposed.centroid
        user_id, now = proposed.user_id, context.now
        intent = context.intent.intent.name if context.intent else None
        row = set_row(tenant_id, user_id, query.text, intent, made, now)
        if (await self.spaces.of(tenant_id)).serving != query.space:  # switched while the model read the input
            query = await self.ranking.read(tenant_id, user_id, query.text)
        vectors = await self.input_vectors(tenant_id, query)
        async with self.database.transact(tenant_id) as statements:
            said = _said(centroid, query, now) if is_learned else centroid
            while not await self.users.remember_said(statements, tenant_id, user_id, seen=centroid, said=said, now=now):
                centroid = await self.users.centroid(statements, tenant_id, user_id, centroid)
                said = _said(centroid, query, now) if is_learned else centroid
            await self.hypotheses.insert_set(statements, row, vectors)


def set_row(
    tenant_id: str, user_id: str, input_text: str, intent: str | None, made: HypothesisSet, now: datetime
) -> dict[str, Any]:
    """A set as it is stored."""
    return {
        "tenant_id": tenant_id,
        "set_id": made.set_id,
        "user_id": user_id,
        "input_text": input_text,
        "intent": intent,
        "decision": made.decision,
        "policy": policy_record(made.decided, made.order, made.route, made.ranker),
        "belief": None if made.meanings is None else meanings_document(made.meanings),
        "clarification_need": made.clarification_need,
        "hypotheses": [as_document(one) for one in made.hypotheses],
        "source": made.source,
        "is_degraded": made.is_degraded,
        "calibration_version": made.calibration_version,
        "basis": made.basis.record(made.source, made.calibration),
        "created_at": now,
        "model": made.model,
        "prompt_version": made.prompt_version,
        "adapter": made.adapter,
    }


def _said(seen: Centroid, query: Query, now: datetime) -> Centroid:
    """Where the centroid `seen` moves when a query is said; nowhere without a vector."""
    if query.vector is None:
        return seen
    held = seen.vector if seen.space == query.space.id else None
    moved, weight = moved_centroid(held, seen.weight, seen.moved_at, query.vector, now)
    return Centroid(moved, query.space.id, weight, now, seen.known_since)


def as_document(hypothesis: Hypothesis) -> dict[str, Any]:
    """A hypothesis as it is stored with its set."""
    return {
        "id": hypothesis.id,
        **reading_document(hypothesis),
        "leanings": dict(hypothesis.leans),
        "confidence": hypothesis.confidence,
        "rank": hypothesis.rank,
        "propensity": hypothesis.propensity,
    }


def maker_of(shown: AnyRow | None) -> Maker:
    """What made a stored set; nobody where there is none."""
    if shown is None:
        return Maker()
    return Maker(shown.model or shown.source, shown.prompt_version, shown.adapter)
