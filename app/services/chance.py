"""What of a hypothesis set is left to chance, and what is written down of it."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from app.domain.decisions import Decided
from app.domain.deployments import Routed, place
from app.domain.ordering import Order, drawn
from app.domain.ranker import Ranker
from app.services.catalogues import TenantSettings


@dataclass(frozen=True)
class Chance:
    """How often the options of a question are put in an order that is drawn, where a tenant says nothing else."""

    order_shuffle: float = 0.0

    def order_of(self, settings: TenantSettings, set_id: UUID, decided: Decided, size: int) -> Order:
        """In which order the options of a set are shown. Its id is the die: the same order comes of it again. Only
        questions are put in another than the likely one: what goes ahead is never drawn."""
        shuffle = self.order_shuffle if settings.order_shuffle is None else settings.order_shuffle
        return drawn(size, shuffle if decided.decision == "ask" else 0.0, die_of(set_id))


def die_of(set_id: UUID) -> float:
    """The number in 0..1 that an id stands for, evenly spread."""
    return place("order", set_id.hex)


def policy_record(decided: Decided, order: Order | None, route: Routed | None, ranker: Ranker | None) -> dict[str, Any]:
    """What a set's decision and order are made again from, and what else was left to chance."""
    record = decided.record
    if order is not None:
        record["order"] = order.record
    if route is not None:
        record["route"] = asdict(route)
    if ranker:
        record["ranker"] = dict(ranker)
    return record
