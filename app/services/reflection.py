"""What an input implies and what to ask next, out of the same context hypotheses are read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from app.domain.errors import ModelUnavailable
from app.domain.hypotheses import HypothesisContext
from app.ports import SLM, Clock
from app.services.catalogues import CatalogueService
from app.services.hypotheses import HypothesisService

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ReflectionService:
    """Enrichment and follow-up questions. Reads only."""

    hypotheses: HypothesisService
    catalogues: CatalogueService
    slm: SLM
    fallback: SLM
    clock: Clock

    async def enrich(self, tenant_id: str, user_id: str, input_text: str) -> tuple[Mapping[str, object], bool]:
        """`implicit_goals`, `inferred_expertise_level` and `next_steps` of an input, and whether the local rules
        stood in."""
        context = await self._context(tenant_id, user_id, input_text)
        try:
            return await self.slm.enrich_context(context), False
        except ModelUnavailable as error:
            log.warning("enrichment_degraded", cause=error.cause, reason=str(error))
            return await self.fallback.enrich_context(context), True

    async def followups(
        self, tenant_id: str, user_id: str, conversation_context: str, count: int
    ) -> tuple[Sequence[str], bool]:
        """Up to `count` questions about what a conversation leaves open, and whether the local rules stood in."""
        context = await self._context(tenant_id, user_id, conversation_context)
        try:
            return await self.slm.generate_followup_questions(conversation_context, context, count), False
        except ModelUnavailable as error:
            log.warning("followups_degraded", cause=error.cause, reason=str(error))
            return await self.fallback.generate_followup_questions(conversation_context, context, count), True

    async def _context(self, tenant_id: str, user_id: str, text: str) -> HypothesisContext:
        settings = await self.catalogues.settings(tenant_id)
        _, context, _ = await self.hypotheses.context(tenant_id, user_id, text, settings, self.clock.now())
        return context
