"""How places are looked at, from lists in an order that was drawn evenly; and what a choice at a place counts."""

import numpy as np
import pytest

from app.domain.logit import softmax
from app.domain.position import (
    LEAST_EXAMINATION,
    PLACES,
    PRIOR_EXAMINATION,
    examination,
    inverse,
    offsets,
)

LOOKED_AT = (1.0, 0.6, 0.4, 0.35, 0.3)


def chosen(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """What is chosen in lists of different lengths, whatever stands where."""
    chances = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        size = int(chances.integers(2, PLACES + 1))
        place = int(chances.integers(size))  # where what is meant stands
        if chances.random() < LOOKED_AT[place]:
            found.append((place + 1, size))
    return found


def test_without_choices_it_is_the_prior() -> None:
    assert examination([]) == pytest.approx(PRIOR_EXAMINATION)


def test_many_choices_tell_how_places_are_looked_at() -> None:
    assert examination(chosen(20_000)) == pytest.approx(LOOKED_AT, abs=0.04)


def test_few_choices_move_it_little() -> None:
    moved = np.abs(np.array(examination([(5, 5)] * 3)) - np.array(PRIOR_EXAMINATION))
    assert 0 < moved.max() < 0.25


def test_it_is_a_probability_and_never_next_to_nothing() -> None:
    for seen in ([(1, 5)] * 5000, [(5, 5)] * 5000):
        found = examination(seen)
        assert found[0] == 1.0
        assert all(LEAST_EXAMINATION <= each <= 1.0 for each in found)


def test_a_choice_counts_by_the_inverse_up_to_a_bound() -> None:
    assert inverse(1) == 1.0
    assert inverse(3, LOOKED_AT) == pytest.approx(1 / 0.4)
    assert inverse(9, (1.0, 0.01, 0.01, 0.01, 0.01)) == pytest.approx(1 / LEAST_EXAMINATION)


def test_offsets_take_the_place_out_of_a_choice_model() -> None:
    """Options of the same worth are chosen in proportion to how they are looked at."""
    assert softmax(offsets((2, 1, 3), LOOKED_AT)) == pytest.approx(np.array([0.6, 1.0, 0.4]) / 2.0)
