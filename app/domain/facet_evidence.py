"""What a user's evidence says of their facets, and what facets are before any: what the users of a tenant tell.

The belief is the posterior of `app.domain.tastes`: a choice is a comparison of how the options lean, a remark a normal
likelihood. All evidence is taken at once, so that its order does not matter; older evidence counts less. Inside,
values are told from neutral: 0.5 is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from uuid import UUID

import numpy as np

from app.domain.logit import Array
from app.domain.persona import (
    DEFAULT_FACETS,
    NEUTRAL,
    NEUTRAL_VARIANCE,
    TOLD_VARIANCE,
    Belief,
    Carried,
    Facet,
    FacetChange,
    share_left,
    told,
)
from app.domain.tastes import Comparison, Remark, TastePrior, fit_prior, heard, taste_of

SHARPNESS = 5.0
"""How sharply users choose by their facets, as `b` of `app.domain.tastes`: of two options, one of which leans towards a
facet, somebody of value 1 chooses it with the probability 0.92."""

REMARK_PRECISION = 60.0
"""Of a remark with a delta of 1; one of 0.1 counts as one observation (0.5 becomes 0.67)."""

MOST_EVIDENCE = 200
"""Pieces of evidence of one user that are kept, the latest."""

LEAST_MOVE = 0.005
"""A facet that a piece of evidence does not speak of moves with those it does; less than this is not told."""

LEAST_USERS = 20
"""A prior is learned from so many users at least, and neutral counts as so many: nobody alone moves it by more than
1 / (2 · LEAST_USERS)."""

MOST_USERS = 1000
"""Users a prior is learned from, those with the latest evidence."""


@dataclass(frozen=True)
class Evidence:
    """What speaks of facets: options by how each leans (-1..1), of which the one at `chosen` was taken, and deltas
    (-1..1) of what was said or done."""

    evidence_id: UUID
    observed_at: datetime
    shown: tuple[Mapping[str, float], ...] = ()
    chosen: int = 0
    remark: Mapping[str, float] | None = None

    @cached_property
    def facets(self) -> frozenset[str]:
        """What it speaks of."""
        named = {name for option in self.shown for name in option}
        compared = {name for name in named if len({option.get(name, 0.0) for option in self.shown}) > 1}
        return frozenset(compared | {name for name, delta in (self.remark or {}).items() if delta})

    def has(self, facet: str) -> bool:
        """Whether it holds anything of a facet, were it what all options have in common."""
        return any(facet in option for option in self.shown) or facet in (self.remark or {})

    def without(self, facet: str) -> "Evidence":
        """What is left of it without one facet."""
        shown = tuple({name: value for name, value in option.items() if name != facet} for option in self.shown)
        remark = {name: delta for name, delta in (self.remark or {}).items() if name != facet}
        return replace(self, shown=shown, remark=remark or None)


@dataclass(frozen=True)
class FacetPrior:
    """What the facets called `names` are before any evidence, of values told from neutral: mean (d,) and covariance
    (d, d), learned from so many users. Other facets are neutral, each by itself."""

    names: tuple[str, ...] = ()
    mean: Array | None = None
    covariance: Array | None = None
    users: int = 0
    version: int = 0

    def of(self, names: Sequence[str]) -> TastePrior:
        """The prior of these facets."""
        mean, covariance = np.zeros(len(names)), NEUTRAL_VARIANCE * np.eye(len(names))
        if self.mean is not None and self.covariance is not None:
            here = [place for place, name in enumerate(names) if name in self.names]
            there = [self.names.index(names[place]) for place in here]
            mean[here] = self.mean[there]
            covariance[np.ix_(here, here)] = self.covariance[np.ix_(there, there)]
        return TastePrior(mean, covariance, SHARPNESS)


@dataclass(frozen=True)
class _Posterior:
    """Of facets in an order: mean (d,) and covariance (d, d), told from neutral, and the prior it came from."""

    mean: Array
    covariance: Array
    prior: TastePrior


def believed(
    facets: Mapping[str, Facet],
    evidence: Sequence[Evidence],
    prior: FacetPrior,
    now: datetime,
    half_life_days: float,
) -> dict[str, Facet]:
    """The facets after all evidence on them, at `now`. What was told stands in the place of all that was before it; a
    facet that is pinned stays as it is."""
    named = {name for each in evidence for name in each.facets}
    held = {**facets, **{name: Facet(name) for name in sorted(named - set(facets))}}
    names = sorted(held)
    found = _posterior([held[name] for name in names], evidence, prior, now, half_life_days)
    after = dict(held)
    for place, name in enumerate(names):
        facet = held[name]
        if facet.is_pinned:
            continue
        own = [each for each in evidence if _counts(facet, each)]
        if facet.told_at is not None and not own:
            after[name] = told(facet, facet.start.mean, facet.told_at, is_pinned=False)
            continue
        carried = facet.carried
        moments = [*(each.observed_at for each in own), *((carried.at,) if carried else ())]
        after[name] = replace(
            facet,
            mean=NEUTRAL + float(found.mean[place]),
            variance=float(found.covariance[place, place]),
            evidence=len(own) + (carried.evidence if carried else 0),
            evidence_at=max(moments, default=None),
            updated_at=now,
            start=Belief(NEUTRAL + float(found.prior.mean[place]), float(found.prior.covariance[place, place])),
        )
    return after


def changes_between(
    before: Mapping[str, Facet], after: Mapping[str, Facet], about: frozenset[str], reason: str
) -> list[FacetChange]:
    """What moved: of the facets the evidence is about, whatever did; of others, LEAST_MOVE at least."""
    changes: list[FacetChange] = []
    for name, facet in after.items():
        old = before.get(name, Facet(name))
        moved = abs(facet.value - old.value)
        is_surer = name in about and facet.variance != old.variance
        if moved >= LEAST_MOVE or (name in about and moved) or is_surer:
            changes.append(FacetChange(name, old.value, facet.value, facet.uncertainty, reason))
    return changes


def learned_prior(
    people: Sequence[tuple[Mapping[str, Facet], Sequence[Evidence]]], now: datetime, half_life_days: float
) -> FacetPrior | None:
    """What the facets of a tenant's users are like, from the facets and evidence of each; None from fewer than
    LEAST_USERS who gave any.

    Each is read by itself, as if nothing was known of the others, so that nobody counts through anybody else; neutral
    counts as LEAST_USERS users. A facet of one's own counts once LEAST_USERS have it.
    """
    given = [(facets, evidence) for facets, evidence in people if _has_any(facets, evidence)][:MOST_USERS]
    users_of: dict[str, int] = {}
    for facets, evidence in given:
        for name in {*_known(facets), *(name for each in evidence for name in each.facets)}:
            users_of[name] = users_of.get(name, 0) + 1
    own = sorted(name for name, users in users_of.items() if users >= LEAST_USERS and name not in DEFAULT_FACETS)
    names = (*DEFAULT_FACETS, *own)
    found = [
        _posterior(
            [facets.get(name, Facet(name)) for name in names],
            evidence,
            FacetPrior(),
            now,
            half_life_days,
        )
        for facets, evidence in given
    ]
    found = [each for each in found if np.isfinite(each.mean).all() and np.isfinite(each.covariance).all()]
    if len(found) < LEAST_USERS:
        return None
    means = np.clip(np.array([each.mean for each in found]), -NEUTRAL, NEUTRAL)
    covariances = np.array([_bounded(each.covariance) for each in found])
    fitted = fit_prior(means, covariances, FacetPrior().of(names), LEAST_USERS)
    return FacetPrior(names, fitted.mean, fitted.covariance, len(found))


def _bounded(covariance: Array) -> Array:
    """No variance above neutral's, which a sample's may be by chance."""
    scale = np.sqrt(np.minimum(1.0, NEUTRAL_VARIANCE / np.diag(covariance)))
    return covariance * np.outer(scale, scale)


def _known(facets: Mapping[str, Facet]) -> list[str]:
    return [name for name, facet in facets.items() if facet.told_at is not None or facet.carried is not None]


def _has_any(facets: Mapping[str, Facet], evidence: Sequence[Evidence]) -> bool:
    return bool(_known(facets)) or any(each.facets for each in evidence)


def _counts(facet: Facet, evidence: Evidence) -> bool:
    """Whether evidence bears on a facet: not where the user has told since."""
    return facet.name in evidence.facets and (facet.told_at is None or evidence.observed_at > facet.told_at)


def _posterior(
    facets: Sequence[Facet], evidence: Sequence[Evidence], prior: FacetPrior, now: datetime, half_life_days: float
) -> _Posterior:
    start = _start(facets, prior)
    ordered = sorted(evidence, key=lambda each: (each.observed_at, each.evidence_id))
    remarks = [_carried(facet.carried, place, len(facets), now, half_life_days) for place, facet in enumerate(facets)]
    comparisons: list[Comparison] = []
    for each in ordered:
        share = share_left(each.observed_at, now, half_life_days)
        bears = np.array([float(facet.is_pinned or _counts(facet, each)) for facet in facets])
        if each.remark:
            deltas = np.array([each.remark.get(facet.name, 0.0) * (not facet.is_pinned) for facet in facets])
            remarks.append(_remark(bears * deltas * share))
        options = np.array([[option.get(facet.name, 0.0) for facet in facets] for option in each.shown])
        if len(options) > 1 and np.ptp(options * bears, axis=0).any():
            comparisons.append(Comparison(options * bears, each.chosen, share))
    told = [each for each in remarks if each.precision.any()]
    if not comparisons:
        informed = heard(start, told)
        return _Posterior(informed.mean, informed.covariance, start)
    return _compared(start, comparisons, told)


def _compared(start: TastePrior, comparisons: Sequence[Comparison], remarks: Sequence[Remark]) -> _Posterior:
    """The posterior where there are comparisons. Facets that none of the evidence reaches keep what they are exactly:
    no draws are wasted on them."""
    reached = np.zeros(len(start.mean), dtype=np.bool_)
    for each in comparisons:
        reached |= np.ptp(each.shown, axis=0) > 0
    linked = (start.covariance[reached] != 0).any(axis=0)
    informed = heard(start, remarks)
    mean, covariance = informed.mean.copy(), informed.covariance.copy()
    here = np.ix_(linked, linked)
    part = TastePrior(start.mean[linked], start.covariance[here], start.sharpness)
    taste = taste_of(
        part,
        [replace(each, shown=each.shown[:, linked]) for each in comparisons],
        [Remark(each.precision[linked], each.shift[linked]) for each in remarks],
    )
    mean[linked], covariance[here] = taste.mean, taste.covariance
    return _Posterior(mean, covariance, start)


def _start(facets: Sequence[Facet], prior: FacetPrior) -> TastePrior:
    """What the facets are before their evidence: what the user told, each by itself, else what the prior says."""
    start = prior.of([facet.name for facet in facets])
    mean, covariance = start.mean, start.covariance
    for place, facet in enumerate(facets):
        if facet.told_at is not None or facet.is_pinned:
            covariance[place, :] = covariance[:, place] = 0.0
            covariance[place, place] = TOLD_VARIANCE
            mean[place] = (facet.mean if facet.is_pinned else facet.start.mean) - NEUTRAL
    return TastePrior(mean, covariance, SHARPNESS)


def _carried(carried: Carried | None, place: int, width: int, now: datetime, half_life_days: float) -> Remark:
    """What was believed before evidence was kept, as the likelihood that takes neutral there."""
    precision, shift = np.zeros(width), np.zeros(width)
    if carried is not None:
        share = share_left(carried.at, now, half_life_days)
        precision[place] = share * max(0.0, 1.0 / carried.belief.variance - 1.0 / NEUTRAL_VARIANCE)
        shift[place] = share * (carried.belief.mean - NEUTRAL) / carried.belief.variance
    return Remark(precision, shift)


def _remark(deltas: Array) -> Remark:
    """Deltas (d,) as a likelihood: each points to the end of its facet, with a precision that grows with its size."""
    precision = REMARK_PRECISION * np.minimum(1.0, np.abs(deltas))
    return Remark(precision, precision * NEUTRAL * np.sign(deltas))
