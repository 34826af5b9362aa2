"""Ranking: the memories that matter for a text, best first, in the embedding space that serves its user."""

import asyncio
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from app.domain.attributes import AttributeVectors
from app.domain.embeddings import Vector
from app.domain.errors import ModelUnavailable, NotFound
from app.domain.memory import MemoryType
from app.domain.ranking import RERANK_TOP, Candidate, Ranked, Weights, apply_rerank, rank, within
from app.domain.relevance import DEFAULT_FUSION, Fusion
from app.domain.spaces import Embedded, StoredSpace
from app.domain.times import asks_of_oneself
from app.domain.trials import Trial
from app.ports import Clock, Reranker, Tokenizer
from app.request import remaining_s
from app.services.catalogues import CatalogueService
from app.services.recall_log import RecallLog, asked_of, shown_of
from app.services.replicas import Reads
from app.services.retrieval import Retrieval
from app.services.spaces import Spaces, follows_switch
from app.services.trial_spaces import TrialSpaces
from app.store.engine import Database, Statements
from app.store.memories import Asked, MemoryStore, SearchFilter
from app.store.users import UserStore

log = structlog.get_logger(__name__)


RERANK_SHARE = 0.5
"""The share of a request's time that a model which reads memories with the query may take; then the built-in rules
order them."""

RERANK_S = 5.0
"""The same where no request set a deadline."""


@dataclass(frozen=True)
class Found:
    """Ranked memories, the space their similarity was measured in, and whether a part was missing."""

    ranked: Sequence[Ranked]
    space: str
    is_degraded: bool = False
    recall_id: UUID | None = None
    """Under which it is written down, where it is."""
    left_out: int = 0
    """How many more there were, which a token budget had no room for."""


@dataclass(frozen=True)
class Query:
    """A text as memories are searched for it: its vector in the serving space, None when the embedder is out of
    service, and where its user is in the arm of a trial that in the trial's space."""

    text: str
    space: StoredSpace
    vector: Vector | None
    trial: Trial | None = None
    trial_vector: Embedded | None = None
    fusion: Fusion = DEFAULT_FUSION
    """How the arms of a search are weighed for it."""
    attributes: AttributeVectors | None = None
    """Where it asks how things are now: what tells which memories are about the same."""


@dataclass(frozen=True)
class Candidates:
    """Memories that may matter, all by vectors of one space, and whether they were searched for by vector at all."""

    found: Sequence[Candidate]
    space: str
    has_vector: bool
    fusion: Fusion = DEFAULT_FUSION


@dataclass(frozen=True)
class SearchRequest:
    """What to look for: what held at `as_of`, by what was known at `known_at`; None: now. `weights` None means the
    tenant's, else the default."""

    query: str
    limit: int = 10
    types: Sequence[MemoryType] | None = None
    tags: Sequence[str] | None = None
    as_of: datetime | None = None
    known_at: datetime | None = None
    weights: Weights | None = None
    is_reranked: bool | None = None
    """None: as the service does it by default."""
    fusion: Fusion | None = None
    """None: as the tenant has it."""
    token_budget: int | None = None
    """Most tokens that what the memories say has together; those that do not fit are left out whole."""


