"""Clarifying questions in chats: when one may be put, what the next message makes of it, and when a guess stands in."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from app.domain.basis import Basis
from app.domain.calibration import Calibration
from app.domain.chat import Chat, read_chat
from app.domain.chat_context import Known, Meant, make_context
from app.domain.clarifying import asked_before, is_same, may_ask, put, read_reply
from app.domain.decisions import Stakes, decide
from app.domain.hypotheses import Hypothesis, clarification_need
from app.services.clarifying import assumed, is_worth_asking
from app.services.hypotheses import HypothesisSet

OPTIONS = ["Build an API in Python using FastAPI?", "Build a REST API?", "Build a small tool?"]


def chat(*said: str, **fields: Any) -> Chat:
    """A conversation in turns, the user's first."""
    roles = ["user", "assistant"]
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    read = read_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("said", "option", "words"),
    [
        ("2", 1, ""),
        (" 2. ", 1, ""),
        ("#3", 2, ""),
        ("option 2", 1, ""),
        ("the second", 1, ""),
        ("The second one, please", 1, ""),
        ("number two", 1, ""),
        ("1 please", 0, ""),
        ("I mean 2", 1, ""),
        ("last", 2, ""),
        ("3rd", 2, ""),
        ("build a rest api", 1, ""),
        ("2. Build a REST API?", 1, ""),
        ("2, but in German", 1, "but in German"),
        ("the first one but with Django", 0, "with Django"),
        ("none", None, ""),
        ("None of these.", None, ""),
        ("neither", None, ""),
        ("no", None, ""),
        ("4", None, "4"),
        ("2 and 3", None, "2 and 3"),
        ("2 eggs and flour", None, "2 eggs and flour"),
        ("a small script with 2 files", None, "a small script with 2 files"),
        ("something else entirely", None, "something else entirely"),
    ],
)
def test_replies(said: str, option: int | None, words: str) -> None:
    reply = read_reply(said, OPTIONS)

    # What stands between a choice and more words may go with either.
    assert (reply.option, reply.words.removeprefix("but ")) == (option, words.removeprefix("but "))
    assert reply.is_rejection == (option is None and not words)


def test_a_number_means_a_place_and_not_an_option_that_only_looks_like_it() -> None:
    assert read_reply("1", ["zero", "¹"]).option == 0
    assert read_reply("¹", ["zero", "¹"]).option == 1
    assert read_reply("2", ["2", "1"]).option == 0


def test_a_question_is_known_by_its_letters() -> None:
    """However a client shows it: other marks, other spacing."""
    text = put(OPTIONS)

    assert is_same(text.replace("\n", "\r\n").replace("1.", "1)"), OPTIONS)
    assert not is_same(text, OPTIONS[:2])
    assert asked_before(chat("build api", text, "2")) == text
    assert asked_before(chat("build api", "Fine.", "2")) is None


@pytest.mark.parametrize(
    "said",
    ["build api", "plan a trip", "deploy my app", "what should I cook tonight?", "help me with my code"],
)
def test_vague_instructions_may_be_asked_about(said: str) -> None:
    assert may_ask(chat(said))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "hello",
        "hi there!",
        "thanks a lot",
        "yes please",
        "What is my name?",
        "how do I reverse a list in Python?",
        "My dog is called Biscuit.",
        "I work as a baker in Oslo",
        "write a formal letter to my landlord about the broken heating in my kitchen and the mould in the bathroom",
        "fix this:\nprint(1",
    ],
)
def test_other_messages_are_answered(said: str) -> None:
    assert not may_ask(chat(said))


def test_what_points_at_the_conversation_is_answered() -> None:
    assert not may_ask(chat("build api", "Fine.", "make it shorter"))
    assert may_ask(chat("build api", "Fine.", "deploy my app"))


def test_nothing_is_asked_twice_in_a_row() -> None:
    assert not may_ask(chat("build api", put(OPTIONS), "deploy my app"))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logprobs": True},
        {"max_tokens": 10},
        {"max_completion_tokens": 10},
        {"structured_outputs": {"choice": ["a"]}},
    ],
)
def test_who_wants_more_than_text_is_not_asked(fields: dict[str, Any]) -> None:
    assert not may_ask(chat("build api", **fields))


