"""Tokens are shared out by weight, what one leaves the others get, and never more than there are."""

import pytest

from app.domain.budget import DEFAULT_WEIGHTS, allocate


def test_the_default_weights_are_shares() -> None:
    assert sum(DEFAULT_WEIGHTS.values()) == pytest.approx(1.0)


def test_all_want_more_than_there_is() -> None:
    assert allocate({"a": 999, "b": 999}, {"a": 3, "b": 1}, 100) == {"a": 75, "b": 25}


def test_what_one_does_not_need_goes_to_the_others() -> None:
    assert allocate({"a": 10, "b": 999, "c": 999}, {"a": 2, "b": 1, "c": 1}, 100) == {"a": 10, "b": 45, "c": 45}
    assert allocate({"a": 10, "b": 20}, {"a": 1, "b": 1}, 100) == {"a": 10, "b": 20}


def test_a_weight_of_zero_gets_nothing_even_where_tokens_are_left() -> None:
    assert allocate({"a": 10, "b": 50}, {"a": 1, "b": 0}, 100) == {"a": 10, "b": 0}
    assert allocate({"b": 50}, {"a": 1, "b": 0}, 100) == {"b": 0}


def test_all_weights_zero_means_equal_shares() -> None:
    assert allocate({"a": 90, "b": 90}, {"a": 0, "b": 0}, 100) == {"a": 50, "b": 50}


@pytest.mark.parametrize("available", [-5, 0])
def test_nothing_there_is_nothing_granted(available: int) -> None:
    assert allocate({"a": 10}, {"a": 1}, available) == {"a": 0}
