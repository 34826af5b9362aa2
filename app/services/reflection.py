"""What an input implies and what to ask next, out of the same context hypotheses are read from."""

from collections.abc import Mapping, Sequence

import structlog

from app.domain.errors import ModelUnavailable
from app.domain.hypotheses import HypothesisContext
from app.ports import SLM, Clock
from app.services.catalogues import CatalogueService
from app.services.hypotheses import HypothesisService
from app.services.ranking import RankingService

log = structlog.get_logger(__name__)


class ReflectionService:
    """Enrichment and follow-up questions. Reads only."""

    def __init__(
        self,
        hypotheses: HypothesisService,
        ranking: RankingService,
        catalogues: CatalogueService,
        slm: SLM,
        fallback: SLM,
        clock: Clock,
    ) -> None:
        self._hypotheses = hypotheses
        self._ranking = ranking
        self._catalogues = catalogues
        self._slm = slm
        self._fallback = fallback
        self._clock = clock

    async def enrich(self, tenant_id: str, user_id: str, input_text: str) -> Mapping[str, object]:
        """`implicit_goals`, `inferred_expertise_level` and `next_steps` of an input."""
        context = await self._context(tenant_id, user_id, input_text)
        try:
            return await self._slm.enrich_context(context)
        except ModelUnavailable as error:
            log.warning("enrichment_degraded", reason=str(error))
            return await self._fallback.enrich_context(context)

    async def followups(self, tenant_id: str, user_id: str, conversation_context: str, count: int) -> Sequence[str]:
        """Up to `count` questions about what a conversation leaves open."""
        context = await self._context(tenant_id, user_id, conversation_context)
        try:
            return await self._slm.generate_followup_questions(conversation_context, context, count)
        except ModelUnavailable as error:
            log.warning("followups_degraded", reason=str(error))
            return await self._fallback.generate_followup_questions(conversation_context, context, count)

    async def _context(self, tenant_id: str, user_id: str, text: str) -> HypothesisContext:
        settings = await self._catalogues.settings(tenant_id)
        vector = await self._ranking.embed_or_none(text)
        context, _ = await self._hypotheses.context(tenant_id, user_id, text, vector, settings, self._clock.now())
        return context