@dataclass(frozen=True)
class RankingService:
    """Search: embed, look for candidates (one statement for a user of up to 60 memories, else two; two more for one
    with a graph), rank, and rerank where asked."""

    database: Database
    reads: Reads
    spaces: Spaces
    reranker: Reranker
    fallback: Reranker
    catalogues: CatalogueService
    clock: Clock
    memories: MemoryStore
    users: UserStore
    trials: TrialSpaces
    tokenizer: Tokenizer
    recalls: RecallLog
    """Where what was found is written down."""
    _: KW_ONLY
    is_reranking: bool = False
    """Whether memories are reranked where nobody says otherwise: a model that is good at it is there."""

    @follows_switch
    async def search(self, tenant_id: str, user_id: str, request: SearchRequest, *, is_recorded: bool = True) -> Found:
        """The user's memories most relevant to a query, written down unless nobody is shown them. Raises NotFound for
        an unknown user."""
        now = self.clock.now()
        at = request.as_of or request.known_at or now
        query = await self.read(tenant_id, user_id, request.query)
        if request.fusion is not None:
            query = replace(query, fusion=request.fusion)
        where = SearchFilter(at, request.types, request.tags, request.known_at)
        weights = request.weights or (await self.catalogues.settings(tenant_id)).weights or Weights()

        async def look(statements: Statements) -> Candidates:
            return await self.relevant(statements, tenant_id, user_id, query, limit=request.limit, where=where)

        candidates = await self.reads.read(tenant_id, user_id, look)
        if not candidates.found:
            async with self.database.begin(tenant_id) as connection:
                if not await self.users.exists(connection, tenant_id, user_id):
                    raise NotFound("no such user")
        is_reranked = self.is_reranking if request.is_reranked is None else request.is_reranked
        ranked = rank(candidates.found, weights, at, max(request.limit, RERANK_TOP if is_reranked else 0))
        is_degraded = not candidates.has_vector
        if is_reranked:
            ranked, is_replaced = await self.rerank(request.query, ranked)
            is_degraded = is_degraded or is_replaced
        best = told = ranked[: request.limit]
        if request.token_budget is not None:
            told = within(best, request.token_budget, self.tokenizer.count)
        found = Found(told, candidates.space, is_degraded, left_out=len(best) - len(told))
        if not is_recorded:
            return found
        recall_id = self.recalls.add(
            tenant_id,
            user_id,
            "search",
            request.query,
            [shown_of(each) for each in found.ranked],
            space=found.space,
            is_degraded=is_degraded,
            asked=asked_of(
                request.limit,
                request.types,
                request.tags,
                weights,
                query.fusion,
                is_reranked=is_reranked,
                token_budget=request.token_budget,
                known_at=request.known_at,
            ),
            as_of=at,
        )
        return replace(found, recall_id=recall_id)

    async def read(self, tenant_id: str, user_id: str, text: str) -> Query:
        """A text with its vectors, in the space of a trial too where its user is in that arm. No transaction is open
        meanwhile."""
        trial = await self.trials.serving(tenant_id, user_id)
        fusion = (await self.catalogues.settings(tenant_id)).fusion or DEFAULT_FUSION
        if trial is None:
            space, vector = await self._embed(tenant_id, text)
            is_about_now = vector is not None and asks_of_oneself(text)
            attributes = await self.catalogues.attributes(tenant_id, space) if is_about_now else None
            return Query(text, space, vector, fusion=fusion, attributes=attributes)
        (space, vector), trial_vector = await asyncio.gather(
            self._embed(tenant_id, text), self.trials.vector(trial, text)
        )
        return Query(text, space, vector, trial, trial_vector, fusion)

    async def relevant(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        query: Query,
        *,
        limit: int,
        where: SearchFilter,
    ) -> Candidates:
        """The memories most likely to answer a query, by all arms (`app.domain.relevance`), in one space: as
        `candidates`."""
        retrieval = Retrieval(self.memories, query.fusion, query.attributes)
        if query.trial is not None and query.trial_vector is not None:
            embedded = query.trial_vector
            asked = Asked(tenant_id, user_id, query.text, embedded.vectors[0], embedded.space, where, "trial")
            found = await retrieval.relevant(statements, asked, limit)
            if found is not None:
                return Candidates(found, query.trial.space, has_vector=True, fusion=query.fusion)
            log.info("trial_space_incomplete", trial=query.trial.trial_id)
            await self.trials.give(query.trial, tenant_id, user_id)
        asked = Asked(tenant_id, user_id, query.text, query.vector, query.space, where)
        found = await retrieval.relevant(statements, asked, limit)
        return Candidates(found or [], query.space.id, query.vector is not None, query.fusion)

    async def candidates(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        query: Query,
        *,
        arm: int,
        where: SearchFilter,
        slots: Sequence[str] = (),
    ) -> Candidates:
        """The memories that may matter for a query, as `MemoryStore.candidates`, in one space: in the trial's where it
        serves the user and has a vector of every memory that may be found, else in the serving one."""
        if query.trial is not None and query.trial_vector is not None:
            found = await self.memories.trial_candidates(
                statements,
                tenant_id,
                user_id,
                vector=query.trial_vector.vectors[0],
                space=query.trial_vector.space,
                words=query.text,
                arm=arm,
                where=where,
                slots=slots,
            )
            if found is not None:
                return Candidates(found, query.trial.space, has_vector=True)
            log.info("trial_space_incomplete", trial=query.trial.trial_id)
            await self.trials.give(query.trial, tenant_id, user_id)
        found = await self.memories.candidates(
            statements,
            tenant_id,
            user_id,
            vector=query.vector,
            space=query.space,
            words=query.text,
            arm=arm,
            where=where,
            slots=slots,
        )
        return Candidates(found, query.space.id, query.vector is not None)

    async def _embed(self, tenant_id: str, text: str) -> tuple[StoredSpace, Vector | None]:
        """The space that serves, and the vector of `text` there, or None when what embeds is out of service: words
        still find memories."""
        space = (await self.spaces.of(tenant_id)).serving
        try:
            return space, (await self.spaces.embed_in(space, [text])).vectors[0]
        except ModelUnavailable as error:
            log.warning("embedding_unavailable", cause=error.cause, reason=str(error))
            return space, None

    async def rerank(self, query: str, ranked: Sequence[Ranked]) -> tuple[list[Ranked], bool]:
        """The best RERANK_TOP in the order of a model that reads them with the query, the rest behind them; and
        whether the built-in rules stood in for it."""
        head = ranked[:RERANK_TOP]
        if not head:
            return list(ranked), False
        try:
            texts = [item.memory.content for item in head]
            relevances, model, is_replaced = await self.rerank_texts(
                query, texts, RERANK_SHARE * remaining_s(RERANK_S / RERANK_SHARE)
            )
        except ModelUnavailable as error:
            log.warning("reranking_unavailable", cause=error.cause, reason=str(error))
            return list(ranked), True
        reranked = apply_rerank(ranked, relevances)
        moved = sum(a.memory.memory_id != b.memory.memory_id for a, b in zip(head, reranked, strict=False))
        if model == self.fallback.model:
            log.info("memories_reranked", count=len(head), moved=moved)
        else:
            log.info("vllm_reranking", count=len(head), moved=moved, model=model)
        return reranked, is_replaced

    async def rerank_texts(
        self, query: str, documents: Sequence[str], seconds: float | None = None
    ) -> tuple[Sequence[float], str, bool]:
        """(one relevance in 0..1 per document, what computed them, whether the built-in rules stood in, as they do for
        a model that is not done in so many `seconds`). Raises ModelUnavailable when these have no embedding model
        either."""
        try:
            return await self._reranked(query, documents, seconds), self.reranker.model, False
        except ModelUnavailable as error:
            if self.reranker.model == self.fallback.model:
                raise
            log.warning("reranking_degraded", cause=error.cause, reason=str(error))
        return await self.fallback.rerank(query, documents), self.fallback.model, True

    async def _reranked(self, query: str, documents: Sequence[str], seconds: float | None) -> Sequence[float]:
        try:
            async with asyncio.timeout(seconds):
                return await self.reranker.rerank(query, documents)
        except TimeoutError as error:
            raise ModelUnavailable(f"no order within {seconds:g} s", "timeout") from error
