"""Held-out choices and the figures of what models say of them."""

import numpy as np
import orjson
import pytest

from app.domain.judging import (
    beliefs,
    calibration_sums,
    choice_of,
    hit,
    rank_of_choice,
    reciprocal_rank,
    reliability,
    sampled,
)
from app.domain.telemetry import calibration_error
from app.services.training.intervals import calibration
from tests.judged import CHOSEN, row


def test_the_choice_is_the_first_reading_of_the_row() -> None:
    choice = choice_of(row(3))

    assert choice is not None
    assert choice.requests[choice.chosen] == f"{CHOSEN} 3"
    assert len(choice.requests) == choice.shown == 3
    assert choice.user == "user3"
    assert [message["role"] for message in choice.messages] == ["system", "user"]


def test_the_order_of_the_other_readings_does_not_matter() -> None:
    given, turned = row(3), row(3)
    readings = orjson.loads(turned["completion"][0]["content"])["hypotheses"]
    turned["completion"][0]["content"] = orjson.dumps({"hypotheses": [readings[0], readings[2], readings[1]]}).decode()

    assert choice_of(given) == choice_of(turned)


def test_the_place_of_the_choice_says_nothing() -> None:
    places = [choice.chosen for number in range(300) if (choice := choice_of(row(number))) is not None]

    assert all(70 < places.count(place) < 130 for place in range(3))


@pytest.mark.parametrize(
    "said",
    ['{"hypotheses":[{"request":"Only this"}]}', '{"hypotheses":[{"request":"A b"},{"request":"A b"}]}', "{", "[]"],
)
def test_a_row_without_two_different_readings_is_no_choice(said: str) -> None:
    given = row(1)
    given["completion"][0]["content"] = said

    assert choice_of(given) is None


def test_a_sample_is_the_same_in_any_order_and_holds_nothing_twice() -> None:
    choices = [choice for number in range(50) if (choice := choice_of(row(number))) is not None]

    assert sampled(choices, 20) == sampled([*reversed(choices), *choices], 20)
    assert len(sampled(choices, 20)) == 20
    assert len(sampled([*choices, *choices], 500)) == 50


def test_ranks() -> None:
    assert reciprocal_rank([-1.0, -2.0, -3.0], 0) == 1.0
    assert reciprocal_rank([-1.0, -2.0, -3.0], 2) == pytest.approx(1 / 3)
    assert reciprocal_rank([-1.0, -1.0, -3.0], 0) == reciprocal_rank([-1.0, -1.0, -3.0], 1) == pytest.approx(1 / 1.5)
    assert reciprocal_rank([-1.0, -1.0, -1.0], 1) == 0.5
    assert hit([-1.0, -2.0], 0) == 1.0
    assert hit([-1.0, -2.0], 1) == 0.0
    assert hit([-1.0, -1.0], 0) == hit([-1.0, -1.0], 1) == 0.5


def test_likelier_readings_are_believed_more() -> None:
    high, low = beliefs([-0.5, -2.0])

    assert high > low > 0
    assert high + low < 1


def test_sums_of_users_make_the_calibration_error_of_all() -> None:
    dice = np.random.default_rng(3)
    users = [[(float(said), bool(dice.random() < said**2)) for said in dice.random(5)] for _ in range(20)]
    everything = [pair for user in users for pair in user]

    made = calibration(np.array([calibration_sums(user) for user in users]).sum(axis=0))

    assert float(made) == pytest.approx(calibration_error(everything))


def test_reliability_by_bin() -> None:
    pairs = [(0.15, False), (0.15, True), (0.95, True), (1.0, True)]

    assert reliability(pairs) == [(pytest.approx(0.15), 0.5, 2), (pytest.approx(0.975), 1.0, 2)]


def test_a_reading_is_the_choice_when_it_is_nearest_and_near() -> None:
    shown = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    same, other, far = [0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.5, 0.0, 0.9]

    def rank(*own: list[float]) -> int | None:
        return rank_of_choice(np.array(own, np.float32), shown, 0)

    assert rank(same, other) == 1
    assert rank(other, far, same) == 3
    assert rank(other, far) is None
