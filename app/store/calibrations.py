"""Queries about calibrations: the outcomes they are fitted on, each tenant's fits, and the prior that tenants share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.calibration import Calibration, Outcome, form_of, is_read, prior_of
from app.store.tables import AnyRow, calibrations, hypothesis_sets, shared_priors

FIT_WINDOW = 2000
"""How many of a tenant's latest outcomes a calibration is fitted on."""

DECIDED = ("selected", "custom", "none")
"""Outcomes that a user decided."""

_LATEST_FITS = text("""
SELECT DISTINCT ON (tenant_id) tenant_id, weights, none_score, version, outcomes, prior
FROM calibrations WHERE source = :source AND form = :form ORDER BY tenant_id, version DESC
""")


@dataclass(frozen=True)
class Held:
    """A tenant's calibration of a source, and the version that its next fit has."""

    calibration: Calibration
    next_version: int


class CalibrationStore:
    """What is asked and written about calibrations."""

    async def held(self, connection: AsyncConnection, tenant_id: str, source: str) -> Held:
        """The tenant's latest calibration, where it is of the form that the source's features have; else the prior."""
        query = (
            select(calibrations)
            .where(calibrations.c.tenant_id == tenant_id, calibrations.c.source == source)
            .order_by(calibrations.c.version.desc())
            .limit(1)
        )
        row = (await connection.execute(query)).one_or_none()
        if row is not None and row.form == form_of(source):
            return Held(_fit_of(row), row.version + 1)
        prior = await self.shared(connection, source)
        return Held(prior, 1 if row is None else row.version + 1)

    async def calibration(self, connection: AsyncConnection, tenant_id: str, source: str) -> Calibration:
        """The tenant's calibration of a source, or its prior."""
        return (await self.held(connection, tenant_id, source)).calibration

    async def save(
        self, connection: AsyncConnection, tenant_id: str, source: str, calibration: Calibration, now: datetime
    ) -> None:
        """Write a new version; of two fits of the same version the first stays."""
        query = upsert(calibrations).values(
            tenant_id=tenant_id,
            source=source,
            version=calibration.version,
            weights=dict(calibration.weights),
            none_score=calibration.none_score,
            outcomes=calibration.outcomes,
            fitted_at=now,
            form=form_of(source),
            prior=calibration.prior,
        )
        await connection.execute(query.on_conflict_do_nothing())

    async def outcomes(self, connection: AsyncConnection, tenant_id: str, source: str) -> list[Outcome]:
        """The latest outcomes of a source that a user decided (what the service assumed is not one), of those whose
        features have the form that is read now."""
        query = (
            select(hypothesis_sets.c.hypotheses, hypothesis_sets.c.chosen_id)
            .where(
                hypothesis_sets.c.tenant_id == tenant_id,
                hypothesis_sets.c.source == source,
                hypothesis_sets.c.outcome.in_(DECIDED),
            )
            .order_by(hypothesis_sets.c.answered_at.desc())
            .limit(FIT_WINDOW)
        )
        rows = await connection.execute(query)
        made = [
            Outcome(tuple(_features_of(h) for h in row.hypotheses), index_of(row.hypotheses, row.chosen_id))
            for row in rows
            if row.hypotheses
        ]
        prior = prior_of(source)
        return [each for each in made if all(is_read(features, prior) for features in each.features)]

    async def count_new_outcomes(self, connection: AsyncConnection, tenant_id: str) -> Mapping[str, int]:
        """How many outcomes each source had since its last fit; sources without any are left out."""
        fitted_at = (
            select(func.max(calibrations.c.fitted_at))
            .where(calibrations.c.tenant_id == tenant_id, calibrations.c.source == hypothesis_sets.c.source)
            .correlate(hypothesis_sets)
            .scalar_subquery()
        )
        query = (
            select(hypothesis_sets.c.source, func.count())
            .where(
                hypothesis_sets.c.tenant_id == tenant_id,
                hypothesis_sets.c.outcome.in_(DECIDED),
                hypothesis_sets.c.answered_at > func.coalesce(fitted_at, text("'-infinity'")),
            )
            .group_by(hypothesis_sets.c.source)
        )
        return {row[0]: row[1] for row in await connection.execute(query)}

    async def shared(self, connection: AsyncConnection, source: str) -> Calibration:
        """The prior that tenants share, or the shipped one."""
        query = (
            select(shared_priors)
            .where(shared_priors.c.source == source, shared_priors.c.form == form_of(source))
            .order_by(shared_priors.c.version.desc())
            .limit(1)
        )
        row = (await connection.execute(query)).one_or_none()
        return prior_of(source) if row is None else Calibration(row.weights, row.none_score, prior=row.version)

    async def fits(self, connection: AsyncConnection, source: str) -> Mapping[str, Calibration]:
        """Every tenant's latest fit of a source, by tenant: in a transaction that sees them (`begin_pooling`)."""
        rows = await connection.execute(_LATEST_FITS, {"source": source, "form": form_of(source)})
        return {row.tenant_id: _fit_of(row) for row in rows}

    async def save_shared(
        self, connection: AsyncConnection, source: str, prior: Calibration, tenants: int, now: datetime
    ) -> int:
        """Write the next version of the shared prior, in a transaction that may (`begin_pooling`); which one it is."""
        latest = select(func.coalesce(func.max(shared_priors.c.version), 0)).where(shared_priors.c.source == source)
        version: int = (await connection.execute(latest)).scalar_one() + 1
        row = {
            "source": source,
            "form": form_of(source),
            "version": version,
            "weights": dict(prior.weights),
            "none_score": prior.none_score,
            "tenants": tenants,
            "fitted_at": now,
        }
        # No upsert: that would have to see rows, as an insert of a row that is there already does not.
        await connection.execute(insert(shared_priors), [row])
        return version


def index_of(hypotheses: Sequence[Mapping[str, Any]], chosen_id: str | None) -> int | None:
    """The place of the chosen one of a set's hypotheses."""
    return next((index for index, shown in enumerate(hypotheses) if shown["id"] == chosen_id), None)


def _fit_of(row: AnyRow) -> Calibration:
    return Calibration(row.weights, row.none_score, row.version, row.outcomes, row.prior)


def _features_of(shown: Mapping[str, Any]) -> Mapping[str, float]:
    """What a shown hypothesis' probability was read from; sets from before features were kept have a score."""
    return shown.get("features") or {"score": shown["score"]}
