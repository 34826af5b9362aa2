"""What the write gate lets through, and what it sets apart."""

import pytest

from app.domain.gate import is_supported, reason_against, support
from app.domain.memory import Draft, MemoryType

KEPT = [
    "I live in Lyon",
    "I prefer FastAPI for services",
    "I am allergic to peanuts",
    "I want to run a marathon",
    "I am tired of Java",
    "my deadline is Friday",
    "我喜欢喝茶",
    "I've been vegetarian for ten years",
    "I need to support Python 3.9",
]
UNSPECIFIC = ["I like it", "I want to do that", "I need help", "I love these things", "We really need something better"]
PERISHABLE = [
    "I am so tired",
    "I'm going to bed",
    "I need to finish the report today",
    "I'm stuck at the station right now",
    "I have to run to the station",
    "I’m hungry for pizza",
]


@pytest.mark.parametrize("content", KEPT)
def test_what_says_something_that_lasts_is_kept(content: str) -> None:
    assert reason_against(Draft(MemoryType.PREFERENCE, content), [content]) is None


@pytest.mark.parametrize("content", UNSPECIFIC)
def test_what_says_nothing_is_set_apart(content: str) -> None:
    assert reason_against(Draft(MemoryType.PREFERENCE, content), [content]) == "unspecific"


@pytest.mark.parametrize("content", PERISHABLE)
def test_what_is_over_soon_is_set_apart(content: str) -> None:
    assert reason_against(Draft(MemoryType.GOAL, content), [content]) == "perishable"


def test_what_nobody_said_is_set_apart() -> None:
    """Names and numbers have to have been said, and most of the other words; a model that reads both may know better
    about the words, and never about a name."""
    said = ["We opened our second bakery in Porto last week."]
    assert is_supported("I opened a second bakery in Porto", said)
    assert not is_supported("I opened a second bakery in Lisbon", said)
    assert not is_supported("I opened a third bakery in Porto in 2019", said)
    assert not is_supported("I run a chain of pastry shops", said)
    assert is_supported("I run a chain of pastry shops", said, relevance=0.8)
    assert not is_supported("I run shops in Lisbon", said, relevance=1.0)
    draft = Draft(MemoryType.PROFILE, "I run a chain of pastry shops")
    assert reason_against(draft, said) == "unsupported"


def test_dates_that_were_worked_out_need_not_have_been_said() -> None:
    assert is_supported("I opened our second bakery on 2024-05-03", ["we opened our second bakery last Friday"])


def test_support_is_a_share_of_the_words_that_carry_meaning() -> None:
    assert support("I deploy services with Docker", "my services are deployed on bare metal") == pytest.approx(2 / 3)
    assert support("I am", "anything") == 1.0
