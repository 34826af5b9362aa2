"""Executions: what the user settled on becomes one enriched prompt."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from uuid import UUID, uuid4

import structlog

from app.domain.errors import InvalidInput, ModelUnavailable, NotFound
from app.domain.memory import MemoryType
from app.domain.persona import DEFAULT_FACETS, Facet, Persona, describe
from app.domain.prompt import EnrichedPrompt, Overflow, PromptRequest, compose, fence_gist, overflows
from app.domain.ranking import Ranked, Weights, rank
from app.domain.summaries import extractive_summary
from app.ports import SLM, Clock, Tokenizer
from app.request import remaining_s
from app.services.afterwards import Afterwards
from app.services.catalogues import CatalogueService, TenantSettings
from app.services.choices import Background, Choice, ChoiceService, ExecuteRequest
from app.services.ranking import Candidates, RankingService
from app.services.recall_log import asked_of, shown_of
from app.services.spaces import Spaces, follows_switch
from app.store.engine import Database, Statements
from app.store.hypotheses import HypothesisStore
from app.store.memories import SearchFilter
from app.store.users import UserStore

log = structlog.get_logger(__name__)

PROMPT_MEMORIES = 60
"""Memories offered to a prompt; the budget decides how many fit."""

SEARCHED = PROMPT_MEMORIES // 3
"""The limit of a search that reads so many."""

LEARN_S = 0.25
"""The caller's time that learning from a choice may take; it goes on after the answer."""

MIN_SIMILARITY = 0.2
MIN_SHARE = 0.5
"""A memory whose nearness to the request is below MIN_SIMILARITY, or below this share of the best one's,
stays out of its prompt, unless it says how the user wants things (PREFERENCE, STYLE, CONSTRAINT) or is what
the chosen hypothesis rests on."""

_STANDING = frozenset({MemoryType.PREFERENCE, MemoryType.STYLE, MemoryType.CONSTRAINT})


Gists = Mapping[tuple[str, ...], str]
"""A summary for each run of lines that did not fit."""


@dataclass(frozen=True)
class Execution:
    """An enriched prompt under its id."""

    execution_id: UUID
    prompt: EnrichedPrompt
    is_degraded: bool = False


