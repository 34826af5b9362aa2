"""Which attribute of a person a sentence tells, what a correction sets right, and which memory is outdated."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest

from app.domain.extraction import facts_in, statements_in
from app.domain.facts import Correction, Fact, correction_in, fact_in
from app.domain.memory import Draft, Memory, MemoryType, Neighbour, resolve
from app.domain.ranking import LATER, Candidate, newer_first, outdated
from app.domain.times import asks_of_now
from app.domain.turns import (
    MAX_SOURCE,
    PIECE_WORDS,
    Stated,
    Utterance,
    corrected,
    draft_of,
    draft_of_statement,
    pieces_of,
    same_again,
    source_of,
    stated_in,
    with_facts,
)

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def memory(number: int, content: str, days: float, kind: MemoryType = MemoryType.PROFILE) -> Memory:
    at = NOW - days * DAY
    return Memory(UUID(int=number), "u", kind, content, 0.8, (), "api", at, at, valid_from=at)


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("I moved to Lyon", "residence", "lyon"),
        ("We've just relocated to New York for work", "residence", "new york"),
        ("Just moved to Oslo.", "residence", "oslo"),
        ("Lyon is home now", "residence", "lyon"),
        ("After years in Paris, I now call Lyon my home", "residence", "lyon"),
        ("I work for Acme Corp as an engineer", "employer", "acme corp"),
        ("I left Initech for Hooli", "employer", "hooli"),
        ("Hooli hired me", "employer", "hooli"),
        ("I drive a Tesla now", "car", "tesla"),
        ("My editor is Vim", "editor", "vim"),
        ("Call me Ishmael", "name", "ishmael"),
    ],
)
def test_facts_are_read(text: str, attribute: str, value: str) -> None:
    """One attribute however it is worded."""
    assert fact_in(text) == Fact(attribute, value)


@pytest.mark.parametrize(
    "text",
    [
        "Do you live in Rome?",
        "I might move to Rome",
        "I want to move to Rome",
        "I don't live in Paris anymore",
        "I no longer work for Acme",
        "I used to live in Rome",
        "The train moved to Lyon",
        "I like green tea",
    ],
)
def test_what_tells_no_fact(text: str) -> None:
    """Questions, wishes, denials and other people's doings tell nothing of how things are."""
    assert fact_in(text) is None


def test_each_sentence_tells_its_own() -> None:
    """A turn of two facts tells two."""
    assert facts_in("I moved to Lyon. I work for Acme now!") == (Fact("residence", "lyon"), Fact("employer", "acme"))
    [draft] = statements_in("Boxes everywhere. I moved to Lyon.", "x")
    assert (draft.type, draft.content) == (MemoryType.PROFILE, "I moved to Lyon")


def test_two_values_of_one_attribute_cannot_both_hold() -> None:
    """Whatever the wording and however far the vectors: the newer supersedes; the same value and an addition do not."""
    held = [Neighbour(memory(1, "I work for Initech", 90), 0.1)]
    assert resolve(Draft(MemoryType.PROFILE, "Hooli hired me"), NOW, held).action == "supersede"
    assert resolve(Draft(MemoryType.PROFILE, "Initech is my employer"), NOW, held).action == "add"
    assert resolve(Draft(MemoryType.PROFILE, "I also work for Hooli"), NOW, held).action == "add"
    assert resolve(Draft(MemoryType.PROFILE, "Hooli hired me"), NOW - 100 * DAY, held).action == "outdated"


@pytest.mark.parametrize(
    "text",
    [
        "Sorry, I meant Lyon, not Paris.",
        "It's actually Lyon, not Paris",
        "Not Paris, I meant Lyon",
        "I said Paris but it's Lyon",
    ],
)
def test_a_correction_names_both(text: str) -> None:
    """What was wrong and what is right, in either order."""
    assert correction_in(text) == Correction("Paris", "Lyon")


@pytest.mark.parametrize(
    "text",
    [
        "I like tea, not coffee but juice",
        "I live in Paris, not London but close to it",
        "I live in Paris, not London, it's great",
        "Not bad but ok",
        "Not bad, it's ok",
        "The problem is not Python, it's Docker",
        "It's not raining, it's snowing",
        "It's actually fun, not boring",
        "I said hello and it's fine",
        "I meant to call her, not to write",
    ],
)
def test_what_sets_nothing_right(text: str) -> None:
    """Contrasts are no corrections."""
    assert correction_in(text) is None


def test_a_correction_of_several_words() -> None:
    assert correction_in("Oops, I said Paris earlier, I meant New York.") == Correction("Paris", "New York")
    assert correction_in("I meant oat milk, not soy milk.") == Correction("soy milk", "oat milk")


def set_right(old: str, new: str, known: list[Memory]) -> Draft | None:
    return corrected(Correction(old, new), known, f"I meant {new}, not {old}", NOW, "turn")


