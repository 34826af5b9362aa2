"""What the write gate lets through, and what it sets apart."""

import pytest

from app.domain.gate import DENIED, is_supported, reason_against, support
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


BELIED = [
    ("I like coffee", "I don't like coffee anymore"),
    ("I don't like coffee", "I like coffee"),
    ("I am vegetarian", "I am not vegetarian"),
    ("I like coffee", "I like tea but I don't like coffee"),
    ("I live in Oslo", "My brother lives in Oslo"),
    ("I live in Oslo", "She has lived in Oslo for years"),
    ("I live in Oslo", "I wish I lived in Oslo"),
    ("I live in Oslo", "Right, I might live in Oslo next year"),
]
TOLD = [
    ("I like tea", "I like tea but I don't like coffee"),
    ("I don't like coffee", "I like tea but I don't like coffee"),
    ("I work for Hooli", "I left Acme for Hooli"),
    ("I prefer tea to coffee", "I prefer tea over coffee"),
    ("I no longer smoke", "I quit smoking last year"),
    ("I live in Oslo", "If you must know, I live in Oslo"),
    ("My brother lives in Oslo", "My brother lives in Oslo"),
    ("I don't eat meat", "Do you eat meat? No, I don't eat meat at all"),
]


@pytest.mark.parametrize(("content", "said"), BELIED)
def test_the_same_words_may_say_something_else(content: str, said: str) -> None:
    """What is denied, of somebody else or wished is not told, whatever a model makes of it, and whatever part of it is
    the quote."""
    for quote in (None, said, said.split(" ", 2)[-1]):
        for relevance in (None, 1.0):
            draft = Draft(MemoryType.PROFILE, content, quote=quote)
            assert reason_against(draft, ["Tell me more.", said], relevance) == "unsupported"


@pytest.mark.parametrize(("content", "said"), TOLD)
def test_what_is_told_in_other_words_is_kept(content: str, said: str) -> None:
    assert reason_against(Draft(MemoryType.PROFILE, content), [said]) is None


def test_a_model_that_finds_nothing_of_it_has_its_say() -> None:
    """Of what is reworded; not of a sentence that was said."""
    said = "We opened our second bakery in Porto last week."
    draft = Draft(MemoryType.ARTIFACT, "I opened a second bakery in Porto", quote=said)
    assert reason_against(draft, [said], DENIED) is None
    assert reason_against(draft, [said], DENIED - 0.01) == "unsupported"
    assert reason_against(Draft(MemoryType.ARTIFACT, said, quote=said), [said], 0.0) is None
