"""Whether the adapter that is tried is better: judged on what became of the sets of both, by how likely each user was
put where they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from app.domain.errors import NotReady
from app.domain.off_policy import Evaluation, Log, evaluation
from app.ports import Clock
from app.services.question_policy import WINDOW
from app.store.engine import Database
from app.store.off_policy import OffPolicyStore, RoutedOutcome
from app.store.training import DeploymentStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AdapterPolicy:
    """The use cases about it."""

    database: Database
    deployments: DeploymentStore
    store: OffPolicyStore
    clock: Clock

    async def evaluate(self, tenant_id: str) -> tuple[str, Evaluation]:
        """The adapter that is tried, and what answering everybody by it would gain in the share of questions of which a
        reading is chosen. Raises NotReady where none is tried or nothing came of it yet."""
        async with self.database.begin(tenant_id) as connection:
            held = await self.deployments.latest(connection, tenant_id)
            candidate = held.route.candidate if held is not None else None
            if candidate is None:
                raise NotReady("no adapter is tried: `embed-service train promote RUN --share 0.1` begins a trial")
            since = await self.deployments.tried_since(connection, tenant_id, candidate)
            since = max(since or self.clock.now() - WINDOW, self.clock.now() - WINDOW)
            rows = await self.store.routed_since(connection, tenant_id, candidate, since)
        made = routed_evaluation(rows)
        log.info("adapter_evaluated", adapter=candidate, sets=made.decisions, gain=made.gain.value, low=made.gain.low)
        return candidate, made


def routed_evaluation(rows: Sequence[RoutedOutcome]) -> Evaluation:
    """What the candidate would gain over what was done. Raises NotReady without an outcome of either."""
    if len({row.is_candidate for row in rows}) < 2:
        raise NotReady("nothing is known yet of what users did with the sets of both")
    users: dict[str, int] = {}
    user = np.array([users.setdefault(row.user_id, len(users)) for row in rows], dtype=np.int64)
    is_candidate = np.array([row.is_candidate for row in rows])
    rewards = np.array([float(row.is_selected) for row in rows])
    means = {arm: float(rewards[is_candidate == arm].mean()) for arm in (False, True)}
    predicted = np.where(is_candidate, means[True], means[False])
    logged = np.array([row.propensity for row in rows])
    made = Log(user, logged, is_candidate.astype(np.float64), rewards, predicted, np.full(len(rows), means[True]))
    return evaluation(made, len(rows), float(is_candidate.mean()))
