"""What words carry is read the same from every spelling of it."""

import unicodedata

import pytest

from app.domain.wording import (
    addressed,
    affirmed_and_denied,
    as_request,
    content_words,
    has_negation,
    names,
    normalise,
    numbers,
    snippet,
    stem,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I have 2 cats and 3.5 dogs", {"2", "3.5"}),
        ("twenty-five, or twenty five", {"25"}),
        ("two hundred and fifty", {"250"}),
        ("five hundred thousand", {"500000"}),
        ("one two three", {"1", "2", "3"}),
        ("five and six", {"5", "6"}),
        ("a million", {"1000000"}),
        ("1,000 or 1.000 but 3.14", {"1000", "3.14"}),
        ("at 10:30 on 2026-01-10", {"10:30", "2026", "01", "10"}),
        ("someone often went alone", set()),
        ("", set()),
    ],
)
def test_numbers_are_found_in_digits_and_in_words(text: str, expected: set[str]) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I don't like it",
        "I don’t like it",
        "I dont like it",
        "no longer",
        "I quit smoking",
        "I gave up sugar",
        "I used to smoke",
        "tea instead of coffee",
        "I prefer tea over coffee",
        "we moved from Jira to Linear",
        "NEVER do that",
    ],
)
def test_a_denial_is_heard(text: str) -> None:
    assert has_negation(text)


@pytest.mark.parametrize(
    "text", ["I like it", "I want longer answers", "I'm used to Vim", "not only Python", "notes about knots", ""]
)
def test_no_denial_is_heard_where_there_is_none(text: str) -> None:
    assert not has_negation(text)


@pytest.mark.parametrize(
    ("text", "holds", "denied"),
    [
        ("I don't use AWS, I use Azure", "Azure", "AWS"),
        ("I use PostgreSQL, not MySQL", "PostgreSQL", "MySQL"),
        ("I prefer Python over Java", "Python", "Java"),
        ("We moved from Jira to Linear", "Linear", "Jira"),
        ("I use Docker instead of Podman", "Docker", "Podman"),
        ("I used to live in Paris but now I live in Rome", "Rome", "Paris"),
        ("I stopped using AWS and I use GCP", "GCP", "AWS"),
        ("I like tea. I hate coffee. I like milk", "milk", "coffee"),
    ],
)
def test_a_denial_ends_with_its_clause(text: str, holds: str, denied: str) -> None:
    affirmed, refused = affirmed_and_denied(text)
    assert holds in affirmed
    assert holds not in refused
    assert denied in refused
    assert denied not in affirmed


def test_a_denied_list_is_denied_to_its_end() -> None:
    assert affirmed_and_denied("I don't use AWS, Azure or GCP")[0].split() == ["I"]


def test_names_are_capitals_days_and_every_word_of_a_script_without_capitals() -> None:
    found = names("met Bob on monday, then iPhone shopping in 東京")
    assert found == {"bob", "monday", "iphone", "東京"}
    assert names("The I And Not") == frozenset()


def test_composed_and_decomposed_letters_are_the_same_words() -> None:
    composed = "Zürich café"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    assert words(composed) == words(decomposed) == ["zürich", "café"]
    assert names(composed) == names(decomposed)
    assert normalise(composed) == normalise(decomposed)


def test_content_words_leave_out_what_every_sentence_has() -> None:
    assert content_words("I don't like the C++ code for Node.js, using 2 tools") == [
        "c++",
        "code",
        "node.js",
        "2",
        "tools",
    ]


@pytest.mark.parametrize("group", [["use", "uses", "used", "using"], ["run", "running"], ["smoke", "smoking"]])
def test_forms_of_a_word_share_a_stem(group: list[str]) -> None:
    assert len({stem(word) for word in group}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deploy my app", "Deploy your app"),
        ("Hi, can you please write tests for my code?", "Write tests for your code"),
        ("I want to learn Spanish", "Learn Spanish"),
        ("i'd like to book a flight.", "Book a flight"),
        ("I need a workout plan", "A workout plan"),
        ("help me with my CV", "Help you with your CV"),
        ("help me write a letter", "Write a letter"),
        ("let's plan our trip", "Plan your trip"),
        ("What should I cook tonight?", "Answer “What should I cook tonight?”"),
        ("is it worth it?", "Answer “is it worth it?”"),
        ("my server is down!", "Help with “my server is down”"),
        ("it doesn't work", "Help with “it doesn't work”"),
        ("do my taxes", "Do your taxes"),
        ("hike in the alps", "Hike in the alps"),
        ("?", "Answer “?”"),
        ("", "Answer"),
    ],
)
def test_an_input_becomes_a_request_that_reads_well(text: str, expected: str) -> None:
    assert as_request(text) == expected


def test_a_long_request_is_cut_with_an_ellipsis() -> None:
    assert as_request("translate " + "word " * 99, 5) == "Translate word word word word…"
    assert snippet("a b c.", 3) == "a b c"


def test_words_of_the_user_are_turned_to_the_user() -> None:
    assert (
        addressed("for my team on my own server, as I’m alone") == "for your team on your own server, as you're alone"
    )


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("I'm dropping Heroku. The logs leave Europe.", "Heroku"),
        ("We have finally ditched Jenkins", "Jenkins"),
        ("We left Azure last year", "Azure"),
        ("I am getting rid of Slack", "Slack"),
        ("We are migrating off Heroku to AWS", "Heroku"),
    ],
)
def test_what_is_left_behind_is_denied(text: str, denied: str) -> None:
    """And what comes in its place is not."""
    affirmed, gone = affirmed_and_denied(text)
    assert denied in gone
    assert denied not in affirmed
    assert "AWS" not in gone
