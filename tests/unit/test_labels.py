"""Readings weighed by the probabilities of their labels: orders, averages, and what the model is told."""

import math

import pytest

from app.domain.labels import (
    LABELLING,
    LEAST_SHARE,
    NONE_OF_THESE,
    Read,
    labels_instruction,
    log_odds_of,
    mass_of,
    orders,
)


def test_orders_are_the_first_one_turned_round_as_far_apart_as_can_be() -> None:
    assert orders(4) == [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]
    assert orders(4, 2) == [(0, 1, 2, 3), (2, 3, 0, 1)]
    assert [each[0] for each in orders(6)] == [0, 1, 3, 4]
    assert orders(2) == [(0, 1), (1, 0)]


def test_a_preference_for_places_falls_out_of_the_average() -> None:
    """A model that adds as much to the log-odds of the first place, whatever stands there, says of readings what one
    says that does not."""
    liked, bias = [1.5, -0.5, 0.3, 0.0], [2.0, 0.4, 0.0, -0.7]
    shown = orders(4)
    reads = [Read([liked[option] + bias[place] for place, option in enumerate(order)]) for order in shown]
    assert log_odds_of(shown, reads) == pytest.approx([1.5, -0.5, 0.3])
    assert log_odds_of(shown[:1], reads[:1]) != pytest.approx([1.5, -0.5, 0.3], abs=0.5), "one order alone does not"


def test_no_label_is_ruled_out() -> None:
    odds = log_odds_of([(0, 1)], [Read([0.0, -math.inf])])
    assert odds == (pytest.approx(-math.log(LEAST_SHARE)),)
    assert log_odds_of([(0, 1, 2)], [Read([math.nan, -math.inf, math.inf])]) == (0.0, 0.0), "nothing is known of any"


def test_the_share_of_labels_is_known_where_every_order_tells_it() -> None:
    assert mass_of([Read([0.0], 0.4), Read([0.0], 0.8)]) == pytest.approx(0.6)
    assert mass_of([Read([0.0], 0.4), Read([0.0])]) is None
    assert mass_of([]) is None


def test_options_stand_behind_letters_after_what_all_orders_share() -> None:
    known = {"memories": [{"type": "PROFILE", "content": "I lead a depot, ask mia@example.org"}]}
    one = labels_instruction("plan week", known, ["plan <my> week", NONE_OF_THESE])
    other = labels_instruction("plan week", known, [NONE_OF_THESE, "plan <my> week"])
    assert one.system == other.system == LABELLING
    shared = one.user[: one.user.index("A: ")]
    assert other.user.startswith(shared)
    assert "<input>plan week</input>" in shared
    assert "mia@" not in one.user
    assert f"A: plan &lt;my&gt; week\nB: {NONE_OF_THESE}\n" in one.user
