"""Executions: the chosen hypothesis becomes one enriched prompt, and the choice is learned from."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from app.domain.errors import InvalidInput, NotFound
from app.domain.extraction import statements_in
from app.domain.memory import Draft, MemoryType
from app.domain.persona import DEFAULT_FACETS, Facet, Signal, describe
from app.domain.prompt import EnrichedPrompt, PromptRequest, compose
from app.domain.ranking import Ranked, Weights, rank
from app.domain.summaries import extractive_summary
from app.ports import Clock, Tokenizer
from app.services.catalogues import CatalogueService
from app.services.hypotheses import HypothesisService
from app.services.memories import MemoryService
from app.services.persona import PersonaService
from app.services.ranking import RankingService
from app.services.training import TrainingDataCollector
from app.store.engine import Database
from app.store.hypotheses import Answer, HypothesisStore
from app.store.memories import MemoryStore, SearchFilter
from app.store.tables import AnyRow
from app.store.users import UserStore

log = structlog.get_logger(__name__)

PROMPT_MEMORIES = 60
"""Memories offered to a prompt; the budget decides how many fit."""

MIN_SIMILARITY = 0.15
"""A memory further from the request than this stays out of its prompt, unless it says how the user wants
things (PREFERENCE, STYLE, CONSTRAINT) or is the hypothesis's evidence."""

_STANDING = frozenset({MemoryType.PREFERENCE, MemoryType.STYLE, MemoryType.CONSTRAINT})
LEARNED_CONFIDENCE = 0.7


@dataclass(frozen=True)
class ExecuteRequest:
    """What the user settled on: a shown hypothesis, their own answer, or just the input."""

    input_text: str
    set_id: UUID | None = None
    hypothesis_id: str | None = None
    custom_answer: str | None = None
    token_budget: int | None = None


@dataclass(frozen=True)
class Execution:
    """An enriched prompt under its id."""

    execution_id: UUID
    prompt: EnrichedPrompt


