"""How a tenant's searches weigh their arms: learned from judged recalls, promoted by an estimate, taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import structlog

from app.domain.errors import NotFound, NotReady
from app.domain.learned_weights import LEAST_RECALLS, LEAST_USERS, Estimate, estimate, fit, judged_of
from app.domain.relevance import ARMS, fusion_of, weights_of
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.store.engine import Database
from app.store.recalls import RecallStore

log = structlog.get_logger(__name__)

MOST_RECALLS = 20_000
"""Judged recalls that are learned from, the latest."""

KEPT = 10
"""Earlier weights that can be gone back to."""


@dataclass(frozen=True)
class Learned:
    """Weights by the names of their arms: those that hold, those that were learned, and what these would gain."""

    held: Mapping[str, float]
    learned: Mapping[str, float]
    estimate: Estimate

    @property
    def reason(self) -> str:
        """Whether they may be promoted, in words."""
        known = self.estimate
        if known.recalls < LEAST_RECALLS or known.users < LEAST_USERS:
            return (
                f"{known.recalls} judged recalls of {known.users} users: {LEAST_RECALLS} of {LEAST_USERS} are the least"
            )
        if not known.is_gain:
            return f"the interval of the gain, {known.low:+.4f} to {known.high:+.4f}, is not above 0"
        return f"a gain of {known.gain:+.4f}, {known.low:+.4f} to {known.high:+.4f}"


@dataclass(frozen=True)
class SearchPolicy:
    """The use cases about the weights of searches."""

    database: Database
    catalogues: CatalogueService
    recalls: RecallStore
    clock: Clock

    async def status(self, tenant_id: str) -> dict[str, Any]:
        """The weights that hold, since when, with what they were promoted by, and how many recalls were judged."""
        held = await self._held(tenant_id)
        async with self.database.begin(tenant_id) as connection:
            judged = await self.recalls.count_judged(connection, tenant_id)
        return {**held, "judged_recalls": judged}

    async def fit(self, tenant_id: str) -> Learned:
        """Learn weights from judged recalls, and estimate what they would gain. Changes nothing."""
        held = await self._held(tenant_id)
        weights = np.array([held["weights"][name] for name in ARMS])
        async with self.database.begin(tenant_id) as connection:
            found = await self.recalls.judged(connection, tenant_id, MOST_RECALLS)
        judged = [
            each
            for recall in found
            if (each := judged_of(recall.user_id, recall.shown, recall.helpful or (), recall.asked.get("fusion") or ()))
        ]
        known = estimate(judged, weights)
        learned = fit(judged, weights)
        log.info("search_weights_fitted", recalls=known.recalls, users=known.users, gain=known.gain, low=known.low)
        return Learned(held["weights"], _named(learned.tolist()), known)

    async def promote(self, tenant_id: str) -> Learned:
        """Have the tenant's searches weigh as was learned. Raises NotReady where the estimate does not speak for it."""
        learned = await self.fit(tenant_id)
        if not learned.estimate.is_gain:
            raise NotReady(f"not promoted: {learned.reason}")
        await self._save(tenant_id, learned.learned, learned.reason)
        return learned

    async def rollback(self, tenant_id: str) -> dict[str, Any]:
        """Go back to the weights that held before. Raises NotFound where none did."""
        document = dict(await self.catalogues.document(tenant_id))
        held: Mapping[str, Any] | None = document.get("fusion")
        if not held:
            raise NotFound("these are the weights that the service came with")
        *earlier, before = held.get("earlier") or [None]
        if before is None:
            document.pop("fusion")
        else:
            document["fusion"] = {**before, "earlier": earlier}
        await self.catalogues.save_document(tenant_id, document)
        log.info("search_weights_changed", action="rollback")
        return await self.status(tenant_id)

    async def _save(self, tenant_id: str, weights: Mapping[str, float], reason: str) -> None:
        document = dict(await self.catalogues.document(tenant_id))
        held: Mapping[str, Any] | None = document.get("fusion")
        earlier: Sequence[Any] = [*(held.get("earlier") or [None]), _without(held, "earlier")] if held else [None]
        document["fusion"] = {
            "weights": [weights[name] for name in ARMS],
            "since": self.clock.now().isoformat(),
            "reason": reason,
            "earlier": list(earlier)[-KEPT:],
        }
        await self.catalogues.save_document(tenant_id, document)
        log.info("search_weights_changed", action="promote", reason=reason)

    async def _held(self, tenant_id: str) -> dict[str, Any]:
        held: Mapping[str, Any] = (await self.catalogues.document(tenant_id)).get("fusion") or {}
        weights = weights_of(fusion_of(held.get("weights") or ())).tolist()
        since = datetime.fromisoformat(held["since"]) if held.get("since") else None
        return {"weights": _named(weights), "since": since, "reason": held.get("reason", "came with the service")}


def _named(weights: Sequence[float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(ARMS, weights, strict=True)}


def _without(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
