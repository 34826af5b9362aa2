"""What must hold of facets whatever is thrown at them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.facet_evidence import LEAST_USERS, Evidence, FacetPrior, believed, changes_between, learned_prior
from app.domain.leanings import heuristic_deltas, leanings_of
from app.domain.persona import DEFAULT_FACETS, NEUTRAL_VARIANCE, Facet, Signal, describe, faded, told

QUICK = settings(max_examples=40, deadline=None)
NOW = datetime(2026, 1, 10, tzinfo=UTC)
DEFAULT = {name: Facet(name) for name in DEFAULT_FACETS}
NEVER = 1e15
"""A half-life within which nothing is forgotten."""

NAMES = st.sampled_from([*DEFAULT_FACETS, "own"])
LEANINGS = st.dictionaries(NAMES, st.sampled_from([-1.0, -0.5, 0.5, 1.0]), max_size=3)
DELTAS = st.dictionaries(NAMES, st.floats(-1, 1), min_size=1, max_size=3)
MOMENTS = st.integers(0, 400).map(lambda days: NOW - timedelta(days=days))
IDS = st.uuids()
REMARKS = st.builds(Evidence, IDS, MOMENTS, remark=DELTAS)
CHOICES = st.lists(LEANINGS, min_size=2, max_size=4).flatmap(
    lambda shown: st.builds(Evidence, IDS, MOMENTS, st.just(tuple(shown)), st.integers(0, len(shown) - 1))
)
EVIDENCE = st.lists(st.one_of(REMARKS, CHOICES), max_size=12, unique_by=lambda each: each.evidence_id)
FACETS = st.builds(
    Facet, st.sampled_from(["concise", "formal", "own"]), st.floats(-0.3, 1.3), st.floats(1e-4, 0.2), st.integers(0, 9)
)
WORDS = st.sampled_from(
    ["too brief", "too long", "not", "more detail", "code first", "shorter", "never", ",", "é", "’"]
)


def after(evidence: list[Evidence], facets: dict[str, Facet] = DEFAULT, half_life: float = NEVER) -> dict[str, Facet]:
    return believed(facets, evidence, FacetPrior(), NOW, half_life)


@QUICK
@given(EVIDENCE.flatmap(lambda held: st.tuples(st.just(held), st.permutations(held))), st.sampled_from([NEVER, 90.0]))
def test_the_order_of_evidence_does_not_matter(pair: tuple[list[Evidence], list[Evidence]], half_life: float) -> None:
    """Neither as it is handed over, nor, while nothing is forgotten, as it came: at other moments it is the same."""
    held, mixed = pair
    assert after(held, half_life=half_life) == after(mixed, half_life=half_life)
    retold = [replace(each, observed_at=other.observed_at) for each, other in zip(held, mixed, strict=True)]
    one, other = after(held), after(retold)
    for name, facet in one.items():
        assert abs(facet.mean - other[name].mean) < 1e-9
        assert abs(facet.variance - other[name].variance) < 1e-9
        assert facet.evidence == other[name].evidence


@QUICK
@given(EVIDENCE, NAMES, st.floats(0, 1))
def test_what_is_pinned_never_moves(evidence: list[Evidence], name: str, value: float) -> None:
    pinned = told(Facet(name), value, NOW - timedelta(days=500), is_pinned=True)
    moved = after(evidence, {**DEFAULT, name: pinned}, 90.0)
    assert moved[name] == pinned
    assert faded(moved, NOW + timedelta(days=9000), 90.0)[name] == pinned


@QUICK
@given(EVIDENCE, NAMES, st.floats(0, 1))
def test_a_correction_outranks_what_was_inferred(evidence: list[Evidence], name: str, value: float) -> None:
    """Whatever was concluded before, the facet is where the user says; and later remarks move it less than they would
    move one of which nothing is known."""
    corrected = told(after(evidence).get(name, Facet(name)), value, NOW, is_pinned=False)
    found = after(evidence, {**DEFAULT, name: corrected})[name]
    assert (found.mean, found.evidence) == (corrected.mean, 0)
    remark = Evidence(UUID(int=0), NOW + timedelta(seconds=1), remark={name: 0.1})
    learned = after([*evidence, remark], {**DEFAULT, name: corrected})[name]
    unknown = after([remark], {name: Facet(name)})[name]
    assert -1e-12 <= learned.mean - found.mean < 0.3 * (1 - value) + 1e-9
    assert learned.mean - value <= unknown.mean - 0.5 + 1e-9


@QUICK
@given(st.lists(REMARKS, max_size=8, unique_by=lambda each: each.evidence_id), DELTAS)
def test_remarks_narrow_an_interval_and_pull_their_way(held: list[Evidence], deltas: dict[str, float]) -> None:
    before, moved = after(held), after([*held, Evidence(UUID(int=0), NOW, remark=deltas)])
    for name, delta in deltas.items():
        old = before.get(name, Facet(name))
        assert moved.get(name, Facet(name)).variance <= old.variance
        assert (moved.get(name, Facet(name)).mean - old.mean) * delta >= -1e-12
        if abs(delta) > 1e-6:
            assert moved[name].variance < old.variance


@QUICK
@given(EVIDENCE)
def test_evidence_leaves_less_than_nothing_would(evidence: list[Evidence]) -> None:
    """A logit's likelihood is log-concave: with a normal prior no variance is above the prior's (Brascamp and Lieb
    1976), but for what the draws miss."""
    for facet in after(evidence).values():
        assert facet.variance <= NEUTRAL_VARIANCE * 1.05
        assert 0 <= facet.value <= 1
        low, high = facet.interval
        assert 0 <= low <= facet.value <= high <= 1


@QUICK
@given(EVIDENCE, st.lists(st.integers(0, 3000), min_size=2, max_size=5).map(sorted))
def test_an_interval_grows_with_time(evidence: list[Evidence], days: list[int]) -> None:
    facets = after(evidence)
    spreads = [faded(facets, NOW + timedelta(days=each), 90.0) for each in days]
    for name, facet in facets.items():
        if facet.variance > NEUTRAL_VARIANCE:  # by what the draws miss
            continue
        variances = [facet.variance, *(each[name].variance for each in spreads)]
        assert all(earlier <= later + 1e-12 for earlier, later in pairwise(variances))
        assert variances[-1] <= NEUTRAL_VARIANCE + 1e-12


@settings(max_examples=10, deadline=None)
@given(st.lists(EVIDENCE, min_size=2, max_size=2), st.integers(0, 2**31))
def test_nobody_alone_moves_others_beyond_a_bound(histories: list[list[Evidence]], seed: int) -> None:
    """One user's history replaced by any other moves the mean of the prior by 1 / (users + LEAST_USERS) at most, and
    somebody else's facets by little."""
    chances = np.random.default_rng(seed)
    others = [
        (DEFAULT, [Evidence(UUID(int=n), NOW, remark={"concise": float(chances.choice([-0.1, 0.1]))})])
        for n in range(30)
    ]
    priors = [learned_prior([*others, (DEFAULT, [*each, *others[0][1]])], NOW, 90.0) for each in histories]
    one, other = (prior.of(DEFAULT_FACETS) for prior in priors if prior is not None)
    bound = 1 / (31 + LEAST_USERS)
    assert np.abs(one.mean - other.mean).max() <= bound + 1e-12
    assert np.abs(one.covariance - other.covariance).max() <= bound
    remark = [Evidence(UUID(int=99), NOW, remark={"formal": 0.1})]
    first, second = (believed(DEFAULT, remark, prior, NOW, NEVER) for prior in priors if prior is not None)
    assert max(abs(first[name].mean - second[name].mean) for name in DEFAULT_FACETS) <= 6 * bound


@QUICK
@given(st.lists(WORDS, max_size=12).map(" ".join), st.text(max_size=40), st.floats(-1, 1), st.lists(FACETS, max_size=3))
def test_any_signal_gives_small_deltas_that_apply(
    comment: str, chosen: str, rating: float, facets: list[Facet]
) -> None:
    held = {facet.name: facet for facet in facets}
    deltas = heuristic_deltas(Signal("feedback", held, chosen, (chosen,), comment, rating))
    assert all(0 < abs(delta) <= 1 for delta in deltas.values())
    assert all(0 < abs(leaning) <= 1 for leaning in leanings_of(f"{chosen} {comment}", held).values())
    moved = after([Evidence(UUID(int=1), NOW, remark=deltas)])
    changes = changes_between(after([]), moved, frozenset(deltas), "r")
    assert {name for name, delta in deltas.items() if abs(delta) > 1e-9} <= {change.facet for change in changes}
    assert {change.facet for change in changes} <= set(deltas)
    describe(moved)
