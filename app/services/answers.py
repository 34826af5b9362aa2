"""Answers to the question of a hypothesis set: what the user may mean is moved by Bayes, and asked further or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

import numpy as np
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.answers import content_of, content_stems, coverage, polarity, values_told
from app.domain.basis import calibration_of, from_record
from app.domain.catalogue import Catalogue
from app.domain.decisions import NEVER, decide
from app.domain.errors import InvalidInput, ModelUnavailable, NotFound
from app.domain.hypotheses import HypothesisContext, by_rank, clarification_need, ordered
from app.domain.meanings import Meanings, from_document, hypotheses_of
from app.domain.readings import told_reading
from app.services.hypotheses import HypothesisService, HypothesisSet, set_row
from app.services.spaces import Spaces, follows_switch
from app.services.telemetry import telemetry_service
from app.store.engine import Statements
from app.store.hypotheses import Answer
from app.store.tables import AnyRow

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Answered:
    """How a question was answered: by one of its options, by turning some of them down, or in the user's own words."""

    chosen_id: str | None = None
    rejected_ids: Sequence[str] = ()
    words: str = ""


@dataclass(frozen=True)
class AnswerService:
    """The use cases about answers."""

    hypotheses: HypothesisService

    @property
    def spaces(self) -> Spaces:
        """Where answers are embedded."""
        return self.hypotheses.spaces

    @follows_switch
    async def answer(
        self, tenant_id: str, user_id: str, set_id: UUID, answered: Answered, *, count: int = 3
    ) -> HypothesisSet:
        """What a set becomes once its question was answered, a set of its own. Raises NotFound for a set that is not
        this user's or an option that is not its, InvalidInput where nothing can be asked further."""
        service, now = self.hypotheses, self.hypotheses.clock.now()
        if answered.chosen_id is None and not answered.rejected_ids and not answered.words.strip():
            raise InvalidInput("an answer picks a hypothesis, turns some down, or says something", "answer")
        row = await self._set(tenant_id, user_id, set_id)
        answered = plain(answered, row)
        settings = await service.catalogues.settings(tenant_id)
        catalogue = service.catalogues.catalogue(settings)
        held, is_degraded = await self._moved(tenant_id, row, answered, catalogue)
        intent = catalogue.intent(row.intent) if row.intent else None
        stakes = service.stakes_of(settings, intent)
        positions = held.best[:count]
        if held.has_asked(positions):  # the same question once more brings nothing
            stakes = replace(stakes, question_cost=NEVER)
        shown = hypotheses_of(held, count)
        confidences = [one.confidence for one in shown]
        specific: float = row.policy["specificity"]
        set_id, decided = uuid4(), decide(confidences, specific, stakes)
        order = service.chance.order_of(settings, set_id, decided, len(shown)) if row.policy.get("order") else None
        made = HypothesisSet(
            set_id,
            decided,
            clarification_need(confidences, specific),
            ordered(shown, order) if order else shown,
            row.source,
            row.is_degraded or is_degraded,
            calibration_of(row.basis, row.calibration_version),
            from_record(row.basis).free,
            row.model,
            row.prompt_version,
            row.adapter,
            held.showing(positions),
            order,
            ranker=row.policy.get("ranker"),
        )
        query = await service.ranking.read(tenant_id, user_id, row.input_text)
        vectors = await service.input_vectors(tenant_id, query)
        async with service.database.begin(tenant_id) as connection:
            stored = set_row(tenant_id, user_id, row.input_text, row.intent, made, now)
            await service.hypotheses.insert_set(await Statements.of(connection), stored, vectors)
            await self._settle(connection, tenant_id, user_id, row.set_id, answered, now)
        telemetry_service.count_decision(made.decision)
        log.info(
            "question_answered",
            hypothesis_set_id=str(made.set_id),
            answered=str(row.set_id),
            answers=held.answers,
            decision=made.decision,
            gain=round(made.decided.gain, 4),
            top_confidence=round(confidences[0], 4) if confidences else None,
        )
        return made

    async def _set(self, tenant_id: str, user_id: str, set_id: UUID) -> AnyRow:
        service = self.hypotheses
        async with service.database.begin(tenant_id) as connection:
            row = await service.hypotheses.get_set(connection, tenant_id, user_id, set_id)
        if row is None:
            raise NotFound("no such hypothesis set")
        if not row.belief or not row.hypotheses:
            raise InvalidInput(
                "there is no question in this set: propose anew what the input means", "hypothesis_set_id"
            )
        return row

    async def _settle(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        set_id: UUID,
        answered: Answered,
        now: datetime,
    ) -> None:
        """Record what an answer says of the set it answers: which reading was picked, that none of those shown is
        meant, or that another set goes on from it. Without it only questions that found what was meant would be
        learned from."""
        store = self.hypotheses.hypotheses
        row = await store.get_set(connection, tenant_id, user_id, set_id, lock=True)
        if row is None or row.outcome not in {None, "assumed"}:
            return
        rejected = {*row.rejected_ids, *answered.rejected_ids}
        if rejected != set(row.rejected_ids):
            await store.reject(connection, tenant_id, set_id, sorted(rejected))
        slots = {each["id"]: each["slots"] for each in row.hypotheses}
        if answered.chosen_id is not None:
            chosen = Answer("selected", answered.chosen_id, slots[answered.chosen_id], answered.words or None)
            await store.answer_set(connection, tenant_id, set_id, chosen, now)
        elif rejected >= slots.keys():
            await store.answer_set(connection, tenant_id, set_id, Answer("none"), now)
        elif row.outcome is None:
            await store.note_answered(connection, tenant_id, set_id, now)

    async def _moved(
        self, tenant_id: str, row: AnyRow, answered: Answered, catalogue: Catalogue
    ) -> tuple[Meanings, bool]:
        """What is meant after an answer, and whether its words could not be compared by meaning."""
        held = from_document(row.belief)
        position_of = dict(zip((each["id"] for each in row.hypotheses), held.asked[-1], strict=True))
        unknown = {answered.chosen_id, *answered.rejected_ids} - {None, *position_of}
        if unknown:
            raise NotFound("no such hypothesis in this set")
        chosen = None if answered.chosen_id is None else position_of[answered.chosen_id]
        rejected = [position_of[each] for each in answered.rejected_ids]
        if chosen is not None:
            held = held.after_choice(chosen)
        if rejected:
            held = held.after_rejection(rejected)
        words = answered.words
        if not words:
            return held, False
        said, denied = values_told(words, catalogue)
        if said or denied:
            told = told_reading(HypothesisContext(row.input_text, row.created_at, catalogue), said, words)
            return held.after_values(said, denied, catalogue, told), False
        return await self._after_words(tenant_id, held, words)

    async def _after_words(self, tenant_id: str, held: Meanings, words: str) -> tuple[Meanings, bool]:
        texts = [each.request for each in held.readings]
        try:
            vectors = (await self.spaces.embed(tenant_id, [words, *texts])).vectors
        except ModelUnavailable as error:
            log.warning("embedding_unavailable", cause=error.cause, reason=str(error))
            shares = coverage(content_stems(words), [content_stems(each) for each in texts], {})
            return held.after_words(np.array(shares)), True
        return held.after_words(vectors[1:] @ vectors[0]), False


def plain(answered: Answered, row: AnyRow) -> Answered:
    """The answer to a set's question with a bare yes or no read as what it says: yes is to what was named first, no to
    all of it."""
    words = answered.words
    if not words or answered.chosen_id or answered.rejected_ids or content_stems(content_of(words)):
        return answered
    shown = [each["id"] for each in by_rank(row.hypotheses)]
    said = polarity(words)
    return {"yes": Answered(shown[0]), "no": Answered(rejected_ids=shown), "open": answered}[said]