def test_a_correction_says_the_fact_anew() -> None:
    """The corrected fact holds from when the wrong one was taken to, and is told of now; its quote is the correction;
    what was said stays as it was said."""
    known = [memory(1, "I live in Paris", 5, MemoryType.HISTORY), memory(2, "I live in Paris", 5)]
    draft = set_right("Paris", "Lyon", known)
    assert draft is not None
    assert (draft.content, draft.valid_from, draft.also_at) == ("I live in Lyon", NOW - 5 * DAY, (NOW,))
    assert (draft.quote, draft.source, draft.replaces) == ("I meant Lyon, not Paris", "turn", UUID(int=2))
    assert set_right("Rome", "Lyon", known) is None


def test_a_correction_touches_whole_words_only() -> None:
    """A part of a word is another word."""
    assert set_right("Java", "Kotlin", [memory(1, "I prefer JavaScript", 1, MemoryType.PREFERENCE)]) is None
    assert set_right("Al", "Ben", [memory(1, "I always drink Alpine tea", 1, MemoryType.PREFERENCE)]) is None
    assert set_right("C", "Go", [memory(1, "I write C++ and C#", 1, MemoryType.PREFERENCE)]) is None
    draft = set_right("C++", "Rust", [memory(1, "I write C++, mostly", 1, MemoryType.PREFERENCE)])
    assert draft is not None
    assert draft.content == "I write Rust, mostly"


def test_a_correction_touches_what_was_just_told() -> None:
    """Of what was told long before only an attribute whose value it names; of several the last; never what is told of
    later."""
    assert set_right("tea", "mate", [memory(1, "I like tea", 60, MemoryType.PREFERENCE)]) is None
    draft = set_right("Paris", "Lyon", [memory(1, "I live in Paris", 60)])
    assert draft is not None
    draft = set_right("tea", "mate", [memory(1, "I like tea", 9), memory(2, "I drink tea", 2), memory(3, "tea!", -1)])
    assert draft is not None
    assert draft.replaces == UUID(int=2)


def test_what_is_inferred_does_not_overrule_what_was_set_right() -> None:
    """Not after a correction, and it is what the user says themselves that does."""
    lyon = replace(memory(1, "I live in Lyon", 5), is_set_right=True)
    said = Utterance("user", "x", NOW)

    def decided(content: str, quote: str, home: Memory = lyon) -> str:
        draft = draft_of_statement(Stated(0, MemoryType.PROFILE, content, quote, 0.7), said, "s", 1)
        return resolve(draft, NOW, [Neighbour(home, 0.6)]).action

    assert decided("I live in Paris", "Paris again today, as ever") == "overruled"
    assert decided("I live in Paris", "Paris again today, as ever", memory(1, "I live in Lyon", 5)) == "supersede"
    assert decided("I live in Paris", "I moved to Paris") == "supersede"
    assert decided("I live in Paris (2026-01-10)", "I live in Paris") == "supersede"
    assert decided("I live in Lyon", "Lyon again today, as ever") == "merge"


def test_a_turn_is_kept_and_what_it_tells_beside_it() -> None:
    """The raw message is always there; an assistant's words tell nothing of the user."""
    said = Utterance("user", "Long day. I moved to Lyon!", NOW)
    own = draft_of(said, "s", 3)
    assert (own.type, own.content) == (MemoryType.HISTORY, said.content)
    assert (own.session, own.turn, own.speaker) == ("s", 3, "user")
    (stated,) = stated_in([Utterance("assistant", "I moved to Oslo!", NOW), said])
    assert (stated.position, stated.type, stated.quote) == (1, MemoryType.PROFILE, "I moved to Lyon")
    draft = draft_of_statement(stated, said, "s", 3)
    assert (draft.content, draft.quote, draft.valid_from) == ("I moved to Lyon", "I moved to Lyon", NOW)
    assert draft.source == "turn:s:3"


def test_a_model_is_not_left_alone_with_what_matters() -> None:
    """A rule's fact stands beside the model's statements unless one of the same turn tells the same attribute."""
    said = [Utterance("user", "I moved to Lyon. I like tea.", NOW)]
    by_rules = stated_in(said)
    tea = Stated(0, MemoryType.PREFERENCE, "I like green tea", "I like tea", 0.9)
    home = Stated(0, MemoryType.PROFILE, "I live in Lyon", "I moved to Lyon", 0.9)
    assert [each.content for each in with_facts([tea], by_rules)] == ["I like green tea", "I moved to Lyon"]
    assert with_facts([tea, home], by_rules) == [tea, home]