@dataclass(frozen=True)
class ContextService:
    """Builds enriched prompts."""

    database: Database
    ranking: RankingService
    choices: ChoiceService
    catalogues: CatalogueService
    tokenizer: Tokenizer
    clock: Clock
    users: UserStore
    hypotheses: HypothesisStore
    slm: SLM
    fallback: SLM
    afterwards: Afterwards
    _: KW_ONLY
    token_budget: int
    budget_weights: Mapping[str, float] | None

    async def execute(self, tenant_id: str, user_id: str, request: ExecuteRequest) -> Execution:
        """The enriched prompt for what the user settled on; a choice is recorded and learned from.

        Raises NotFound for a set or hypothesis that is not this user's, UserErased when the user is erased
        meanwhile; creates the user at first contact.
        """
        choice = await self._load_choice(tenant_id, user_id, request)
        settings = await self.catalogues.settings(tenant_id)
        background, is_degraded = await self._load_background(choice, settings)
        asked = self._prompt_request(choice, background, settings)
        gists, is_cut = await self._gists(asked)
        prompt = await asyncio.to_thread(self._compose, asked, gists)
        execution = Execution(uuid4(), prompt, is_degraded or is_cut)
        signal_id = await self.choices.record(choice, background, execution.execution_id, prompt)
        log.info(
            "execution_created",
            execution_id=str(execution.execution_id),
            tokens=prompt.tokens,
            memories=len(prompt.uses),
            redactions=dict(prompt.redactions),
        )
        self._record(choice, background, execution)
        if signal_id is not None:
            await self.afterwards.give(
                self.choices.learn(choice, background, signal_id), min(LEARN_S, remaining_s(LEARN_S))
            )
        return execution

    def _record(self, choice: Choice, background: Background, execution: Execution) -> None:
        """Write down which memories went into the prompt, under the execution's id."""
        ranked = {item.memory.memory_id: item for item in background.ranked}
        used = dict.fromkeys(use.memory_id for use in execution.prompt.uses)
        if used:
            self.ranking.recalls.add(
                choice.tenant_id,
                choice.user_id,
                "execute",
                choice.meaning,
                [shown_of(ranked[memory_id]) for memory_id in used if memory_id in ranked],
                space=background.space,
                is_degraded=execution.is_degraded,
                asked=background.asked,
                as_of=choice.made_at,
                recall_id=execution.execution_id,
            )

    async def _load_choice(self, tenant_id: str, user_id: str, request: ExecuteRequest) -> Choice:
        now = self.clock.now()
        if request.hypothesis_id is not None and request.set_id is None:
            raise InvalidInput("hypothesis_id needs the hypothesis_set_id it belongs to", "hypothesis_set_id")
        if request.set_id is None:
            return Choice(tenant_id, user_id, request, None, None, now)
        async with self.database.begin(tenant_id) as connection:
            shown = await self.hypotheses.get_set(connection, tenant_id, user_id, request.set_id)
        if shown is None:
            raise NotFound("no such hypothesis set")
        chosen = next((each for each in shown.hypotheses if each["id"] == request.hypothesis_id), None)
        if request.hypothesis_id is not None and chosen is None:
            raise NotFound("no such hypothesis in this set")
        return Choice(tenant_id, user_id, request, shown, chosen, now)

    async def _load_background(self, choice: Choice, settings: TenantSettings) -> tuple[Background, bool]:
        """What the prompt is made from, and whether a model was missing."""
        candidates, persona = await self._found(choice.tenant_id, choice)
        weights = settings.weights or Weights()
        ranked = rank(candidates.found, weights, choice.made_at, PROMPT_MEMORIES)
        is_degraded = not candidates.has_vector
        if self.ranking.is_reranking:
            ranked, is_replaced = await self.ranking.rerank(choice.meaning, ranked)
            is_degraded = is_degraded or is_replaced
        asked = asked_of(SEARCHED, None, None, weights, candidates.fusion, is_reranked=self.ranking.is_reranking)
        held = {name: Facet(name) for name in DEFAULT_FACETS} if persona is None else persona.facets
        facets = self.choices.personas.now_of(held, choice.made_at)
        known_since = None if persona is None else persona.known_since
        return Background(facets, ranked, known_since, candidates.space, asked), is_degraded

    @property
    def spaces(self) -> Spaces:
        """Where what a prompt is for is embedded."""
        return self.ranking.spaces

    @follows_switch
    async def _found(self, tenant_id: str, choice: Choice) -> tuple[Candidates, Persona | None]:
        query = await self.ranking.read(tenant_id, choice.user_id, choice.meaning)
        async with self.database.begin(tenant_id) as connection:
            candidates = await self.ranking.relevant(
                await Statements.of(connection),
                tenant_id,
                choice.user_id,
                query,
                limit=SEARCHED,
                where=SearchFilter(choice.made_at),
            )
            return candidates, await self.users.persona(connection, tenant_id, choice.user_id)

    def _prompt_request(self, choice: Choice, background: Background, settings: TenantSettings) -> PromptRequest:
        return PromptRequest(
            input_text=choice.request.input_text,
            request=choice.meaning,
            memories=relevant(background.ranked, choice.evidence),
            persona=describe(background.facets),
            token_budget=choice.request.token_budget or settings.token_budget or self.token_budget,
            weights=self.budget_weights,
        )

    async def _gists(self, asked: PromptRequest) -> tuple[Gists, bool]:
        """What a language model makes of the lines that do not fit, and whether it failed to for some; rules need
        no head start."""
        if self.slm.prompt_version is None:
            return {}, False
        found = await asyncio.to_thread(overflows, asked, self.tokenizer.count)
        made = await asyncio.gather(*(self._gist(overflow) for overflow in found))
        gists = {overflow.lines: gist for overflow, gist in zip(found, made, strict=True) if gist is not None}
        return gists, len(gists) < len(found)

    async def _gist(self, overflow: Overflow) -> str | None:
        room = overflow.max_tokens - self.tokenizer.count(fence_gist(""))
        try:
            return fence_gist(await self.slm.summarize(overflow.contents, max(16, room)))
        except ModelUnavailable as error:
            log.warning("summary_degraded", cause=error.cause, reason=str(error))
            return None

    def _compose(self, asked: PromptRequest, gists: Gists) -> EnrichedPrompt:
        count = self.tokenizer.count

        def summarise(lines: Sequence[str], max_tokens: int) -> str:
            gist = gists.get(tuple(lines), "")
            return gist if gist and count(gist) <= max_tokens else extractive_summary(lines, max_tokens, count)

        return compose(asked, count, self.tokenizer.truncate, summarise, frozenset(gists.values()))


def relevant(ranked: Sequence[Ranked], evidence: frozenset[UUID]) -> list[Ranked]:
    """The memories that belong in a prompt, in their order."""
    best = max((item.nearness for item in ranked), default=0.0)
    least = max(MIN_SIMILARITY, MIN_SHARE * best)
    return [
        item
        for item in ranked
        if item.nearness >= least or item.memory.type in _STANDING or item.memory.memory_id in evidence
    ]
