"""Which readings come first: weights of origins, learned from choices by where they stood, judged on questions whose
order was partly drawn, promoted by the interval, taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from app.domain.errors import NotFound, NotReady
from app.domain.off_policy import Evaluation, evaluation
from app.domain.ordering import likely_first
from app.domain.position import examination
from app.domain.ranker import Listed, fit, fitted_for, order_log, ranks_of
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.services.question_policy import WINDOW
from app.store.calibrations import CalibrationStore
from app.store.engine import Database
from app.store.off_policy import OffPolicyStore

log = structlog.get_logger(__name__)

LEAST_DRAWN = 150
"""Questions with an order that was drawn, below which no other order is judged: the intervals do not hold yet."""

KEPT = 10
"""Earlier weights that can be gone back to."""


@dataclass(frozen=True)
class RankerFound:
    """The weights that hold and those that were learned, and what these would gain in the reciprocal rank of what is
    chosen, on users they were not learned from."""

    held: Mapping[str, float]
    learned: Mapping[str, float]
    evaluation: Evaluation
    drawn: int


@dataclass(frozen=True)
class RankerPolicy:
    """The use cases about it."""

    database: Database
    catalogues: CatalogueService
    store: OffPolicyStore
    calibrations: CalibrationStore
    clock: Clock

    async def evaluate(self, tenant_id: str) -> RankerFound:
        """What learned weights would gain. Changes nothing. Raises NotReady below LEAST_DRAWN."""
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            listed = await self.store.listed_since(connection, tenant_id, now - WINDOW, now)
            looked_at = examination(await self.calibrations.drawn_choices(connection, tenant_id))
        drawn = sum(each.order.is_drawn for each in listed)
        if drawn < LEAST_DRAWN:
            raise NotReady(
                f"{drawn} questions of the built-in rules had an order that was drawn: {LEAST_DRAWN} are the least "
                "(ORDER_SHUFFLE, and options that are shown by rank)"
            )
        rankers = fitted_for(listed, looked_at)
        made = evaluation(order_log(listed, rankers, looked_at), len(listed), _agreement(listed, rankers))
        held = (await self.catalogues.settings(tenant_id)).ranker or {}
        log.info("ranker_evaluated", questions=len(listed), drawn=drawn, gain=made.gain.value, low=made.gain.low)
        return RankerFound(held, fit(listed, looked_at), made, drawn)

    async def promote(self, tenant_id: str) -> RankerFound:
        """Have the tenant's readings weighed so. Raises NotReady where the interval of the gain is not above 0."""
        found = await self.evaluate(tenant_id)
        if not found.evaluation.is_gain:
            raise NotReady(f"not promoted: {found.evaluation.reason}")
        document = dict(await self.catalogues.document(tenant_id))
        held: Mapping[str, Any] = document.get("ranker") or {}
        earlier: list[Mapping[str, float]] = [*held.get("earlier", []), held.get("weights") or {}]
        document["ranker"] = {
            "weights": dict(found.learned),
            "since": self.clock.now().isoformat(),
            "reason": found.evaluation.reason,
            "earlier": earlier[-KEPT:],
        }
        await self.catalogues.save_document(tenant_id, document)
        log.info("ranker_changed", action="promote", reason=found.evaluation.reason)
        return found

    async def rollback(self, tenant_id: str) -> Mapping[str, float]:
        """Go back to the weights that held before; which these are. Raises NotFound where none did."""
        document = dict(await self.catalogues.document(tenant_id))
        held: Mapping[str, Any] | None = document.pop("ranker", None)
        if not held:
            raise NotFound("readings are weighed as the service came")
        known: list[Mapping[str, float]] = held["earlier"] or [{}]  # no more than KEPT are
        *earlier, before = known
        if before:
            document["ranker"] = {**held, "weights": before, "earlier": earlier, "reason": "taken back"}
        await self.catalogues.save_document(tenant_id, document)
        log.info("ranker_changed", action="rollback")
        return before


def _agreement(listed: Sequence[Listed], rankers: Sequence[Mapping[str, float]]) -> float:
    """The share of the lists that both orders put alike."""
    alike = [
        ranks_of(each, ranker) == likely_first(len(each.scores)).ranks
        for each, ranker in zip(listed, rankers, strict=True)
    ]
    return sum(alike) / len(alike)
