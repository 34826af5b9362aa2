"""Hiding secrets and personal numbers in text: e-mail addresses, phone numbers, keys and tokens, payment
cards, bank accounts.

Shapes of tokens are the vendors' own public formats; IBANs and the Luhn sum are checked by python-stdnum,
phone numbers by phonenumbers (libphonenumber's metadata). Where a rule must err, a value beside a word such
as "password" or "phone" is hidden, and a bare number is left alone. Not covered: secrets spelled out in
words, local parts of e-mail addresses longer than 64 characters, phone numbers without formatting and
without a word that says what they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.redaction.credentials import find_keys
from app.domain.redaction.digits import THREE_DIGITS, chains_in, find_cards, find_ibans
from app.domain.redaction.emails import find_emails
from app.domain.redaction.phones import MAX_PHONE_CHECKS, find_phones
from app.domain.redaction.spans import Span

KINDS = ("API_KEY", "EMAIL", "IBAN", "CARD", "PHONE")
"""What is looked for, in this order (digits inside a key are a part of the key). Each is replaced by its
name in brackets, e.g. `[EMAIL]`."""

MAX_ROUNDS = 8
"""How often a text is gone over until nothing more is found; a bound for texts built to need more. Without
secrets one round is enough, with them nearly always two."""


__all__ = ["KINDS", "MAX_PHONE_CHECKS", "MAX_ROUNDS", "Redacted", "merge_counts", "redact"]


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without its secrets, and how many of each kind were hidden (only kinds that occur)."""

    text: str
    counts: dict[str, int]


def redact(text: str) -> Redacted:
    """`text` with each secret replaced by its kind in brackets, e.g. `mail [EMAIL]`.

    Idempotent; linear in the length of `text`; about 8 us for 100 characters of prose, 20 to 60 us where
    there are dates and long numbers, some 100 us more for each phone number.
    """
    counts: dict[str, int] = {}
    for _ in range(MAX_ROUNDS):
        before = text
        text = _redact_once(text, counts)
        if text is before:
            break
    return Redacted(text, counts)


def _redact_once(text: str, counts: dict[str, int]) -> str:
    text = _hide(text, "API_KEY", find_keys(text), counts)
    if "@" in text:
        text = _hide(text, "EMAIL", find_emails(text), counts)
    if THREE_DIGITS.search(text):
        text = _hide(text, "IBAN", find_ibans(text), counts)
    chains = chains_in(text)
    if chains:
        before = text
        text = _hide(text, "CARD", find_cards(text, chains), counts)
        chains = chains if text is before else chains_in(text)
        text = _hide(text, "PHONE", find_phones(text, chains), counts)
    return text


def _hide(text: str, kind: str, found: Iterator[Span], counts: dict[str, int]) -> str:
    """`text` with each span as `[kind]`, overlapping ones as one, counted; the same object without any."""
    spans = sorted(found)
    if not spans:
        return text
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if not parts or start >= done:
            parts += (text[done:start], f"[{kind}]")
        done = max(done, end)
    counts[kind] = counts.get(kind, 0) + len(parts) // 2
    return "".join([*parts, text[done:]])


def merge_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sum of several `Redacted.counts`, kind by kind."""
    total: dict[str, int] = {}
    for one in counts:
        for kind, hidden in one.items():
            total[kind] = total.get(kind, 0) + hidden
    return total
