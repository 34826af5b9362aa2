"""What holds of every ranking, every interval and every verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.judging import beliefs, hit, reciprocal_rank
from app.domain.promotion import Bootstrap, Figure, Policy, Unanswered, parse_policy, verdict
from app.services.training.intervals import difference_of, interval_of, ratio

SCORES = st.lists(st.integers(-4, 0).map(float), min_size=2, max_size=8)
SHARES = st.floats(0, 1)


@given(SCORES, st.randoms())
def test_ranks_do_not_depend_on_the_order(scores: list[float], dice: object) -> None:
    order = list(range(len(scores)))
    dice.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    turned = [scores[place] for place in order]

    for measure in (reciprocal_rank, hit):
        assert [measure(turned, place) for place in range(len(order))] == [measure(scores, place) for place in order]


@given(SCORES)
def test_hits_of_all_readings_are_one(scores: list[float]) -> None:
    assert sum(hit(scores, place) for place in range(len(scores))) == pytest.approx(1.0)


@given(SCORES, st.integers(0, 7))
def test_a_reading_that_gets_likelier_never_ranks_lower(scores: list[float], place: int) -> None:
    place %= len(scores)
    raised = [score + (index == place) for index, score in enumerate(scores)]

    assert reciprocal_rank(raised, place) >= reciprocal_rank(scores, place) >= 1 / len(scores)


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=8))
def test_beliefs_are_a_distribution_in_the_order_of_the_likelihoods(likelihoods: list[float]) -> None:
    found = beliefs(likelihoods)

    assert 0 < sum(found) < 1
    assert all(
        one >= other
        for a, one in zip(likelihoods, found, strict=True)
        for b, other in zip(likelihoods, found, strict=True)
        if a > b
    )


@settings(max_examples=30)
@given(st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=12))
def test_changing_sides_turns_the_interval_round(pairs: list[tuple[float, float]]) -> None:
    own, other = (np.array([[pair[side], 1.0] for pair in pairs]) for side in (0, 1))
    options = Bootstrap(resamples=200)

    one = interval_of(difference_of(ratio, own, other), len(pairs), options)
    turned = interval_of(difference_of(ratio, other, own), len(pairs), options)

    assert one is not None
    assert turned is not None
    assert one == pytest.approx((-turned[1], -turned[0]), abs=1e-9)
    gains = [pair[0] - pair[1] for pair in pairs]
    assert min(gains) - 1e-9 <= one[0] <= one[1] <= max(gains) + 1e-9


@given(SHARES, SHARES, SHARES, SHARES)
def test_worse_is_never_accepted_where_it_has_to_improve(own: float, other: float, a: float, b: float) -> None:
    difference = own - other
    figure = Figure(own, other, difference - a, difference + b)
    found = verdict(Policy(), {"mrr": figure}, 30, Unanswered(30))

    assert found.is_accepted == (difference - a > 0)
    assert len(found.refusals) == (not found.is_accepted)


@given(SHARES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_candidate_that_passes_a_gate_passes_every_wider_one(high: float, margin: float, wider: float) -> None:
    def passes(allowed: float) -> bool:
        gates = dict.fromkeys(("mrr", "calibration_error", "schema_validity", "reward_win_rate", "latency_ratio"))
        policy = parse_policy({"gates": {**gates, "hit@1": {"worse_by_at_most": allowed}}})
        return verdict(policy, {"hit@1": Figure(0.5, 0.5, -high, high)}, 30, Unanswered(30)).is_accepted

    assert passes(margin + wider) or not passes(margin)
