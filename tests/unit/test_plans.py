"""What comes on a day that a sentence names, and days that return, with the date worked out of when it was said."""

from datetime import UTC, datetime

import pytest

from app.domain.extraction import statements_in
from app.domain.gate import reason_against
from app.domain.memory import MemoryType
from app.domain.plans import plan_in
from app.domain.times import dated
from app.domain.turns import Utterance, draft_of_statement, stated_in

SAID_AT = datetime(2026, 5, 6, 15, tzinfo=UTC)
"""A Wednesday."""


@pytest.mark.parametrize(
    ("text", "kind", "date"),
    [
        ("My birthday is on 3 May", MemoryType.PROFILE, None),
        ("Our wedding anniversary falls on June 9th", MemoryType.PROFILE, None),
        ("I was born on 3 May 1990", MemoryType.PROFILE, None),
        ("I'm getting married next June", MemoryType.GOAL, "2026-06"),
        ("I have a dentist appointment on Friday", MemoryType.GOAL, "2026-05-08"),
        ("My flight leaves on 12 June", MemoryType.GOAL, "2026-06-12"),
        ("My flight leaves on 12 March", MemoryType.GOAL, "2027-03-12"),
        ("On Monday I have a job interview at the bank", MemoryType.GOAL, "2026-05-11"),
        ("We're moving house in September", MemoryType.GOAL, "2026-09"),
        ("I've got an exam tomorrow", MemoryType.GOAL, "2026-05-07"),
        ("We fly to Lisbon next Tuesday", MemoryType.GOAL, "2026-05-12"),
        ("My sister is visiting in two weeks", MemoryType.GOAL, "2026-05-17 to 2026-05-23"),
        ("I'm running a marathon this autumn", MemoryType.GOAL, "2026-09 to 2026-11"),
        ("I'm retiring next year", MemoryType.GOAL, "2027"),
        ("My visa expires on 2027-01-31", MemoryType.GOAL, None),
        ("I am having surgery on August 2nd", MemoryType.GOAL, "2026-08-02"),
        ("The conference starts next week", MemoryType.GOAL, "2026-05-11 to 2026-05-17"),
    ],
)
def test_a_dated_fact_is_kept_with_its_day(text: str, kind: MemoryType, date: str | None) -> None:
    """It passes the gate, and quotes the turn as it was said."""
    (stated,) = stated_in([Utterance("user", f"Hi there! {text}. See you!", SAID_AT)])
    assert (stated.type, stated.quote) == (kind, text)
    if date is None:
        assert kind is MemoryType.PROFILE or stated.content == text
    else:
        assert f"({date})" in stated.content
    draft = draft_of_statement(stated, Utterance("user", text, SAID_AT), "talk", 1)
    assert reason_against(draft, [text]) is None


@pytest.mark.parametrize(
    "text",
    [
        "If it rains I'm flying on Friday",
        "I might have a meeting on Friday",
        "I don't have an appointment on Friday",
        "I always have a meeting on Friday",
        "My flight was on 12 June",
        "Is my appointment on Friday?",
        "I have a dentist appointment",
        "The sun is out on Fridays",
        "It rained last Friday",
        "The weather is going to be nice on Friday",
        "I am having dinner tonight",
        "May I have the salt",
    ],
)
def test_what_is_open_past_or_without_a_day_is_none(text: str) -> None:
    assert plan_in(text) is None


def test_a_day_that_returns_has_no_year_of_its_own() -> None:
    (draft,) = statements_in("My birthday is on 3 May.", "chat")
    (stated,) = stated_in([Utterance("user", "My birthday is on 3 May.", SAID_AT)])
    assert (draft.content, stated.content) == ("My birthday is on 3 May", "My birthday is on 3 May")


def test_the_same_words_are_of_the_past_where_nothing_is_to_come() -> None:
    assert dated("I saw her on Friday", SAID_AT) == "I saw her on Friday (2026-05-01)"
    assert dated("I see her on Friday", SAID_AT, is_ahead=True) == "I see her on Friday (2026-05-08)"
