"""Queries about what was left to chance, and what came of it: orders of options, and adapters on trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.calibration import LOCAL
from app.domain.ordering import ORDER_VERSION, order_of
from app.domain.ranker import Listed
from app.store.calibrations import DECIDED, IS_UNMOVED, settled
from app.store.tables import hypothesis_sets


@dataclass(frozen=True)
class RoutedOutcome:
    """A decided set while an adapter was tried: whose, whether it was the adapter's to make, how likely that was, and
    whether a reading was chosen."""

    user_id: str
    is_candidate: bool
    propensity: float
    is_selected: bool


class OffPolicyStore:
    """What is asked about it."""

    async def listed_since(
        self, connection: AsyncConnection, tenant_id: str, since: datetime, now: datetime
    ) -> list[Listed]:
        """The questions of the built-in rules since a moment whose order was left to chance, as far as it is known what
        came of them."""
        c = hypothesis_sets.c
        query = select(
            c.user_id,
            c.hypotheses,
            c.decision,
            c.outcome,
            c.chosen_id,
            c.answer,
            c.rejected_ids,
            c.answered_at,
            c.created_at,
            c.policy,
        ).where(
            c.tenant_id == tenant_id,
            c.created_at >= since,
            c.source == LOCAL,
            c.decision == "ask",
            c.policy["order"]["shuffle"].as_float() > 0,
            c.policy["order"]["version"].as_integer() == ORDER_VERSION,
            IS_UNMOVED,  # else its order goes by what was answered, not by its readings' log-odds
        )
        rows = (await connection.execute(query)).mappings()
        return [listed for row in rows if (listed := _listed(row, now)) is not None]

    async def routed_since(
        self, connection: AsyncConnection, tenant_id: str, candidate: str, since: datetime
    ) -> list[RoutedOutcome]:
        """The decided sets since a moment at which an adapter was tried."""
        c = hypothesis_sets.c
        query = select(c.user_id, c.policy["route"].label("route"), c.outcome).where(
            c.tenant_id == tenant_id,
            c.created_at >= since,
            c.outcome.in_(DECIDED),
            c.policy["route"]["candidate"].as_string() == candidate,
        )
        return [
            RoutedOutcome(row.user_id, row.route["is_candidate"], row.route["propensity"], row.outcome == "selected")
            for row in await connection.execute(query)
        ]


def _listed(row: Mapping[Any, Any], now: datetime) -> Listed | None:
    """The options of a question, where it is known what came of it."""
    held, policy = settled(row, now), row["policy"]
    if held.kind not in {"selected", "edited", "custom", "rejected", "ignored"} or not row["hypotheses"]:
        return None
    weights: Mapping[str, float] = policy.get("ranker") or {}
    origins = tuple(each["origin"] for each in row["hypotheses"])
    scores = [each["score"] - weights.get(each["origin"], 0.0) for each in row["hypotheses"]]
    confidences = np.array([each["confidence"] for each in row["hypotheses"]])
    order = order_of(policy["order"])
    return Listed(row["user_id"], order, np.array(scores), origins, confidences, held.chosen)
