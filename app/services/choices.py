"""Choices: what a user settled on, what becomes of the set it came from, and what is learned from it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from app.domain.errors import NotFound, UserErased
from app.domain.extraction import statements_in
from app.domain.instructions import offered, told
from app.domain.leanings import leanings_of
from app.domain.memory import Draft, MemoryType
from app.domain.persona import Facet, Signal
from app.domain.prompt import EnrichedPrompt
from app.domain.ranking import Ranked
from app.services.deployments import DeploymentService
from app.services.gate import Candidate, GateService
from app.services.hypotheses import HypothesisService, maker_of
from app.services.persona import PersonaService
from app.services.training import TrainingDataCollector
from app.store.engine import Database
from app.store.hypotheses import Answer, HypothesisStore
from app.store.tables import AnyRow
from app.store.users import UserStore

log = structlog.get_logger(__name__)

SOURCE = "selection"

MAX_QUOTE = 500
"""Characters of what was asked that a memory of the choice quotes."""

GOAL_CONFIDENCE = 0.7
TASTE_CONFIDENCE = 0.6
"""How sure a chosen reading makes the service of what was wanted, and of a taste the user had not stated."""


@dataclass(frozen=True)
class ExecuteRequest:
    """What the user settled on: a shown hypothesis, their own answer, or just the input."""

    input_text: str
    set_id: UUID | None = None
    hypothesis_id: str | None = None
    custom_answer: str | None = None
    token_budget: int | None = None


@dataclass(frozen=True)
class Choice:
    """An execute request with the set and hypothesis it names, as they were stored."""

    tenant_id: str
    user_id: str
    request: ExecuteRequest
    shown: AnyRow | None
    chosen: Mapping[str, Any] | None
    made_at: datetime

    @property
    def meaning(self) -> str:
        """What the user means, in one sentence: the chosen reading, refined by their own words."""
        base = self.chosen["request"] if self.chosen else self.request.input_text
        return f"{base}. {self.request.custom_answer}" if self.request.custom_answer else base

    @property
    def evidence(self) -> frozenset[UUID]:
        """The memories the chosen reading rests on."""
        return frozenset(UUID(each) for each in self.chosen["evidence"]) if self.chosen else frozenset()

    @property
    def answer(self) -> Answer | None:
        """What becomes of the set. Taking the first reading of a set that advanced by itself is no choice of
        the user's: it counts only once they are content with the result."""
        if self.shown is None:
            return None
        own_words = self.request.custom_answer
        if self.chosen is None:
            return Answer("custom", answer=own_words) if own_words else None
        is_first = self.chosen["id"] == self.shown.hypotheses[0]["id"]
        is_assumed = self.shown.decision == "auto_advance" and is_first and not own_words
        return Answer("assumed" if is_assumed else "selected", self.chosen["id"], self.chosen["slots"], own_words)

    @property
    def is_deliberate(self) -> bool:
        """Whether the user chose or said something, rather than went along."""
        is_selected = self.answer is not None and self.answer.outcome != "assumed"
        return is_selected or self.request.custom_answer is not None


@dataclass(frozen=True)
class Background:
    """What a prompt was made from: the facets of the moment, the ranked memories, since when the user is known (None:
    not before), and how the memories were found, as a recall holds it."""

    facets: Mapping[str, Facet]
    ranked: Sequence[Ranked]
    known_since: datetime | None
    space: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ChoiceService:
    """Records choices and learns from them."""

    database: Database
    hypotheses: HypothesisService
    gate: GateService
    personas: PersonaService
    collector: TrainingDataCollector
    users: UserStore
    hypothesis_store: HypothesisStore
    deployments: DeploymentService

    async def record(
        self, choice: Choice, background: Background, execution_id: UUID, prompt: EnrichedPrompt
    ) -> UUID | None:
        """Write the execution, what became of the set, and the signal, and keep the training samples; the
        signal's id when the user chose. Raises UserErased."""
        signal_id = uuid4() if choice.is_deliberate else None
        async with self.database.begin(choice.tenant_id) as connection:
            await self.users.ensure(
                connection, choice.tenant_id, choice.user_id, choice.made_at, known_since=background.known_since
            )
            await self.hypothesis_store.insert_execution(connection, _execution_row(choice, execution_id, prompt))
            if choice.shown is not None and choice.answer is not None:
                await self.hypothesis_store.answer_set(
                    connection, choice.tenant_id, choice.shown.set_id, choice.answer, choice.made_at
                )
            if signal_id is not None:
                await self.hypothesis_store.insert_signal(connection, _signal_row(choice, execution_id, signal_id))
            if self.collector.is_enabled and await self.users.consents(connection, choice.tenant_id, choice.user_id):
                # While the user is held, so that an erasure comes before these lines or finds them.
                await asyncio.to_thread(self._collect, choice, background, prompt)
        return signal_id

    async def learn(self, choice: Choice, background: Background, signal_id: UUID) -> None:
        """Facets, memories and calibration out of a choice. The execution stands whatever happens here."""
        signal = choice_signal(choice, background.facets)
        own_words = choice.request.custom_answer or ""
        stated = statements_in(own_words, SOURCE)
        drafts = chosen_drafts(choice, is_stated=bool(stated))
        candidates = [Candidate(draft, [choice.request.input_text, own_words]) for draft in stated]
        known_since = background.known_since or choice.made_at
        try:
            await self.personas.learn(choice.tenant_id, choice.user_id, signal, signal_id=signal_id)
            await self.gate.remember(choice.tenant_id, choice.user_id, candidates, drafts, known_since=known_since)
        except (UserErased, NotFound):
            log.info("learning_dropped", reason="the user was erased meanwhile")
        await self.hypotheses.recalibrate(choice.tenant_id)
        await self.deployments.watch(choice.tenant_id)

    def _collect(self, choice: Choice, background: Background, prompt: EnrichedPrompt) -> None:
        """Keep what was shown and chosen, and how the memories were ranked, as training samples."""
        maker = maker_of(choice.shown)
        if choice.shown is not None and choice.is_deliberate:
            self.collector.log_hypotheses(
                user_id=choice.user_id,
                user_input=choice.request.input_text,
                hypotheses=choice.shown.hypotheses,
                selected_id=choice.request.hypothesis_id,
                persona_facets={name: facet.value for name, facet in background.facets.items()},
                recent_goals=_contents(background.ranked, MemoryType.GOAL),
                preferences=_contents(background.ranked, MemoryType.PREFERENCE),
                tenant_id=choice.tenant_id,
                memories=[told(each) for each in offered(background.ranked)],
                hypothesis_set_id=choice.shown.set_id,
                maker=maker,
            )
        if background.ranked:
            self.collector.log_ranking(
                user_id=choice.user_id,
                query=choice.request.input_text,
                candidates=[_ranking_sample(item) for item in background.ranked],
                used_ids=[use.memory_id for use in prompt.uses],
                tenant_id=choice.tenant_id,
                hypothesis_set_id=choice.request.set_id,
                maker=maker,
            )