class ContextService:
    """Builds enriched prompts and records the choices behind them."""

    def __init__(
        self,
        database: Database,
        ranking: RankingService,
        hypotheses: HypothesisService,
        memories: MemoryService,
        personas: PersonaService,
        catalogues: CatalogueService,
        collector: TrainingDataCollector,
        tokenizer: Tokenizer,
        clock: Clock,
        memory_store: MemoryStore,
        user_store: UserStore,
        hypothesis_store: HypothesisStore,
        *,
        space: str,
        token_budget: int,
        budget_weights: Mapping[str, float] | None,
    ) -> None:
        self._database = database
        self._ranking = ranking
        self._hypotheses = hypotheses
        self._memories = memories
        self._personas = personas
        self._catalogues = catalogues
        self._collector = collector
        self._tokenizer = tokenizer
        self._clock = clock
        self._memory_store = memory_store
        self._user_store = user_store
        self._hypothesis_store = hypothesis_store
        self._space = space
        self._token_budget = token_budget
        self._budget_weights = budget_weights

    async def execute(self, tenant_id: str, user_id: str, request: ExecuteRequest) -> Execution:
        """The enriched prompt for what the user settled on. Raises NotFound for a set or hypothesis that is
        not this user's; creates the user at first contact."""
        now = self._clock.now()
        shown, chosen = await self._load_choice(tenant_id, user_id, request)
        meaning = _meaning(request, chosen)
        vector = await self._ranking.embed_or_none(meaning)
        evidence = frozenset(UUID(each) for each in chosen["evidence"]) if chosen else frozenset[UUID]()
        settings = await self._catalogues.settings(tenant_id)
        async with self._database.begin(tenant_id) as connection:
            candidates = await self._memory_store.candidates(
                connection,
                tenant_id,
                user_id,
                vector=vector,
                space=self._space,
                words=meaning,
                arm=PROMPT_MEMORIES,
                where=SearchFilter(now),
            )
            persona = await self._user_store.persona(connection, tenant_id, user_id)
        ranked = rank(candidates, settings.weights or Weights(), now, PROMPT_MEMORIES)
        facets = persona.facets if persona else {name: Facet(name) for name in DEFAULT_FACETS}
        prompt = await asyncio.to_thread(
            compose,
            PromptRequest(
                input_text=request.input_text,
                request=meaning,
                memories=[item for item in ranked if _belongs(item, evidence)],
                persona=describe(facets),
                token_budget=request.token_budget or settings.token_budget or self._token_budget,
                weights=self._budget_weights,
            ),
            self._tokenizer.count,
            self._tokenizer.truncate,
            self._summarise,
        )
        execution = Execution(uuid4(), prompt)
        signal_id = await self._save(tenant_id, user_id, request, meaning, shown, chosen, execution, now)
        log.info(
            "execution_created",
            execution_id=str(execution.execution_id),
            tokens=prompt.tokens,
            memories=len(prompt.uses),
            redactions=dict(prompt.redactions),
        )
        await self._collect(tenant_id, user_id, request, shown, facets, ranked, prompt)
        if signal_id is not None:
            await self._learn(tenant_id, user_id, request, shown, chosen, meaning, facets, signal_id)
        return execution

    async def _load_choice(
        self, tenant_id: str, user_id: str, request: ExecuteRequest
    ) -> tuple[AnyRow | None, Mapping[str, Any] | None]:
        if request.hypothesis_id is not None and request.set_id is None:
            raise InvalidInput("hypothesis_id needs the hypothesis_set_id it belongs to", "hypothesis_set_id")
        if request.set_id is None:
            return None, None
        async with self._database.begin(tenant_id) as connection:
            shown = await self._hypothesis_store.get_set(connection, tenant_id, user_id, request.set_id)
        if shown is None:
            raise NotFound("no such hypothesis set")
        if request.hypothesis_id is None:
            return shown, None
        chosen = next((each for each in shown.hypotheses if each["id"] == request.hypothesis_id), None)
        if chosen is None:
            raise NotFound("no such hypothesis in this set")
        return shown, chosen

    async def _save(
        self,
        tenant_id: str,
        user_id: str,
        request: ExecuteRequest,
        meaning: str,
        shown: AnyRow | None,
        chosen: Mapping[str, Any] | None,
        execution: Execution,
        now: datetime,
    ) -> UUID | None:
        """Write the execution, what became of the set, and the signal; the signal's id when the user chose."""
        prompt = execution.prompt
        answer = _answer(request, shown, chosen)
        is_choice = answer is not None and answer.outcome != "assumed"
        signal_id = uuid4() if is_choice or request.custom_answer else None
        async with self._database.begin(tenant_id) as connection:
            await self._user_store.ensure(connection, tenant_id, user_id, now)
            await self._hypothesis_store.insert_execution(
                connection,
                {
                    "tenant_id": tenant_id,
                    "execution_id": execution.execution_id,
                    "user_id": user_id,
                    "set_id": request.set_id,
                    "hypothesis_id": request.hypothesis_id,
                    "custom_answer": request.custom_answer,
                    "input_text": request.input_text,
                    "request": meaning,
                    "prompt": prompt.text,
                    "tokens": prompt.tokens,
                    "memories_used": [
                        {"id": str(use.memory_id), "score": use.score, "section": use.section} for use in prompt.uses
                    ],
                    "created_at": now,
                },
            )
            if shown is not None and answer is not None:
                await self._hypothesis_store.answer_set(connection, tenant_id, shown.set_id, answer, now)
            if signal_id is not None:
                await self._hypothesis_store.insert_signal(
                    connection,
                    {
                        "tenant_id": tenant_id,
                        "signal_id": signal_id,
                        "user_id": user_id,
                        "kind": "selection",
                        "set_id": request.set_id,
                        "execution_id": execution.execution_id,
                        "body": {
                            "hypothesis_id": request.hypothesis_id,
                            "custom_answer": request.custom_answer,
                        },
                        "created_at": now,
                    },
                )
        return signal_id

    async def _learn(
        self,
        tenant_id: str,
        user_id: str,
        request: ExecuteRequest,
        shown: AnyRow | None,
        chosen: Mapping[str, Any] | None,
        meaning: str,
        facets: Mapping[str, Facet],
        signal_id: UUID,
    ) -> None:
        """Memories, facets and calibration out of a choice. The prompt stands whatever happens here."""
        rejected = tuple(
            each["question"] for each in (shown.hypotheses if shown else ()) if chosen is None or each is not chosen
        )
        signal = Signal("selection", facets, chosen_text=meaning, rejected_texts=rejected)
        await self._personas.learn(tenant_id, user_id, signal, signal_id=signal_id)
        drafts = learned_drafts(request, chosen, meaning)
        if drafts:
            await self._memories.add(tenant_id, user_id, drafts)
        await self._hypotheses.recalibrate(tenant_id)

    async def _collect(
        self,
        tenant_id: str,
        user_id: str,
        request: ExecuteRequest,
        shown: AnyRow | None,
        facets: Mapping[str, Facet],
        ranked: Sequence[Ranked],
        prompt: EnrichedPrompt,
    ) -> None:
        """Keep what was shown and chosen, and how the memories were ranked, as training samples."""
        if shown is not None:
            await asyncio.to_thread(
                self._collector.log_hypotheses,
                user_id=user_id,
                user_input=request.input_text,
                hypotheses=shown.hypotheses,
                selected_id=request.hypothesis_id,
                persona_facets={name: facet.value for name, facet in facets.items()},
                recent_goals=_contents(ranked, MemoryType.GOAL),
                preferences=_contents(ranked, MemoryType.PREFERENCE),
                tenant_id=tenant_id,
                hypothesis_set_id=shown.set_id,
                model=shown.source,
            )
        if ranked:
            await asyncio.to_thread(
                self._collector.log_ranking,
                user_id=user_id,
                query=request.input_text,
                candidates=[_ranking_sample(item) for item in ranked],
                used_ids=[use.memory_id for use in prompt.uses],
                tenant_id=tenant_id,
            )

    def _summarise(self, texts: Sequence[str], max_tokens: int) -> str:
        return extractive_summary(texts, max_tokens, self._tokenizer.count)


