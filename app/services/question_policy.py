"""When a tenant's users are asked: another cost of a question, or another floor, is judged by what is logged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import structlog

from app.domain.decisions import NEVER, Decided, decide, replayed, worth_of
from app.domain.errors import InvalidInput, NotFound, NotReady
from app.domain.off_policy import Evaluation, Log, evaluation
from app.domain.ordering import Order, drawn, order_of
from app.domain.telemetry import Shown
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.services.chance import die_of
from app.store.engine import Database
from app.store.hypotheses import HypothesisStore

log = structlog.get_logger(__name__)

WINDOW = timedelta(days=90)
"""How far back decisions are looked at."""


@dataclass(frozen=True)
class Change:
    """What would be done otherwise; None: as it was."""

    question_cost: float | None = None
    auto_advance_confidence: float | None = None


@dataclass(frozen=True)
class Replayed:
    """A decision and the order of its options made again, with the record that they were made from; no order where
    nobody shows the options by rank."""

    decided: Decided
    order: Order | None
    record: Mapping[str, Any]

    @property
    def is_same(self) -> bool:
        """Whether both are what they were."""
        held = self.record.get("order")
        return self.decided.decision == self.record["decision"] and (
            held is None if self.order is None else self.order.record == held
        )


@dataclass(frozen=True)
class QuestionPolicy:
    """The use cases about it."""

    database: Database
    catalogues: CatalogueService
    hypotheses: HypothesisStore
    clock: Clock

    async def evaluate(self, tenant_id: str, change: Change) -> Evaluation:
        """What a change would gain, by a doubly robust estimate; a question costs what it costs now. Raises NotReady
        where it is known of no decision what came of it."""
        since = self.clock.now() - WINDOW
        async with self.database.begin(tenant_id) as connection:
            shown = await self.hypotheses.shown_since(connection, tenant_id, since)
        made = evaluated(shown, change)
        log.info("question_policy_evaluated", decisions=made.decisions, gain=made.gain.value, low=made.gain.low)
        return made

    async def promote(self, tenant_id: str, change: Change) -> Evaluation:
        """Have the tenant's decisions made so. Raises NotReady where the interval of the gain is not above 0."""
        made = await self.evaluate(tenant_id, change)
        if not made.is_gain:
            raise NotReady(f"not promoted: {made.reason}")
        document = dict(await self.catalogues.document(tenant_id))
        for name in ("question_cost", "auto_advance_confidence"):
            if getattr(change, name) is not None:
                document[name] = getattr(change, name)
        await self.catalogues.save_document(tenant_id, document)
        log.info("question_policy_changed", reason=made.reason)
        return made

    async def replay(self, tenant_id: str, set_id: UUID) -> Replayed:
        """A decision made again from its record, and the order of its options from the id of its set, which is the die.
        Raises NotFound, and InvalidInput where there is no record or another form of a rule made it."""
        async with self.database.begin(tenant_id) as connection:
            row = await self.hypotheses.get_set(connection, tenant_id, None, set_id)
        if row is None:
            raise NotFound("no such hypothesis set")
        if not row.policy:
            raise InvalidInput("the set is of a release that kept no record of its decisions", "set_id")
        try:
            held = order_of(row.policy["order"]) if row.policy.get("order") else None
            decided = replayed([each["confidence"] for each in row.hypotheses], row.policy)
        except ValueError as error:
            raise InvalidInput(str(error), "set_id") from error
        again = None if held is None else drawn(len(row.hypotheses), held.shuffle, die_of(set_id))
        return Replayed(decided, again, dict(row.policy))


def evaluated(shown: Sequence[Shown], change: Change) -> Evaluation:
    """What a change would have been worth on decisions of which it is known what came of them. Raises NotReady without
    any."""
    users: dict[str, int] = {}
    rows: list[tuple[int, float, float, float, float]] = []
    for one in shown:
        if one.realised is None or one.stakes is None or one.specificity is None or not one.confidences:
            continue
        other = one.stakes
        if change.question_cost is not None and one.stakes.question_cost < NEVER:
            other = replace(other, question_cost=change.question_cost)
        if change.auto_advance_confidence is not None:
            other = replace(other, floor=change.auto_advance_confidence)
        would = decide(one.confidences, one.specificity, other).decision
        worth = worth_of(one.confidences, one.specificity, one.stakes).utilities
        user = users.setdefault(one.user_id, len(users))
        rows.append((user, float(would == one.decision), one.realised, worth[one.decision], worth[would]))
    if not rows:
        raise NotReady("there is no decision yet of which it is known what came of it")
    user, same, rewards, predicted, expected = np.array(rows).T
    logged = Log(user.astype(np.int64), np.ones(len(rows)), same, rewards, predicted, expected)
    return evaluation(logged, len(rows), float(same.mean()))
