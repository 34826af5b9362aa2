"""Whatever is drawn and chosen: propensities are a distribution, a replay is the same, and what counts is bounded."""

from itertools import permutations
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.off_policy import METHODS, MOST_WEIGHT, Log, estimate
from app.domain.ordering import drawn, order_of, propensity_of
from app.domain.outcomes import OutcomeKind, likelihood
from app.domain.position import LEAST_EXAMINATION, PLACES, examination, inverse
from app.services.chance import die_of

QUICK = settings(max_examples=60, deadline=None)
SHARES = st.floats(0.0, 1.0)
SIZES = st.integers(1, PLACES)


@QUICK
@given(SIZES, SHARES)
def test_the_propensities_of_all_orders_sum_to_1(size: int, shuffle: float) -> None:
    orders = list(permutations(range(1, size + 1)))
    assert sum(propensity_of(each, shuffle) for each in orders) == pytest.approx(1.0)


@QUICK
@given(SIZES, SHARES, st.uuids(version=4))
def test_the_same_order_comes_of_the_same_set_again(size: int, shuffle: float, set_id: UUID) -> None:
    order = drawn(size, shuffle, die_of(set_id))
    assert drawn(size, order_of(order.record).shuffle, die_of(UUID(str(set_id)))) == order
    assert sorted(order.ranks) == list(range(1, size + 1))
    assert order.propensity > 0
    assert sum(order.propensity_at(place) for place in range(size)) <= size


CHOSEN = st.integers(2, PLACES).flatmap(lambda size: st.tuples(st.integers(1, size), st.just(size)))


@QUICK
@given(st.lists(CHOSEN, max_size=60))
def test_what_a_choice_counts_is_bounded(chosen: list[tuple[int, int]]) -> None:
    looked_at = examination(chosen)
    assert looked_at[0] == 1.0
    for place in range(1, PLACES + 1):
        assert 1.0 <= inverse(place, looked_at) <= 1.0 / LEAST_EXAMINATION


@QUICK
@given(st.permutations(range(1, 5)), st.sampled_from(OutcomeKind.__args__), st.integers(0, 3), st.lists(CHOSEN))
def test_outcomes_have_probabilities(
    places: list[int], kind: OutcomeKind, chosen: int, seen: list[tuple[int, int]]
) -> None:
    told = likelihood(kind, places, chosen, looked_at=examination(seen))
    assert told.shape == (5,)
    assert np.all((told > 0) & (told <= 1))


@QUICK
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_intervals_have_their_estimates_in_them(seed: int, rows: int) -> None:
    chances = np.random.default_rng(seed)
    logged, other = chances.uniform(0.001, 1.0, (2, rows))
    rewards, model = chances.uniform(-1.0, 1.0, (2, rows))
    log = Log(chances.integers(0, rows, rows), logged, other, rewards, model, model)
    assert log.weights.max() <= MOST_WEIGHT
    for method in METHODS:
        found = estimate(log, method)
        assert found.low <= found.value <= found.high
