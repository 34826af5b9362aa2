"""Ranking: the memories that matter for a text, best first."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

import structlog

from app.domain.embeddings import Vector
from app.domain.errors import ModelUnavailable, NotFound
from app.domain.memory import MemoryType
from app.domain.ranking import RERANK_TOP, Ranked, Weights, apply_rerank, rank
from app.ports import Clock, Embedder, Reranker
from app.services.catalogues import CatalogueService
from app.store.engine import Database
from app.store.memories import MemoryStore, SearchFilter
from app.store.users import UserStore

log = structlog.get_logger(__name__)

ARM = 20
"""Candidates from each arm (vector, words) of a search; never fewer than twice the limit."""


@dataclass(frozen=True)
class Found:
    """Ranked memories, the space their similarity was measured in, and whether a part was missing."""

    ranked: Sequence[Ranked]
    space: str
    is_degraded: bool = False


@dataclass(frozen=True)
class SearchRequest:
    """What to look for. `weights` None means the tenant's, else the default."""

    query: str
    limit: int = 10
    types: Sequence[MemoryType] | None = None
    tags: Sequence[str] | None = None
    as_of: datetime | None = None
    weights: Weights | None = None
    is_reranked: bool | None = None
    """None: as the service does it by default."""


@dataclass(frozen=True)
class RankingService:
    """Search: embed, one round trip for the candidates, rank, and rerank where asked."""

    database: Database
    embedder: Embedder
    reranker: Reranker
    fallback: Reranker
    catalogues: CatalogueService
    clock: Clock
    memories: MemoryStore
    users: UserStore
    _: KW_ONLY
    is_reranking: bool = False
    """Whether memories are reranked where nobody says otherwise: a model that is good at it is there."""

    async def search(self, tenant_id: str, user_id: str, request: SearchRequest) -> Found:
        """The user's memories most relevant to a query. Raises NotFound for an unknown user."""
        now = self.clock.now()
        at = request.as_of or now
        vector = await self.embed_or_none(request.query)
        async with self.database.transact(tenant_id) as statements:
            candidates = await self.memories.candidates(
                statements,
                tenant_id,
                user_id,
                vector=vector,
                space=self.embedder.space.id,
                words=request.query,
                arm=max(ARM, 2 * request.limit),
                where=SearchFilter(at, request.types, request.tags),
            )
        if not candidates:
            async with self.database.begin(tenant_id) as connection:
                if not await self.users.exists(connection, tenant_id, user_id):
                    raise NotFound("no such user")
        weights = request.weights or (await self.catalogues.settings(tenant_id)).weights or Weights()
        is_reranked = self.is_reranking if request.is_reranked is None else request.is_reranked
        ranked = rank(candidates, weights, at, max(request.limit, RERANK_TOP if is_reranked else 0))
        is_degraded = vector is None
        if is_reranked:
            ranked, is_replaced = await self.rerank(request.query, ranked)
            is_degraded = is_degraded or is_replaced
        return Found(ranked[: request.limit], self.embedder.space.id, is_degraded)

    async def embed_or_none(self, text: str) -> Vector | None:
        """The vector of `text`, or None when the embedder is out of service: words still find memories."""
        try:
            return (await self.embedder.embed([text]))[0]
        except ModelUnavailable as error:
            log.warning("embedding_unavailable", cause=error.cause, reason=str(error))
            return None

    async def rerank(self, query: str, ranked: Sequence[Ranked]) -> tuple[list[Ranked], bool]:
        """The best RERANK_TOP in the order of a model that reads them with the query, the rest behind them; and
        whether the built-in rules stood in for it."""
        head = ranked[:RERANK_TOP]
        if not head:
            return list(ranked), False
        try:
            relevances, model, is_replaced = await self.rerank_texts(query, [item.memory.content for item in head])
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

    async def rerank_texts(self, query: str, documents: Sequence[str]) -> tuple[Sequence[float], str, bool]:
        """(one relevance in 0..1 per document, what computed them, whether the built-in rules stood in). Raises
        ModelUnavailable when these have no embedding model either."""
        try:
            return await self.reranker.rerank(query, documents), self.reranker.model, False
        except ModelUnavailable as error:
            if self.reranker.model == self.fallback.model:
                raise
            log.warning("reranking_degraded", cause=error.cause, reason=str(error))
        return await self.fallback.rerank(query, documents), self.fallback.model, True
