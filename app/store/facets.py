"""Queries about facets: what speaks of them, and what they are before any evidence; and how facets are stored."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.facet_evidence import MOST_EVIDENCE, Evidence, FacetPrior
from app.domain.persona import DEFAULT_FACETS, NEUTRAL, NEUTRAL_VARIANCE, Belief, Carried, Facet
from app.store.tables import AnyRow, facet_changes, facet_evidence, facet_priors, users


def facets_document(facets: Mapping[str, Facet]) -> dict[str, Any]:
    """Facets as they are stored."""
    return {name: _facet_document(facet) for name, facet in facets.items()}


def facets_of(document: Mapping[str, Any]) -> dict[str, Facet]:
    """Stored facets, with the default ones where nothing is stored yet."""
    facets = {name: Facet(name) for name in DEFAULT_FACETS}
    return facets | {name: _facet_of(name, body) for name, body in document.items()}


def facets_as_now(document: Mapping[str, Any], updated_at: datetime) -> dict[str, Any]:
    """Facets as they are stored now, out of those of an export; one of an earlier release has the mean and the
    strength of a Beta, last moved at `updated_at` at the latest."""
    return {
        name: _carried_document(body["value"], body["strength"], updated_at.isoformat()) if "strength" in body else body
        for name, body in document.items()
    }


def _carried_document(value: float, strength: float, at: str) -> dict[str, Any]:
    variance = min(NEUTRAL_VARIANCE, 1.0 / (6.0 * strength))  # of so many remarks less two, wherever they led
    carried = {"mean": value, "variance": variance, "evidence": max(1, round(strength - 2.0)), "at": at}
    evidence = {"evidence": carried["evidence"], "evidence_at": at, "updated_at": at}
    start = [NEUTRAL, NEUTRAL_VARIANCE]
    return {"mean": value, "variance": variance, **evidence, "start": start, "carried": carried}


def _facet_document(facet: Facet) -> dict[str, Any]:
    carried = facet.carried
    return {
        "mean": facet.mean,
        "variance": facet.variance,
        "evidence": facet.evidence,
        "evidence_at": _text(facet.evidence_at),
        "updated_at": _text(facet.updated_at),
        "start": list(facet.start),
        "told_at": _text(facet.told_at),
        "is_pinned": facet.is_pinned,
        "carried": carried and {**carried.belief._asdict(), "evidence": carried.evidence, "at": carried.at.isoformat()},
    }


def _facet_of(name: str, body: Mapping[str, Any]) -> Facet:
    carried = body.get("carried")
    return Facet(
        name,
        body["mean"],
        body["variance"],
        body["evidence"],
        _moment(body.get("evidence_at")),
        _moment(body.get("updated_at")),
        Belief(*body["start"]),
        _moment(body.get("told_at")),
        body.get("is_pinned", False),
        carried
        and Carried(
            Belief(carried["mean"], carried["variance"]), carried["evidence"], datetime.fromisoformat(carried["at"])
        ),
    )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _body(evidence: Evidence) -> dict[str, Any]:
    shown = [dict(option) for option in evidence.shown]
    return {"shown": shown, "chosen": evidence.chosen, "remark": dict(evidence.remark or {})}


def _evidence_of(row: AnyRow) -> Evidence:
    body: Mapping[str, Any] = row.evidence
    return Evidence(row.evidence_id, row.observed_at, tuple(body["shown"]), body["chosen"], body["remark"])


class FacetStore:
    """What is asked and written about the evidence on facets and about priors. Whoever writes a user's evidence holds
    the user's row."""

    async def evidence(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> list[Evidence]:
        """The latest MOST_EVIDENCE pieces of what speaks of the user's facets, oldest first."""
        c = facet_evidence.c
        query = (
            select(c.evidence_id, c.observed_at, c.evidence)
            .where(c.tenant_id == tenant_id, c.user_id == user_id)
            .order_by(c.observed_at.desc(), c.evidence_id.desc())
            .limit(MOST_EVIDENCE)
        )
        return [_evidence_of(row) for row in await connection.execute(query)][::-1]

    async def add(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, evidence: Evidence, signal_id: UUID | None
    ) -> None:
        """Write a piece of evidence."""
        row = {"tenant_id": tenant_id, "evidence_id": evidence.evidence_id, "user_id": user_id}
        row |= {"evidence": _body(evidence), "signal_id": signal_id, "observed_at": evidence.observed_at}
        await connection.execute(insert(facet_evidence), [row])

    async def drop(self, connection: AsyncConnection, tenant_id: str, evidence: Sequence[Evidence]) -> None:
        """Delete pieces of evidence."""
        if evidence:
            ids = [each.evidence_id for each in evidence]
            c = facet_evidence.c
            await connection.execute(delete(facet_evidence).where(c.tenant_id == tenant_id, c.evidence_id.in_(ids)))

    async def forget(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, facet: str, changed: Sequence[Evidence]
    ) -> None:
        """Delete the history of a facet, and write the pieces of evidence that spoke of it without it."""
        c = facet_evidence.c
        for each in changed:
            is_it = (c.tenant_id == tenant_id, c.evidence_id == each.evidence_id)
            await connection.execute(update(facet_evidence).where(*is_it).values(evidence=_body(each)))
        h = facet_changes.c
        await connection.execute(
            delete(facet_changes).where(h.tenant_id == tenant_id, h.user_id == user_id, h.facet == facet)
        )

    async def prior(self, connection: AsyncConnection, tenant_id: str) -> FacetPrior:
        """What the facets of the tenant's users are before any evidence: neutral until that was learned."""
        query = select(facet_priors).where(facet_priors.c.tenant_id == tenant_id)
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            return FacetPrior()
        mean, covariance = np.array(row.mean, np.float64), np.array(row.covariance, np.float64)
        return FacetPrior(tuple(row.facets), mean, covariance, row.users, row.version)

    async def save_prior(
        self, connection: AsyncConnection, tenant_id: str, prior: FacetPrior | None, now: datetime
    ) -> None:
        """Put a prior in the place of the tenant's; None: there are too few users to have one."""
        if prior is None or prior.mean is None or prior.covariance is None:
            await connection.execute(delete(facet_priors).where(facet_priors.c.tenant_id == tenant_id))
            return
        values = {"version": prior.version, "facets": list(prior.names), "mean": prior.mean.tolist()}
        values |= {"covariance": prior.covariance.tolist(), "users": prior.users, "fitted_at": now}
        query = upsert(facet_priors).values(tenant_id=tenant_id, **values)
        await connection.execute(query.on_conflict_do_update(index_elements=["tenant_id"], set_=values))

    async def known_users(self, connection: AsyncConnection, tenant_id: str, limit: int) -> list[str]:
        """The users of whose facets something is known, those whose persona changed last first."""
        c = users.c
        query = (
            select(c.user_id)
            .where(c.tenant_id == tenant_id, c.facets != {})
            .order_by(c.updated_at.desc(), c.user_id)
            .limit(limit)
        )
        return list((await connection.execute(query)).scalars())

    async def known_of(
        self, connection: AsyncConnection, tenant_id: str, user_ids: Sequence[str]
    ) -> list[tuple[Mapping[str, Facet], list[Evidence]]]:
        """The facets of users and what speaks of them."""
        c, u = facet_evidence.c, users.c
        held = await connection.execute(
            select(u.user_id, u.facets).where(u.tenant_id == tenant_id, u.user_id.in_(user_ids))
        )
        place = func.row_number().over(partition_by=c.user_id, order_by=(c.observed_at.desc(), c.evidence_id.desc()))
        every = (
            select(c.user_id, c.evidence_id, c.observed_at, c.evidence, place.label("place"))
            .where(c.tenant_id == tenant_id, c.user_id.in_(user_ids))
            .subquery()
        )
        rows = await connection.execute(select(every).where(every.c.place <= MOST_EVIDENCE))
        told: dict[str, list[Evidence]] = {}
        for row in rows:
            told.setdefault(row.user_id, []).append(_evidence_of(row))
        return [(facets_of(row.facets), told.get(row.user_id, [])) for row in held]