def test_what_tells_an_earlier_value_is_outdated() -> None:
    """Per attribute the latest tells what holds; others and memories without one are left alone."""
    told = [
        memory(1, "I live in Paris", 90, MemoryType.HISTORY),
        memory(2, "I moved to Lyon", 10),
        memory(3, "I work for Acme", 90),
        memory(4, "Paris was sunny", 1, MemoryType.HISTORY),
    ]
    assert outdated(told, facts_in) == {0}
    corrected_since = [
        memory(1, "So I got a flat in Paris, nice view", 5, MemoryType.HISTORY),
        memory(2, "Oops, I meant Lyon, not Paris", 4, MemoryType.HISTORY),
        memory(3, "Paris was sunny", 60, MemoryType.HISTORY),
    ]
    assert outdated(corrected_since, facts_in) == {0}


def test_the_later_of_two_that_tell_the_same_comes_first() -> None:
    """For a question of now; one that is about something else, by itself or beside the question, stays where it is."""

    def candidate(number: int, days: float, axis: int, cosine: float = 0.5) -> Candidate:
        vector = np.zeros(4, np.float32)
        vector[axis] = 1.0
        return Candidate(memory(number, f"m{number}", days), cosine, 0.0, vector)

    found = [candidate(1, 90, 0), candidate(2, 10, 0), candidate(3, 1, 1)]
    assert newer_first(found, [2.0, 1.0, 1.5]) == [2.0, 2.0 + LATER, 1.5]
    unrelated = [candidate(1, 90, 0), candidate(2, 10, 0, cosine=0.1)]
    assert newer_first(unrelated, [2.0, 1.0]) == [2.0, 1.0]
    assert newer_first([], []) == []


@pytest.mark.parametrize("text", ["Where do I live?", "Which company am I working at?", "What's my phone number?"])
def test_questions_of_now(text: str) -> None:
    """The present, of oneself."""
    assert asks_of_now(text)


@pytest.mark.parametrize(
    "text",
    ["Where did I live in 2020?", "When did I move?", "Where does Ada live?", "What was my first car?", "bicycle"],
)
def test_other_questions(text: str) -> None:
    """The past, other people, and what is no question."""
    assert not asks_of_now(text)


@pytest.mark.parametrize("length", [1, 100, 117, 118, 256])
def test_a_source_names_its_turn_however_long_the_session_s_name_is(length: int) -> None:
    """And another session that begins alike is another one."""
    source = source_of("s" * length, 12345)
    assert source.endswith(":12345")
    assert len(source) <= MAX_SOURCE
    assert source != source_of("s" * (length - 1) + "t", 12345)
    assert source.startswith("turn:s")


def spoken(*texts: str, days: float = 0.0) -> list[Utterance]:
    """A user's turns, a minute apart."""
    return [Utterance("user", each, NOW + days * DAY + timedelta(minutes=at), "user") for at, each in enumerate(texts)]


@pytest.mark.parametrize(
    ("said", "first"),
    [
        (spoken("a", "b", "c", "d"), 1),
        (spoken("a", "b", "c", "d", "e", days=1), 1),
        (spoken("a", "b", days=1), 1),
        (spoken("c", "d", "e", days=1), 3),
        (spoken("d", "e", days=1), None),
        (spoken("d", days=1), None),
        (spoken("b", "c", days=1), None),
        (spoken("x", "b")[1:], 2),
        (spoken("a", "x", "c", days=1), None),
        ([Utterance("system", "Be kind.", NOW), *spoken("c", "d", "e", days=1)], 2),
        ([Utterance("system", "Be kind.", NOW)], None),
    ],
    ids=[
        "all of it",
        "all of it and more, later",
        "its beginning",
        "its end and more",
        "its last turn and more",
        "its last turn once more",
        "two turns in its middle",
        "one turn with its moment",
        "something else",
        "instructions before its end",
        "instructions alone",
    ],
)
def test_turns_that_are_handed_in_again_are_known_by_what_is_around_them(
    said: list[Utterance], first: int | None
) -> None:
    known = dict(enumerate(spoken("a", "b", "c", "d"), 1))
    assert same_again(known, said) == first
    assert same_again({}, said) is None


def test_a_short_turn_has_no_pieces_and_a_long_one_all_that_is_behind_its_beginning() -> None:
    """Whole sentences, and one that is longer than a piece by its words."""
    assert pieces_of(Utterance("user", "Well. " * PIECE_WORDS, NOW), "s", 1) == []
    endless = " ".join(str(number) for number in range(2 * PIECE_WORDS + 10))
    long = Utterance("user", f"Well now. {endless}. That was it.", NOW)
    pieces = pieces_of(long, "s", 7)
    words = [draft.content.split() for draft in pieces]
    assert [len(each) for each in words] == [PIECE_WORDS, PIECE_WORDS, 13]
    assert words[0][0] == "0"
    assert pieces[-1].content.endswith("That was it.")
    assert {(draft.source, draft.session, draft.valid_from) for draft in pieces} == {("turn:s:7", None, NOW)}
