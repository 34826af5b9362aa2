"""Queries about training runs and deployments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import any_, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.deployments import Arm, Route
from app.store.hypotheses import DECIDED
from app.store.tables import AnyRow, deployments, hypothesis_sets, training_runs


@dataclass(frozen=True)
class Deployment:
    """A change of route: `action` is `promote` or `rollback`, of `adapter`; `route` is what holds since."""

    number: int
    action: str
    adapter: str
    route: Route
    reason: str
    deployed_at: datetime


class RunStore:
    """What is asked and written about training runs."""

    async def insert(self, connection: AsyncConnection, row: Mapping[str, Any]) -> None:
        """Write a new run."""
        await connection.execute(insert(training_runs), [dict(row)])

    async def change(self, connection: AsyncConnection, tenant_id: str, run_id: str, **values: Any) -> None:
        """Write columns of a run."""
        query = update(training_runs).where(training_runs.c.tenant_id == tenant_id, training_runs.c.run_id == run_id)
        await connection.execute(query.values(values))

    async def get(
        self, connection: AsyncConnection, tenant_id: str, run_id: str, *, lock: bool = False
    ) -> AnyRow | None:
        """A run, if it is the tenant's."""
        query = select(training_runs).where(training_runs.c.tenant_id == tenant_id, training_runs.c.run_id == run_id)
        return (await connection.execute(query.with_for_update() if lock else query)).one_or_none()

    async def list(self, connection: AsyncConnection, tenant_id: str, limit: int) -> Sequence[AnyRow]:
        """The tenant's runs, newest first, without the users' keys."""
        columns = [column for column in training_runs.c if column.name != "user_keys"]
        query = (
            select(*columns)
            .where(training_runs.c.tenant_id == tenant_id)
            .order_by(training_runs.c.created_at.desc(), training_runs.c.run_id)
            .limit(limit)
        )
        return (await connection.execute(query)).all()

    async def forget_user(self, connection: AsyncConnection, tenant_id: str, user_key: str) -> Sequence[AnyRow]:
        """Take a user's key from every run that was trained on their samples; those runs."""
        query = (
            update(training_runs)
            .where(training_runs.c.tenant_id == tenant_id, any_(training_runs.c.user_keys) == user_key)
            .values(
                user_keys=func.array_remove(training_runs.c.user_keys, user_key),
                erased_users=training_runs.c.erased_users + 1,
            )
            .returning(training_runs.c.run_id, training_runs.c.folder, training_runs.c.status)
        )
        return (await connection.execute(query)).all()

    async def folders(self, connection: AsyncConnection, tenant_id: str) -> Sequence[AnyRow]:
        """Every run of the tenant with its folder and the id of the key that its users' names were made with."""
        key_id = training_runs.c.metadata["key_id"].as_string().label("key_id")
        query = select(training_runs.c.run_id, training_runs.c.folder, key_id)
        return (await connection.execute(query.where(training_runs.c.tenant_id == tenant_id))).all()


class DeploymentStore:
    """What is asked and written about deployments."""

    async def latest(self, connection: AsyncConnection, tenant_id: str) -> Deployment | None:
        """What holds now; None: the base model, since ever."""
        history = await self.history(connection, tenant_id, 1)
        return history[0] if history else None

    async def history(self, connection: AsyncConnection, tenant_id: str, limit: int) -> list[Deployment]:
        """The changes, newest first."""
        query = (
            select(deployments)
            .where(deployments.c.tenant_id == tenant_id)
            .order_by(deployments.c.number.desc())
            .limit(limit)
        )
        return [
            Deployment(
                row.number,
                row.action,
                row.adapter,
                Route(tuple(row.stack), row.candidate, row.share),
                row.reason,
                row.deployed_at,
            )
            for row in await connection.execute(query)
        ]

    async def insert(self, connection: AsyncConnection, tenant_id: str, made: Deployment) -> bool:
        """Write the next change; False where someone else wrote one of that number first."""
        query = upsert(deployments).values(
            tenant_id=tenant_id,
            number=made.number,
            action=made.action,
            adapter=made.adapter,
            stack=list(made.route.stack),
            candidate=made.route.candidate,
            share=made.route.share,
            reason=made.reason,
            deployed_at=made.deployed_at,
        )
        done = await connection.execute(query.on_conflict_do_nothing())
        return done.rowcount == 1

    async def adapters(self, connection: AsyncConnection, tenant_id: str) -> frozenset[str]:
        """Every adapter that ever was in a deployment of the tenant."""
        query = select(deployments.c.adapter).where(deployments.c.tenant_id == tenant_id).distinct()
        return frozenset((await connection.execute(query)).scalars())

    async def tried_since(self, connection: AsyncConnection, tenant_id: str, candidate: str) -> datetime | None:
        """Since when the present trial of a candidate runs: its first deployment after the last one without it."""
        before = (
            select(func.coalesce(func.max(deployments.c.number), 0))
            .where(deployments.c.tenant_id == tenant_id, deployments.c.candidate.is_distinct_from(candidate))
            .scalar_subquery()
        )
        query = select(func.min(deployments.c.deployed_at)).where(
            deployments.c.tenant_id == tenant_id, deployments.c.number > before
        )
        return (await connection.execute(query)).scalar_one()

    async def arm(
        self, connection: AsyncConnection, tenant_id: str, source: str, adapter: str | None, since: datetime
    ) -> Arm:
        """What users did with the sets that a source made with an adapter (None: without one) since a moment."""
        query = select(func.count(), func.count().filter(hypothesis_sets.c.outcome == "selected")).where(
            hypothesis_sets.c.tenant_id == tenant_id,
            hypothesis_sets.c.created_at >= since,
            hypothesis_sets.c.source == source,
            hypothesis_sets.c.adapter.is_not_distinct_from(adapter),
            hypothesis_sets.c.outcome.in_(DECIDED),
        )
        answered, selected = (await connection.execute(query)).one()
        return Arm(answered, selected)