@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"n": 1}, {"response_format": {"type": "text"}}, {"max_tokens": 500}]
)
def test_who_wants_plain_text_may_be_asked(fields: dict[str, Any]) -> None:
    assert may_ask(chat("build api", **fields))


def test_images_and_prefills_are_answered() -> None:
    parts = [{"type": "text", "text": "build api"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    for messages in (
        [{"role": "user", "content": parts}],
        [{"role": "user", "content": "build api"}, {"role": "assistant", "content": "Sure"}],
    ):
        read = read_chat(json.dumps({"messages": messages}).encode())
        assert read is not None
        assert not may_ask(read)


def made(confidences: Sequence[float], specific: float, request: str = "build an API in Python") -> HypothesisSet:
    """What becomes of readings with these confidences, of an input that says so much itself."""
    need = clarification_need(confidences, specific)
    hypotheses = [
        Hypothesis(f"h{number}", "Build it?", request, "why", confidence, 0.0, "memory", {}, (), {})
        for number, confidence in enumerate(confidences, start=1)
    ]
    decided = decide(confidences, specific, Stakes())
    return HypothesisSet(UUID(int=1), decided, need, hypotheses, "local", False, Calibration(), Basis())


@pytest.mark.parametrize(
    ("confidences", "specific", "decision"),
    [
        ((0.82, 0.06, 0.04), 0.1, "ask"),  # as good as told: a question would bring too little
        ((0.65, 0.15, 0.1), 0.45, "ask"),
        ((0.8, 0.02), 0.45, "ask"),
    ],
)
def test_a_likely_reading_of_a_vague_input_is_a_guess(
    confidences: Sequence[float], specific: float, decision: str
) -> None:
    """Where no question is put; nothing of it is learned from."""
    given = made(confidences, specific)
    settled = assumed(given, "build api")

    assert (given.decision, is_worth_asking(given)) == (decision, False)
    assert settled is not None
    assert (settled.meant, settled.set_id) == (Meant("build an API in Python", is_guess=True), given.set_id)


@pytest.mark.parametrize(
    ("confidences", "specific"),
    [
        ((), 0.1),
        ((0.1, 0.1), 0.1),  # nobody knows
        ((0.52, 0.1, 0.05), 0.45),  # hardly more than even
        ((0.8, 0.05), 0.6),  # the input says it itself
        ((0.8, 0.05), 1.0),
    ],
)
def test_what_is_unlikely_or_clear_is_left_alone(confidences: Sequence[float], specific: float) -> None:
    """A guess that is wrong is in the way, and one that is not needed, too."""
    given = made(confidences, specific)

    assert not is_worth_asking(given)
    assert assumed(given, "build api") is None


def test_what_says_no_more_than_the_input_is_no_guess() -> None:
    assert assumed(made((0.82, 0.06, 0.04), 0.1, "Build  API."), "build api") is None


def test_what_is_as_good_as_sure_is_meant() -> None:
    settled = assumed(made((0.9, 0.05), 0.1), "build api")

    assert settled is not None
    assert settled.meant == Meant("build an API in Python")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("build api", "build api, minding <memory>I &lt;b&gt; “fly” alone</memory>, soon"),
        ("build api, minding “I <b> “fly” alone”", "build api, minding “I <b> “fly” alone”, soon"),
    ],
    ids=["of a memory that was not found", "of the user themselves"],
)
def test_what_a_meaning_quotes_is_fenced_unless_the_user_said_it(said: str, told: str) -> None:
    """Whether the memory it was made from is found again or not."""
    meant = Meant("build api, minding “I <b> “fly” alone”, soon")

    context = make_context(chat(said), Known((), (), (), meant), 200, lambda text: len(text.split()))

    assert context.additions[-1].text.endswith(f"I mean: {told}")


@pytest.mark.parametrize(
    ("meant", "told"),
    [
        (Meant("build an API"), "I mean: build an API"),
        (Meant("build an API", is_guess=True), "I probably mean: build an API"),
    ],
)
def test_a_guess_is_told_as_one(meant: Meant, told: str) -> None:
    """Behind the user's own words."""
    context = make_context(chat("build api"), Known((), (), (), meant), 100, lambda text: len(text.split()))

    assert [(each.message, each.text, each.is_before) for each in context.additions] == [(0, told, False)]
