"""Whatever a model prefers, what comes of its labels is a distribution, and the order of readings does not matter."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.calibration import MODEL_PRIOR, label_features, probabilities
from app.domain.labels import Read, log_odds_of, orders

QUICK = settings(max_examples=80, deadline=None)
LIKED = st.lists(st.floats(-3, 3), min_size=2, max_size=6)
BIAS = st.lists(st.floats(-1, 1), min_size=6, max_size=6)

Model = Callable[[Sequence[int]], list[float]]


def read(model: Model, options: Sequence[int], most: int) -> dict[int, float]:
    """Log-odds of options against the last one, by which one it is."""
    shown = orders(len(options), most)
    reads = [Read(model([options[at] for at in order])) for order in shown]
    return dict(zip(options[:-1], log_odds_of(shown, reads), strict=True))


@QUICK
@given(LIKED, BIAS, st.randoms(use_true_random=False))
def test_the_order_of_readings_does_not_matter_once_all_orders_are_averaged(
    liked: list[float], bias: list[float], dice: object
) -> None:
    def model(shown: Sequence[int]) -> list[float]:
        return [liked[option] + bias[place] for place, option in enumerate(shown)]

    options = list(range(len(liked)))
    others = options[:-1]
    dice.shuffle(others)
    plain = read(model, options, len(options))
    assert read(model, [*others, options[-1]], len(options)) == pytest.approx(plain, abs=1e-9)


@QUICK
@given(LIKED, st.integers(0, 2**20), st.integers(1, 5))
def test_turning_the_readings_round_does_not_matter_whatever_the_model_does(
    liked: list[float], seed: int, turns: int
) -> None:
    """Also to one that likes whole lists: turned round by any number of places, all orders are the same ones."""

    def model(shown: Sequence[int]) -> list[float]:
        return [math.sin(seed + hash(tuple(shown)) % 97 + liked[option]) for option in shown]

    options = list(range(len(liked)))
    turn = turns % len(options)
    turned = [*options[turn:], *options[:turn]]
    plain = _against(model, options, options[-1])
    assert _against(model, turned, options[-1]) == pytest.approx(plain, abs=1e-9)


def _against(model: Model, options: Sequence[int], last: int) -> dict[int, float]:
    """Log-odds against the option `last`, wherever it stands."""
    odds = read(model, options, len(options)) | {options[-1]: 0.0}
    return {option: odds[option] - odds[last] for option in sorted(odds)}


@QUICK
@given(
    st.lists(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4), min_size=1, max_size=4)
)
def test_probabilities_of_any_read_are_positive_and_leave_room_for_none(logprobs: list[list[float]]) -> None:
    shown = orders(4)[: len(logprobs)]
    odds = log_odds_of(shown, [Read(each) for each in logprobs])
    shares = probabilities([label_features(each) for each in odds], MODEL_PRIOR)
    assert all(0 < share < 1 for share in shares)
    assert sum(shares) < 1
