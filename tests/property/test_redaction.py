"""Properties of redaction: idempotent, no planted secret survives, work grows with the length of the text."""

import re
import string
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import iban, luhn

from app.domain import redaction
from app.domain.redaction import Redacted, redact

PIECES = [
    *("a", "1", "0", "+", "-", ".", "/", "(", ")", " ", "@", ":", "=", "[", "]", '"', "'", "\n", "_", ",", "é", "中"),
    *("password", "token=", "api_key: ", "Bearer ", " is ", "tel ", "phone", "my number is ", "call me", " is my cell"),
    *(
        "sk-",
        "eyJ",
        "ghp_",
        "AKIA",
        "AIza",
        "xoxb-",
        "://",
        "aws",
        "-----BEGIN ",
        "PRIVATE KEY-----",
        "-----END X-----",
    ),
    *("DE89", "3704 0044 0532 0130 00", "4111 1111 1111 1111", "020 7946 0958", "+49 30 23125 001", "202-555-0143"),
    *("2024-01-15", "10.0.0.1", "x@y.de", "jane@example.com", "[PHONE]", "[API_KEY]", "a1B2c3D4e5F6g7H8i9J0k1L2m3"),
]
WORDS = string.ascii_letters + string.digits
HOSTILE = ["token=", "password: ", "a@b.", "1 ", "0 1 ", "4111 ", "+1 ", "020 7946 ", " DE89", "eyJ-", "eyJa.", "sk-"]
HOSTILE += ["://a:", "tel 1 ", "-----BEGIN " + "PRIVATE KEY-----", "1.1.", "2024-01-", "550e8400-", "(", "a", "bearer "]

assembled = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
any_text = st.one_of(st.text(max_size=200), assembled)


def of(alphabet: str, least: int, most: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most or least)


def card(digits: str) -> str:
    return digits + luhn.calc_check_digit(digits)


def account(digits: str) -> str:
    return "DE" + iban.calc_check_digits("DE00" + digits) + digits


def in_fours(text: str) -> str:
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


emails = st.builds("{}@{}.{}".format, of(WORDS, 1, 30), of(WORDS, 1, 20), st.sampled_from(["com", "de", "co.uk", "io"]))
phones = st.one_of(
    of("23456789", 7).map(lambda d: f"+1 202 {d[:3]}-{d[3:]}"),
    of("23456789", 7).map(lambda d: f"(202) {d[:3]}-{d[3:]}"),
    of(string.digits, 6).map(lambda d: f"+44 7700 9{d[:5]}"),
    of(string.digits, 6).map(lambda d: f"07700 9{d[:5]}"),
    of(string.digits, 8).map(lambda d: f"+49 151 {d}"),
)
keys = st.one_of(
    of(string.ascii_uppercase + string.digits, 16).map(lambda s: "AKIA" + s),
    of(WORDS, 36).map(lambda s: "ghp_" + s),
    of(WORDS, 40, 60).map(lambda s: "sk-1" + s),
    of(WORDS, 35).map(lambda s: "AIza" + s),
    of(WORDS, 24).map(lambda s: "sk_live_" + s),
    of(WORDS, 20, 60).map(lambda s: f"eyJ{s}.eyJ{s}.{s}"),
)
cards = st.one_of(
    of(string.digits, 14).map(lambda d: card("4" + d)),
    of(string.digits, 13).map(lambda d: card("55" + d)),
    of(string.digits, 14).map(lambda d: in_fours(card("4" + d))),
)
accounts = of(string.digits, 18).flatmap(lambda d: st.sampled_from([account(d), in_fours(account(d))]))
edges = st.sampled_from(["\n", ", ", '"', " | ", "; ", "<", ">"])


@given(any_text)
def test_a_second_time_changes_nothing(text: str) -> None:
    once = redact(text).text
    assert redact(once) == Redacted(once, {})


@given(any_text)
def test_counts_are_the_placeholders_added(text: str) -> None:
    result = redact(text)
    assert all(times > 0 for times in result.counts.values())
    assert bool(result.counts) == (result.text != text)


@given(any_text, edges, st.one_of(emails, phones, keys, cards, accounts), edges, any_text)
def test_no_planted_secret_survives(before: str, left: str, secret: str, right: str, after: str) -> None:
    assert secret not in redact(before + left + secret + right + after).text


@given(any_text, edges, st.sampled_from(["password", "api_key", "token"]), of(WORDS, 12, 40), any_text)
def test_no_assigned_secret_survives(before: str, left: str, word: str, value: str, after: str) -> None:
    value += "a1b2"
    assert value not in redact(f'{before}{left}{word}="{value}"\n{after}').text


@given(st.text(string.ascii_letters + " .,;!?'\n-", max_size=300))
def test_text_without_digits_signs_or_keywords_is_the_same_object(text: str) -> None:
    if not any(word in text.lower() for word in ("pass", "pwd", "key", "secret", "token", "bearer", "sk-")):
        assert redact(text).text is text


def calls(text: str) -> int:
    """How many function calls redaction makes for a text."""
    made = 0

    def count(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    redact(text)  # what is loaded once is loaded
    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        redact(text)
    finally:
        sys.setprofile(previous)
    return made


@pytest.mark.parametrize("piece", HOSTILE)
def test_work_grows_no_faster_than_a_hostile_text(piece: str) -> None:
    short, long = calls(piece * 250), calls(piece * 1000)
    assert long <= 4.4 * short + 2000


def patterns() -> Iterator[re.Pattern[str]]:
    for module in (redaction.credentials, redaction.digits, redaction.emails, redaction.phones):
        for value in vars(module).values():
            if isinstance(value, re.Pattern):
                yield value
    for _, pattern in redaction.credentials.TOKENS:
        yield pattern


def unbounded_before_more(pattern: Any, is_last: bool = True) -> Iterator[str]:
    """The repeats without an upper limit that give back what they took: the only ones that can make the
    matching of one start cost more than a constant and what is consumed."""
    items = list(pattern)
    for index, (name, what) in enumerate(items):
        at_end = is_last and index == len(items) - 1
        kind = str(name)
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, inner = what
            if str(most) == "MAXREPEAT" and not at_end:
                yield f"{kind} {inner}"
            yield from unbounded_before_more(inner, at_end and str(most) == "MAXREPEAT")
        elif kind == "BRANCH":
            for branch in what[1]:
                yield from unbounded_before_more(branch, at_end)
        elif kind == "SUBPATTERN":
            yield from unbounded_before_more(what[-1], at_end)


def test_no_regular_expression_backtracks_without_limit() -> None:
    from re import _parser  # type: ignore[attr-defined]

    checked = 0
    for pattern in patterns():
        assert list(unbounded_before_more(_parser.parse(pattern.pattern, pattern.flags))) == [], pattern.pattern
        checked += 1
    assert checked > 50
