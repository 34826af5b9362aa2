"""Ask, go ahead, or leave it: what each is worth, and the same decision from its record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decisions import Stakes, decide, replayed

shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("confidences", "specific", "decision"),
    [
        ([0.86, 0.1], 0.1, "auto_advance"),
        ([0.8599, 0.1], 0.1, "ask"),
        ([0.34, 0.33, 0.33], 0.1, "ask"),
        ([0.34, 0.33, 0.33], 0.9, "proceed"),
        ([0.5], 0.8, "proceed"),
        ([], 0.0, "proceed"),
    ],
)
def test_the_service_advances_asks_or_proceeds(confidences: list[float], specific: float, decision: str) -> None:
    assert decide(confidences, specific, Stakes()).decision == decision


def test_a_cheap_question_is_asked_even_of_the_sure() -> None:
    assert decide([0.9, 0.05], 0.1, Stakes(question_cost=0.01)).decision == "ask"
    assert decide([0.9, 0.05], 0.1, Stakes(question_cost=0.1)).decision == "auto_advance"


def test_nothing_is_asked_that_costs_everything() -> None:
    assert decide([0.4, 0.3, 0.3], 0.0, Stakes(question_cost=1.0)).decision == "proceed"


def test_where_a_wrong_act_loses_more_asking_pays_sooner() -> None:
    """A deployment, not a poem."""
    poem, deployment = Stakes(), Stakes(loss=3.0)
    assert decide([0.9, 0.05], 0.1, poem).decision == "auto_advance"
    assert decide([0.9, 0.05], 0.1, deployment).decision == "ask"
    assert decide([0.995, 0.002], 0.1, deployment).decision == "auto_advance"


@given(st.lists(shares, min_size=1, max_size=5), shares, shares, shares, st.floats(0.5, 1.0))
def test_questions_are_fewer_the_more_they_cost_and_a_decision_is_made_again(
    weights: list[float], specific: float, cost: float, more: float, floor: float
) -> None:
    total = sum(weights) + 0.1
    confidences = sorted((weight / total for weight in weights), reverse=True)
    cheap = decide(confidences, specific, Stakes(cost, floor=floor))
    dear = decide(confidences, specific, Stakes(cost + more, floor=floor))

    assert not (dear.decision == "ask" and cheap.decision != "ask")
    assert cheap.decision != "auto_advance" or confidences[0] >= floor
    assert 0.0 <= cheap.gain <= 1.0
    assert replayed(confidences, json.loads(json.dumps(cheap.record))) == cheap


def test_a_decision_is_worth_what_the_best_act_is() -> None:
    """More than leaving the input as it is, by what the question gains less its cost."""
    asked, left = (decide([0.4, 0.3, 0.2], 0.2, Stakes(question_cost=cost)) for cost in (0.1, 1.0))
    assert (asked.decision, left.decision) == ("ask", "proceed")
    assert asked.utility == pytest.approx(left.utility + asked.gain - 0.1)
    assert left.utility == pytest.approx(0.2 + 0.8 * 0.5 * 0.4)
    assert decide([0.9], 0.0, Stakes(loss=1.0, question_cost=1.0)).utility == pytest.approx(0.9 - 0.1)


def test_what_another_rule_decided_is_not_replayed_by_this_one() -> None:
    record = decide([0.5], 0.1, Stakes()).record | {"version": 0}
    with pytest.raises(ValueError, match="policy version 0"):
        replayed([0.5], record)
