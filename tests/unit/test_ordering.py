"""Orders of options: the likely one but for what is drawn, with the probability that is written down."""

from itertools import permutations

import pytest

from app.domain.ordering import ORDER_VERSION, Order, drawn, likely_first, order_of, propensity_of


def test_without_shuffling_the_most_likely_comes_first() -> None:
    order = drawn(3, 0.0, 0.999)
    assert order == Order((1, 2, 3), 0.0)
    assert (order.propensity, order.propensity_at(0), order.is_drawn) == (1.0, 1.0, False)
    assert drawn(1, 0.5, 0.9).ranks == (1,)
    assert drawn(0, 0.5, 0.9).ranks == likely_first(0).ranks == ()


def test_orders_come_as_often_as_is_written_down() -> None:
    """A die that is laid out evenly shows every order in its share."""
    dice = 60_000
    found: dict[tuple[int, ...], int] = {}
    for at in range(dice):
        order = drawn(3, 0.3, (at + 0.5) / dice)
        found[order.ranks] = found.get(order.ranks, 0) + 1
    assert set(found) == set(permutations((1, 2, 3)))
    for ranks, count in found.items():
        assert count / dice == pytest.approx(propensity_of(ranks, 0.3), abs=1e-3)
    assert propensity_of((1, 2, 3), 0.3) == pytest.approx(0.7 + 0.3 / 6)


def test_a_place_is_as_likely_as_the_orders_that_have_it() -> None:
    for ranks in permutations((1, 2, 3, 4)):
        order = Order(ranks, 0.2)
        for place in range(4):
            alike = [each for each in permutations((1, 2, 3, 4)) if each[place] == ranks[place]]
            assert order.propensity_at(place) == pytest.approx(sum(propensity_of(each, 0.2) for each in alike))


def test_a_record_of_another_form_is_not_read() -> None:
    order = drawn(4, 0.5, 0.77)
    assert order_of(order.record) == order
    with pytest.raises(ValueError, match="version 2"):
        order_of({**order.record, "version": ORDER_VERSION + 1})