def _meaning(request: ExecuteRequest, chosen: Mapping[str, Any] | None) -> str:
    """What the user means, in one sentence: the chosen reading, refined by their own words."""
    base = chosen["request"] if chosen else request.input_text
    return f"{base}. {request.custom_answer}" if request.custom_answer else base


def _contents(ranked: Sequence[Ranked], kind: MemoryType) -> list[str]:
    return [item.memory.content for item in ranked if item.memory.type is kind]


def _ranking_sample(item: Ranked) -> dict[str, Any]:
    return {
        "id": str(item.memory.memory_id),
        "type": item.memory.type.value,
        "content": item.memory.content,
        "score": item.score,
        "similarity": item.similarity,
        "recency": item.recency,
        "confidence": item.confidence,
    }


def _belongs(item: Ranked, evidence: frozenset[UUID]) -> bool:
    return item.similarity >= MIN_SIMILARITY or item.memory.type in _STANDING or item.memory.memory_id in evidence


def _answer(request: ExecuteRequest, shown: AnyRow | None, chosen: Mapping[str, Any] | None) -> Answer | None:
    """What became of the set. Taking the first reading of a set that advanced by itself is no choice of
    the user's: it counts only once they are content with the result."""
    if shown is None:
        return None
    if chosen is None:
        return Answer("custom", answer=request.custom_answer) if request.custom_answer else None
    is_assumed = shown.decision == "auto_advance" and chosen["id"] == shown.hypotheses[0]["id"]
    outcome = "assumed" if is_assumed and not request.custom_answer else "selected"
    return Answer(outcome, chosen["id"], chosen["slots"], request.custom_answer)


def learned_drafts(request: ExecuteRequest, chosen: Mapping[str, Any] | None, meaning: str) -> list[Draft]:
    """Memories a choice gives: what was wanted, and what the user's own answer states."""
    drafts = statements_in(request.custom_answer or "", "selection")
    if chosen is not None:
        drafts.insert(0, Draft(MemoryType.GOAL, chosen["request"], LEARNED_CONFIDENCE, source="selection"))
    elif request.custom_answer and not drafts:
        drafts.append(Draft(MemoryType.GOAL, meaning, LEARNED_CONFIDENCE, source="selection"))
    return drafts