def choice_signal(choice: Choice, facets: Mapping[str, Facet]) -> Signal:
    """What a choice says of facets: a comparison with the others, and the user's own words; where the options all lean
    alike, or none was taken, what their words tell."""
    options = choice.shown.hypotheses if choice.shown else ()
    rejected = tuple(each["question"] for each in options if each is not choice.chosen)
    shown = tuple({**leanings_of(each["request"], facets), **each.get("leanings", {})} for each in options)
    if choice.chosen is None or all(each == shown[0] for each in shown):
        return Signal("selection", facets, chosen_text=choice.meaning, rejected_texts=rejected)
    place = next(index for index, each in enumerate(options) if each is choice.chosen)
    return Signal("selection", facets, comment=choice.request.custom_answer or "", shown=shown, chosen=place)


def chosen_drafts(choice: Choice, *, is_stated: bool) -> list[Draft]:
    """Memories that a choice gives by being made: what was wanted, and the taste shown by taking a reading that did not
    come from anything they had said. An answer of their own is what was wanted unless it states something."""
    own_words, said = choice.request.custom_answer, choice.request.input_text
    if choice.chosen is None:
        if not own_words or is_stated:
            return []
        return [Draft(MemoryType.GOAL, choice.meaning, GOAL_CONFIDENCE, source=SOURCE, quote=own_words[:MAX_QUOTE])]
    goal = Draft(MemoryType.GOAL, choice.chosen["request"], GOAL_CONFIDENCE, source=SOURCE, quote=said[:MAX_QUOTE])
    if choice.chosen["origin"] not in {"option", "cohort"} or not choice.chosen["slots"]:
        return [goal]
    taste = f"For “{said[:200]}” I chose {', '.join(choice.chosen['slots'].values())}"
    return [goal, Draft(MemoryType.PREFERENCE, taste, TASTE_CONFIDENCE, source=SOURCE, quote=said[:MAX_QUOTE])]


def _execution_row(choice: Choice, execution_id: UUID, prompt: EnrichedPrompt) -> dict[str, Any]:
    uses = [{"id": str(use.memory_id), "score": use.score, "section": use.section} for use in prompt.uses]
    return {
        "tenant_id": choice.tenant_id,
        "execution_id": execution_id,
        "user_id": choice.user_id,
        "set_id": choice.request.set_id,
        "hypothesis_id": choice.request.hypothesis_id,
        "custom_answer": choice.request.custom_answer,
        "input_text": choice.request.input_text,
        "request": choice.meaning,
        "prompt": prompt.text,
        "tokens": prompt.tokens,
        "memories_used": uses,
        "created_at": choice.made_at,
    }


def _signal_row(choice: Choice, execution_id: UUID, signal_id: UUID) -> dict[str, Any]:
    return {
        "tenant_id": choice.tenant_id,
        "signal_id": signal_id,
        "user_id": choice.user_id,
        "kind": "selection",
        "set_id": choice.request.set_id,
        "execution_id": execution_id,
        "body": {"hypothesis_id": choice.request.hypothesis_id, "custom_answer": choice.request.custom_answer},
        "created_at": choice.made_at,
    }


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
