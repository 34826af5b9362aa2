"""What became of a set says of each reading how likely it was meant: every outcome in its own way."""

from datetime import timedelta
from typing import get_args

import numpy as np
import pytest

from app.domain.decisions import Stakes
from app.domain.outcomes import (
    IGNORED_AFTER,
    KEPT_AFTER,
    SPOKEN,
    WEIGHTS,
    OutcomeKind,
    kept_share,
    kind_of,
    likelihood,
    weight,
)
from app.domain.position import PRIOR_EXAMINATION, inverse
from app.domain.telemetry import Shown
from app.domain.value_of_information import ACCURACY

PLACES = (1, 2, 3)


def told(kind: OutcomeKind, *, chosen: int | None = None, places: tuple[int, ...] = PLACES) -> list[float]:
    return likelihood(kind, places, chosen).tolist()


def test_a_choice_far_down_says_more_than_one_at_the_top() -> None:
    first, last = told("selected", chosen=0), told("selected", chosen=2)
    assert first[0] == max(first)
    assert last[2] == max(last)
    assert last[2] / max(last[:2]) > 1.2 * first[0] / max(first[1:3])


def test_what_is_shown_further_up_is_what_counts_not_what_is_likelier() -> None:
    """The second likeliest, shown first."""
    assert told("selected", chosen=1, places=(2, 1, 3))[1] == pytest.approx(told("selected", chosen=0)[0])


def test_a_choice_with_an_edit_counts_partly() -> None:
    plain, edited, custom = (told(kind, chosen=0) for kind in ("selected", "edited", "custom"))
    assert plain[0] / plain[3] > edited[0] / edited[3] > 1 > custom[0] / custom[3]


def test_own_words_leave_open_what_was_overlooked() -> None:
    said, rejected = told("custom"), told("rejected")
    assert said[0] < said[1] < said[2] < said[3]
    assert rejected[:3] == pytest.approx([(1 - ACCURACY) / ACCURACY] * 3)
    assert said[2] / said[3] > rejected[2] / rejected[3]


def test_silence_says_less_than_words() -> None:
    def strength(kind: OutcomeKind) -> float:
        found = np.log(told(kind, chosen=0))
        return float(found.max() - found.min())

    assert strength("ignored") < 0.3 < strength("kept") < strength("selected")
    assert strength("undone") > strength("kept")
    assert told("kept")[0] == max(told("kept"))
    assert told("undone")[0] == min(told("undone"))
    assert set(get_args(OutcomeKind)) - {"kept", "ignored"} == SPOKEN


def test_what_is_turned_down_by_name_is_hardly_meant() -> None:
    with_rejection = likelihood("selected", PLACES, 0, {2}).tolist()
    assert with_rejection[:2] == told("selected", chosen=0)[:2]
    assert with_rejection[2] == pytest.approx(told("selected", chosen=0)[2] * (1 - ACCURACY) / ACCURACY)


@pytest.mark.parametrize("places", [PLACES, (3, 1, 2), (2, 1)])
def test_picks_and_own_words_are_one_distribution_of_what_a_user_does(places: tuple[int, ...]) -> None:
    """Whatever is meant, something is done: the probabilities of picking each reading and of saying something else sum
    to 1."""
    total = sum(likelihood("selected", places, each) for each in range(len(places))) + likelihood("custom", places)
    assert total == pytest.approx(1.0)


def test_kinds_are_read_from_what_is_stored() -> None:
    def kind(decision: str, outcome: str | None, age: timedelta = timedelta(0), **said: object) -> OutcomeKind | None:
        given = {"chosen": None, "rejected": (), "is_edited": False, "is_answered": False, **said}
        return kind_of(decision, outcome, age=age, **given)  # pyright: ignore[reportArgumentType]

    assert kind("ask", "selected", chosen=1) == "selected"
    assert kind("ask", "selected", chosen=1, is_edited=True) == "edited"
    assert kind("ask", "custom") == "custom"
    assert kind("ask", "none", rejected=(0, 1)) == "rejected"
    assert kind("auto_advance", "assumed", KEPT_AFTER / 2, chosen=0) is None
    assert kind("auto_advance", "assumed", KEPT_AFTER, chosen=0) == "kept"
    assert kind("auto_advance", "assumed", KEPT_AFTER, chosen=0, rejected=(0,)) == "undone"
    assert kind("ask", None, IGNORED_AFTER / 2) is None
    assert kind("ask", None, IGNORED_AFTER) == "ignored"
    assert kind("ask", None, IGNORED_AFTER, is_answered=True) is None
    assert kind("ask", None, IGNORED_AFTER, rejected=(1,)) is None
    assert kind("proceed", None, IGNORED_AFTER) is None


def test_earlier_choices_count_by_kind_and_place() -> None:
    assert weight("selected", 1) == 1.0
    assert weight("selected", 3) == inverse(3, PRIOR_EXAMINATION) > 1
    assert weight("edited", 3) == WEIGHTS["edited"] * inverse(3)
    assert weight("kept", 1) == WEIGHTS["kept"] < WEIGHTS["edited"]
    assert weight("rejected", 3) == 1.0
    assert weight("ignored", 1) == weight("undone", 1) == 0.0


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.9, 1.0])
def test_what_nobody_undid_is_worth_what_was_promised(confidence: float) -> None:
    """Over what is undone and what is kept, the realised worth of going ahead is on average what was promised."""
    stays = likelihood("kept", (1,))
    kept = confidence * stays[0] + (1 - confidence) * stays[1]
    assert kept * kept_share(confidence) == pytest.approx(ACCURACY * confidence)

    def realised(**known: bool) -> float | None:
        return Shown((confidence,), "auto_advance", False, 0, stakes=Stakes(loss=2.0), **known).realised

    assert realised(is_assumed=True) == pytest.approx(3 * kept_share(confidence) - 2)
    assert realised(is_undone=True) == -2.0
    assert realised() is None
