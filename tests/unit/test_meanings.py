"""What a user may mean, moved by every answer: nothing is ruled out, and the order of answers does not matter."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.answers import values_told
from app.domain.calibration import PRIOR
from app.domain.catalogue import Catalogue, Slot, phrase
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


SHAPES, PARTS = ("list", "map", "poster", "sheet"), ("region", "person", "week", "shop")
SLOTS = {"shape": Slot("shape", "as a {value}", "?"), "part": Slot("part", "by {value}", "?")}
CATALOGUE = Catalogue(SLOTS, (), dict.fromkeys(SHAPES, "shape") | dict.fromkeys(PARTS, "part"))
TOLD = Reading("Told?", "figures as told", "why", 0.0, "answer")


def figures(*fillings: tuple[str, ...]) -> Meanings:
    """Equally likely readings that name these values."""
    readings = [
        Reading(
            "?", f"figures {' '.join(phrase(CATALOGUE, CATALOGUE.vocabulary[v], [v]) for v in values)}", "", 0, "option"
        )
        for values in fillings
    ]
    return meanings_of(readings, PRIOR, shown_hypotheses(readings, PRIOR, 0))


def after(meanings: Meanings, words: str) -> Meanings:
    return meanings.after_values(*values_told(words, CATALOGUE), CATALOGUE, TOLD)


def test_words_that_name_values_speak_alike_for_all_readings_that_have_them() -> None:
    """However near the words are otherwise: who said `a map` may mean either of the maps."""
    moved = after(figures(("map", "region"), ("map", "person"), ("list", "region")), "rather a map").probabilities

    assert moved[0] == pytest.approx(moved[1])
    assert moved[0] > 20 * moved[2]
    assert moved[:2].sum() > 0.75


def test_words_that_name_all_of_one_reading_single_it_out() -> None:
    moved = after(figures(("map", "region"), ("map", "person"), ("list", "region")), "map and person, please")

    assert moved.best[0] == 1
    assert moved.probabilities[1] > 0.85
    assert len(moved.readings) == 3, "it was there already"


def test_what_no_reading_has_becomes_one_when_it_is_said() -> None:
    moved = after(figures(("map", "region"), ("list", "person")), "a map by person")

    assert moved.readings[-1] == TOLD
    assert moved.best[0] == 2
    assert moved.probabilities.sum() == pytest.approx(1.0)
    assert moved.probabilities[2] > 0.75
    assert (moved.probabilities > 0).all()
    assert moved.answers == 1


def test_a_reading_that_leaves_a_slot_open_goes_with_any_value_of_it() -> None:
    moved = after(figures((), ("map",), ("list",)), "a map").probabilities

    assert moved[1] > moved[0] > moved[2]


def test_what_is_denied_is_turned_down() -> None:
    moved = after(figures(("map",), ("list",), ("poster",)), "not the map").probabilities

    assert moved[0] < 0.1 * moved[1]
    assert moved[1] == pytest.approx(moved[2])
    both = after(figures(("map",), ("list",), ("poster",)), "the list, not the map")
    assert both.best[0] == 1
    assert both.answers == 1


@pytest.mark.parametrize(
    ("words", "said", "denied"),
    [
        ("a map", {"shape": ("map",)}, {}),
        ("no, a map", {"shape": ("map",)}, {}),
        ("no map", {}, {"shape": ("map",)}),
        ("yes, by region", {"part": ("region",)}, {}),
        ("a list instead of a map", {"shape": ("list",)}, {"shape": ("map",)}),
        ("something else", {}, {}),
    ],
)
def test_values_are_told_apart_from_denied_ones(words: str, said: dict[str, Any], denied: dict[str, Any]) -> None:
    assert values_told(words, CATALOGUE) == (said, denied)


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
