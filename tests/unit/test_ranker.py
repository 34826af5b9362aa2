"""Weights of origins: learned from choices by where they stood, and judged on orders that were drawn."""

import numpy as np
import pytest

from app.domain.off_policy import evaluation, gain
from app.domain.ordering import drawn
from app.domain.position import PRIOR_EXAMINATION, examination
from app.domain.ranker import Listed, fit, fitted_for, order_log, ranks_of
from benchmarks.hypotheses.off_policy import LOOKED_AT, MANY_OPTIONS, WORTH, questions, worth_of

RAW = (1.0,) * 5


def asked(seed: int, users: int = 300, options: int = 3) -> list[Listed]:
    return [each.listed for each in questions(seed, users, 3, options)]


def test_without_choices_nothing_is_weighed() -> None:
    listed = Listed("ada", drawn(2, 0.0, 0.0), np.array([1.0, 0.0]), ("memory", "option"), np.array([0.5, 0.2]), None)
    assert set(fit([listed], PRIOR_EXAMINATION).values()) == {0.0}
    assert set(fit([], PRIOR_EXAMINATION).values()) == {0.0}


def test_a_ranker_moves_readings_by_their_origin() -> None:
    listed = Listed("ada", drawn(2, 0.0, 0.0), np.array([1.0, 0.5]), ("memory", "cohort"), np.array([0.5, 0.3]), 0)
    assert ranks_of(listed, {}) == (1, 2)
    assert ranks_of(listed, {"cohort": 0.6}) == (2, 1)


def test_what_users_mean_is_learned() -> None:
    learned = fit(asked(1, 1500), LOOKED_AT)
    between = [learned["memory"] - learned["option"], learned["cohort"] - learned["option"]]
    assert between == pytest.approx([-1.0, 0.6], abs=0.2)


def test_raw_choices_learn_where_readings_stood() -> None:
    """Memories are overrated by the order that is shown: raw choices take back less of that, and lose."""
    judged = questions(99, 2000, 1, MANY_OPTIONS)
    better: list[float] = []
    for seed in range(6):
        listed = asked(seed, 200, MANY_OPTIONS)
        taught = [
            (each.order.ranks[each.chosen], 5) for each in listed if each.order.is_drawn and each.chosen is not None
        ]
        raw, debiased = fit(listed, RAW), fit(listed, examination(taught))
        better.append(worth_of(judged, debiased, 0.0) - worth_of(judged, raw, 0.0))
    assert np.mean(better) > 2 * np.std(better, ddof=1) / np.sqrt(len(better))


def test_the_order_that_holds_gains_nothing_over_itself() -> None:
    listed = asked(2)
    found = gain(order_log(listed, [{}] * len(listed), PRIOR_EXAMINATION), "ips")
    assert (found.value, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_a_better_order_is_found_better() -> None:
    judged = questions(98, 5000, 1)
    truth = worth_of(judged, WORTH) - worth_of(judged, {})
    listed = asked(3, 1500)
    found = evaluation(order_log(listed, [WORTH] * len(listed), PRIOR_EXAMINATION), len(listed), 0.5)
    assert truth > 0.03
    for method, each in found.gains.items():
        assert each.low < truth < each.high, method
        assert each.value == pytest.approx(truth, abs=0.05)


def test_nobody_is_judged_by_what_was_learned_from_them() -> None:
    """A user whose choices are all of one kind moves the rankers of others, not their own."""
    odd = [each for each in asked(4, 20) if each.user_id == "u3"]
    others = [each for each in asked(4, 20) if each.user_id != "u3"]
    chosen = [Listed(each.user_id, each.order, each.scores, ("option",) * 3, each.confidences, 0) for each in odd]
    before = fitted_for([*others, *odd], PRIOR_EXAMINATION)[len(others)]
    after = fitted_for([*others, *chosen], PRIOR_EXAMINATION)[len(others)]
    assert before == after
