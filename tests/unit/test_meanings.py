"""What a user may mean, moved by every answer: nothing is ruled out, and the order of answers does not matter."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.calibration import PRIOR
from app.domain.hypotheses import Reading, shown_hypotheses
from app.domain.meanings import Meanings, as_document, from_document, hypotheses_of, meanings_of

READINGS = [Reading(f"Number {n}?", f"Do number {n}", "why", 1.5 - n / 2, "option") for n in range(6)]


def begun(count: int = 3) -> Meanings:
    return meanings_of(READINGS, PRIOR, shown_hypotheses(READINGS, PRIOR, count))


def test_it_begins_with_what_is_shown() -> None:
    """The confidences of the set are its probabilities; those that are not shown share what is left."""
    shown = shown_hypotheses(READINGS, PRIOR, 3)
    meanings = begun()

    assert [(each.request, each.confidence) for each in hypotheses_of(meanings, 3)] == [
        (each.request, pytest.approx(each.confidence)) for each in shown
    ]
    assert meanings.probabilities[3:].sum() == pytest.approx(1 - sum(each.confidence for each in shown))
    assert (np.diff(meanings.probabilities[:6]) < 0).all()


def test_what_was_turned_down_makes_room_for_what_was_not_shown() -> None:
    meanings = begun().after_rejection([0, 1, 2])

    assert [each.request for each in hypotheses_of(meanings, 3)] == ["Do number 3", "Do number 4", "Do number 5"]
    assert meanings.probabilities.min() > 0
    assert meanings.probabilities[-1] > begun().probabilities[-1]


def test_a_choice_is_nearly_sure_and_can_be_taken_back() -> None:
    chosen = begun().after_choice(2)

    assert chosen.best[0] == 2
    assert chosen.probabilities[2] > 0.85
    taken_back = chosen.after_rejection([2])
    assert taken_back.probabilities[2] < chosen.probabilities[2] - 0.3
    assert taken_back.after_rejection([2]).best[0] != 2


def test_words_speak_for_what_they_are_near_to() -> None:
    near = begun().after_words(np.array([0.2, 0.2, 0.2, 0.2, 0.8, 0.2]))
    far = begun().after_words(np.full(6, 0.05))

    assert near.best[0] == 4
    assert far.probabilities[-1] > 0.9, "what is near to none of them means none of them"


def test_no_question_is_put_twice() -> None:
    meanings = begun().showing([0, 1, 2])

    assert meanings.has_asked([2, 0, 1])
    assert not meanings.has_asked([0, 1, 3])


answers = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda at: ("choice", at)),
        st.sets(st.integers(0, 5), max_size=3).map(lambda some: ("rejection", frozenset(some))),
        st.lists(st.floats(-0.2, 1.0), min_size=6, max_size=6).map(lambda some: ("words", tuple(some))),
    ),
    max_size=5,
)


def heard(meanings: Meanings, said: list[tuple[str, Any]]) -> Meanings:
    for kind, what in said:
        match kind:
            case "choice":
                meanings = meanings.after_choice(what)
            case "rejection":
                meanings = meanings.after_rejection(what)
            case _:
                meanings = meanings.after_words(np.array(what))
    return meanings


@given(answers, st.randoms(use_true_random=False))
def test_the_order_of_answers_does_not_matter_and_nothing_is_ruled_out(said: list[tuple[str, Any]], chance) -> None:
    shuffled = list(said)
    chance.shuffle(shuffled)
    one, other = heard(begun(), said), heard(begun(), shuffled)

    assert one.probabilities == pytest.approx(other.probabilities)
    assert one.probabilities.sum() == pytest.approx(1.0)
    assert (one.probabilities > 0).all()
    assert one.answers == len(said)
    again = from_document(json.loads(json.dumps(as_document(one.showing([0, 2])))))
    assert again.readings == one.readings
    assert again.asked == ((0, 2),)
    assert again.probabilities == pytest.approx(one.probabilities)
