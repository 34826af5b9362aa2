"""Queries about calibrations: the outcomes they are fitted on, each tenant's fits, and the prior that tenants share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, insert, or_, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.calibration import Calibration, Outcome, form_of, is_read, prior_of
from app.domain.outcomes import IGNORED_AFTER, KEPT_AFTER, OutcomeKind, kind_of, likelihood
from app.domain.position import PLACES, PRIOR_EXAMINATION, Examination
from app.store.tables import IS_DRAWN, AnyRow, calibrations, hypothesis_sets, shared_priors

FIT_WINDOW = 2000
"""How many of a tenant's latest outcomes a calibration is fitted on."""

DECIDED = ("selected", "custom", "none")
"""Outcomes that a user decided."""

IS_UNMOVED = func.coalesce(hypothesis_sets.c.belief["answers"].as_integer(), 0) == 0
"""Of sets that go on from no answer."""

LOCK_PRIORS = text("SELECT pg_advisory_xact_lock(hashtextextended('shared priors', 0))")

_LATEST_FITS = text("""
SELECT DISTINCT ON (tenant_id) tenant_id, weights, none_score, version, outcomes, prior, examination
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
            examination=list(calibration.examination),
        )
        await connection.execute(query.on_conflict_do_nothing())

    async def outcomes(
        self, connection: AsyncConnection, tenant_id: str, source: str, looked_at: Examination, now: datetime
    ) -> list[Outcome]:
        """The latest outcomes of a source, of those whose features have the form that is read now, and of sets that no
        answer has moved (what their confidences are made of is not in the features): what users said, and at most as
        many silences. `looked_at` says how likely each place of a list was."""
        c = hypothesis_sets.c
        own = select(
            c.hypotheses, c.decision, c.outcome, c.chosen_id, c.answer, c.rejected_ids, c.answered_at, c.created_at
        ).where(
            c.tenant_id == tenant_id,
            c.source == source,
            IS_UNMOVED,
        )
        is_undone = and_(c.outcome == "assumed", c.rejected_ids != [])
        spoken = own.where(or_(c.outcome.in_(DECIDED), is_undone)).order_by(c.answered_at.desc()).limit(FIT_WINDOW)
        said = [row for row in (await connection.execute(spoken)).mappings() if row["hypotheses"]]
        is_kept = and_(c.outcome == "assumed", c.answered_at <= now - KEPT_AFTER)
        is_ignored = and_(
            c.outcome.is_(None),
            c.decision == "ask",
            c.answered_at.is_(None),
            c.created_at <= now - IGNORED_AFTER,
            c.basis.is_not(None),  # earlier releases did not note which questions were answered
        )
        silent = own.where(or_(is_kept, is_ignored), c.rejected_ids == []).order_by(c.created_at.desc())
        kept = [row for row in (await connection.execute(silent.limit(len(said)))).mappings() if row["hypotheses"]]
        made = [outcome for row in [*said, *kept] if (outcome := _outcome_of(row, looked_at, now)) is not None]
        prior = prior_of(source)
        return [each for each in made if all(is_read(features, prior) for features in each.features)]

    async def drawn_choices(self, connection: AsyncConnection, tenant_id: str) -> list[tuple[int, int]]:
        """Of the latest lists in an order that was drawn evenly, the place that was chosen, from 1, and how long the
        list was."""
        query = (
            select(hypothesis_sets.c.hypotheses, hypothesis_sets.c.chosen_id)
            .where(hypothesis_sets.c.tenant_id == tenant_id, text(IS_DRAWN), hypothesis_sets.c.outcome == "selected")
            .order_by(hypothesis_sets.c.created_at.desc())
            .limit(FIT_WINDOW)
        )
        found: list[tuple[int, int]] = []
        for row in await connection.execute(query):
            chosen = index_of(row.hypotheses, row.chosen_id)
            if chosen is not None and len(row.hypotheses) <= PLACES:
                found.append((places_of(row.hypotheses)[chosen], len(row.hypotheses)))
        return found

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
                IS_UNMOVED,
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
        """Every tenant's latest fit of a source, by tenant: in a transaction that sees them (`begin_pooling`), of which
        there is one at a time from here on."""
        await connection.execute(LOCK_PRIORS)
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


def places_of(hypotheses: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where each of a set's hypotheses was shown, from 1; those of earlier releases were shown as they come."""
    return [each.get("rank", place) for place, each in enumerate(hypotheses, start=1)]


@dataclass(frozen=True)
class Settled:
    """What became of a stored set: None where that is not known yet; which of its hypotheses was chosen, by position,
    and which were turned down."""

    kind: OutcomeKind | None
    chosen: int | None
    rejected: Sequence[int]


def settled(row: Mapping[Any, Any], now: datetime) -> Settled:
    """What became of a set by its columns `hypotheses`, `decision`, `outcome`, `chosen_id`, `answer`, `rejected_ids`,
    `answered_at` and `created_at`."""
    hypotheses, answered_at = row["hypotheses"], row["answered_at"]
    chosen = index_of(hypotheses, row["chosen_id"])
    rejected = [place for place, each in enumerate(hypotheses) if each["id"] in row["rejected_ids"]]
    kind = kind_of(
        row["decision"],
        row["outcome"],
        chosen=chosen,
        rejected=rejected,
        is_edited=bool(row["answer"]),
        is_answered=answered_at is not None,
        age=now - (answered_at or row["created_at"]),
    )
    return Settled(kind, chosen, rejected)


def _outcome_of(row: Mapping[Any, Any], looked_at: Examination, now: datetime) -> Outcome | None:
    held = settled(row, now)
    if held.kind is None:
        return None
    told = likelihood(held.kind, places_of(row["hypotheses"]), held.chosen, held.rejected, looked_at)
    return Outcome(tuple(_features_of(each) for each in row["hypotheses"]), held.chosen, tuple(told.tolist()))


def _fit_of(row: AnyRow) -> Calibration:
    looked_at = tuple(row.examination) if row.examination else PRIOR_EXAMINATION
    return Calibration(row.weights, row.none_score, row.version, row.outcomes, row.prior, looked_at)


def _features_of(shown: Mapping[str, Any]) -> Mapping[str, float]:
    """What a shown hypothesis' probability was read from; sets from before features were kept have a score."""
    return shown.get("features") or {"score": shown["score"]}
