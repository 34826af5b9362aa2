"""The log of recalls: what was found for what is written down after the answer, in nobody's way."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter

from app.domain.ranking import Ranked, Weights
from app.domain.relevance import Fusion, weights_of
from app.ports import Clock
from app.store.engine import Database
from app.store.recalls import Kind, Recall, RecallStore

log = structlog.get_logger(__name__)

RECALLS = Counter("embed_service_recalls_total", "Recalls, by whether they could be written down.", ["outcome"])

MOST_WAITING = 5_000
"""Recalls that wait to be written down; what comes on top of them is left out."""


class RecallLog:
    """Writes recalls down, in nobody's way: one writer, which takes at a time whatever has come meanwhile."""

    def __init__(self, database: Database, recalls: RecallStore, clock: Clock, *, is_kept: bool = True) -> None:
        """Starts nothing; where recalls are not to be kept, none is."""
        self._database = database
        self._recalls = recalls
        self._clock = clock
        self._is_kept = is_kept
        self._waiting: list[tuple[str, Recall]] = []
        self._writer: asyncio.Task[None] | None = None

    def add(
        self,
        tenant_id: str,
        user_id: str,
        kind: Kind,
        query: str,
        shown: Sequence[Mapping[str, Any]],
        *,
        space: str,
        is_degraded: bool = False,
        asked: Mapping[str, Any] | None = None,
        as_of: datetime | None = None,
        recall_id: UUID | None = None,
    ) -> UUID | None:
        """Have a recall written down; its id, None where none is kept or too many wait. `shown`: the memories, each by
        `shown_of`, best first."""
        if not self._is_kept:
            return None
        if len(self._waiting) >= MOST_WAITING:
            RECALLS.labels("left_out").inc()
            return None
        now = self._clock.now()
        recall = Recall(
            recall_id or uuid4(),
            user_id,
            kind,
            query,
            now,
            as_of or now,
            asked or {},
            space,
            is_degraded,
            list(shown),
        )
        self._waiting.append((tenant_id, recall))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return recall.recall_id

    def waiting(self, tenant_id: str, recall_id: UUID) -> Recall | None:
        """A recall that is not written down yet."""
        found = (each for tenant, each in self._waiting if tenant == tenant_id and each.recall_id == recall_id)
        return next(found, None)

    async def aclose(self) -> None:
        """Write down what waits."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        try:
            while self._waiting:
                taken = list(self._waiting)
                by_tenant: dict[str, list[Recall]] = defaultdict(list)
                for tenant_id, recall in taken:
                    by_tenant[tenant_id].append(recall)
                for tenant_id, recalls in by_tenant.items():
                    await self._put(tenant_id, recalls)
                del self._waiting[: len(taken)]
        finally:
            self._writer = None

    async def _put(self, tenant_id: str, recalls: Sequence[Recall]) -> None:
        outcome = "written"
        try:
            async with self._database.begin(tenant_id) as connection:
                await self._recalls.put(connection, tenant_id, recalls)
        except Exception as error:  # noqa: BLE001 - the next ones are still to be written
            outcome = "failed"
            log.error("recalls_not_written", count=len(recalls), error=type(error).__name__)
        RECALLS.labels(outcome).inc(len(recalls))


def shown_of(ranked: Ranked | UUID) -> dict[str, Any]:
    """A memory as a recall holds it; one that was not searched for, but holds whatever is asked, has its id alone."""
    if isinstance(ranked, UUID):
        return {"id": str(ranked)}
    parts = {
        "score": ranked.score,
        "similarity": ranked.similarity,
        "recency": ranked.recency,
        "confidence": ranked.confidence,
        "cosine": ranked.cosine,
        "rerank": ranked.rerank,
        "redundancy": ranked.redundancy,
        "log_odds": ranked.log_odds,
    }
    rounded = {name: None if value is None else round(value, 6) for name, value in parts.items()}
    return {"id": str(ranked.memory.memory_id), **rounded, "arms": [round(each, 6) for each in ranked.arms]}


def asked_of(
    limit: int,
    types: Iterable[str] | None,
    tags: Iterable[str] | None,
    weights: Weights,
    fusion: Fusion,
    *,
    is_reranked: bool,
    token_budget: int | None = None,
    known_at: datetime | None = None,
) -> dict[str, Any]:
    """How memories were asked for, as a recall holds it."""
    return {
        "limit": limit,
        "types": _listed(types),
        "tags": _listed(tags),
        "weights": {
            "similarity": weights.similarity,
            "recency": weights.recency,
            "confidence": weights.confidence,
        },
        "fusion": weights_of(fusion).tolist(),
        "is_reranked": is_reranked,
        "token_budget": token_budget,
        "known_at": None if known_at is None else known_at.isoformat(),
    }


def _listed(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else [str(each) for each in values]
