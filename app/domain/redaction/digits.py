"""Numbers: chains of digits, and the bank accounts and payment cards among them."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from stdnum import iban, luhn, numdb

from app.domain.redaction.spans import Span

_GAP = r"[ \t\u00a0\u2009\u202f.()/\-\u2010-\u2015]"
THREE_DIGITS = re.compile(r"\d\d.?[A-Za-z0-9]")
_SEVEN_DIGITS = re.compile(rf"\d(?:{_GAP}{{0,3}}\d){{6}}")
_CHAIN = re.compile(rf"\d++(?:{_GAP}{{1,3}}+\d++)*+")
_DIGITS = re.compile(r"\d++")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
UUID = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")
# What looks like a number to hide and is not: dates, IPv4 addresses, decimal fractions.
_INERT = re.compile(
    r"(?<!\d)(?<!\d[-./])(?:(?:19|20)\d\d(?P<a>[-./])(?:0?[1-9]|1[0-2])(?P=a)(?:3[01]|[12]\d|0?[1-9])(?!\d|(?P=a)\d)"
    r"|(?:3[01]|[12]\d|0?[1-9])(?P<b>[-./])(?:3[01]|[12]\d|0?[1-9])(?P=b)(?:(?:19|20)\d\d|\d\d)(?!\d|(?P=b)\d)"
    rf"|{_OCTET}(?:\.{_OCTET}){{3}}(?!\d|\.\d)|(?<!\+)(?:0|[1-9]\d{{0,8}})\.\d{{4,40}}(?![-./]?\d))"
)


def chains_in(text: str) -> list[list[Span]]:
    """Runs of groups of digits (7 or more) that only spaces and punctuation divide, each as its groups.

    UUIDs, dates, IPv4 addresses and decimal fractions take no part.
    """
    chains: list[list[Span]] = []
    if not _SEVEN_DIGITS.search(text):
        return chains
    if text.count("-") >= 4:
        text = UUID.sub("_" * 36, text)
    for chain in _CHAIN.finditer(text):
        start, end = chain.span()
        if end - start < 7:
            continue
        for inert in _INERT.finditer(text, start, end):
            _add_chain(chains, text, start, inert.start())
            start = inert.end()
        _add_chain(chains, text, start, end)
    return chains


def _add_chain(chains: list[list[Span]], text: str, start: int, end: int) -> None:
    if end - start >= 7:
        chains.append([group.span() for group in _DIGITS.finditer(text, start, end)])


def digits_of(text: str, groups: list[Span]) -> str:
    """The digits of the groups in ASCII, whatever script they are written in."""
    joined = "".join([text[start:end] for start, end in groups])
    return joined if joined.isascii() else "".join(str(unicodedata.decimal(c)) for c in joined)


def is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


def is_cut_off(text: str, start: int, end: int) -> bool:
    """Whether what is around start..end makes it a part of a longer word or of a decimal number."""
    if (start and is_word(text[start - 1])) or (end < len(text) and is_word(text[end])):
        return True
    is_fraction = start > 1 and text[start - 1] == "." and text[start - 2].isdigit()
    return is_fraction or (text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit())


_IBAN_START = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)(?=[ \u00a0.-]?[A-Za-z0-9]{2})")
_IBAN_PART = re.compile(r"(\d++)!")


@lru_cache(maxsize=1024)
def _iban_length(country: str) -> int:
    """How many characters an IBAN of the country has; 0 where the country has none."""
    for _, facts in numdb.get("iban").info(country):
        if "bban" in facts:
            return 4 + sum(int(length) for length in _IBAN_PART.findall(facts["bban"]))
    return 0


def find_ibans(text: str) -> Iterator[Span]:
    for match in _IBAN_START.finditer(text):
        start = match.start() - 2
        end = _iban_end(text, start, _iban_length(text[start : start + 2].upper()))
        if end and (end == len(text) or not is_word(text[end])):
            compact = "".join(c for c in text[start:end] if c.isalnum()).upper()
            if compact.isascii() and iban.is_valid(compact, check_country=False):
                yield start, end


def _iban_end(text: str, start: int, length: int) -> int:
    """Where `length` letters and digits from `start` on, at most one separator between two, end; else 0."""
    left, is_gap = length, False
    for index in range(start, min(len(text), start + 2 * length)):
        if is_word(text[index]) and text[index] != "_":
            left, is_gap = left - 1, False
        elif is_gap or text[index] not in " \u00a0.-":
            return 0
        else:
            is_gap = True
        if left == 0:
            return index + 1
    return 0


_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-59]|[68]\d)\d{11}"  # Diners
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|81\d\d|35[23456789]\d|220[0-4])\d{12,15}"  # Discover, UnionPay, JCB, Mir
    r"|(?:50|5[6-9]|60|6[1-9])\d{14,17}"  # Maestro, RuPay
)
_CARD_LAYOUTS = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (8, 8), (6, 13), (4, 12)}
)


def find_cards(text: str, chains: list[list[Span]]) -> Iterator[Span]:
    for groups in chains:
        index = 0
        while index < len(groups):
            last = _card_end(text, groups, index)
            if last is not None:
                yield groups[index][0], groups[last][1]
            index = index + 1 if last is None else last + 1


def _card_end(text: str, groups: list[Span], first: int) -> int | None:
    """The last group of the card number that starts at group `first`, if one does; the longest wins."""
    found, layout, length = None, (), 0
    for last in range(first, len(groups)):
        layout += (groups[last][1] - groups[last][0],)
        length += layout[-1]
        if length > 19 or (first > 0 and len(layout) > 5):
            break
        is_whole = first == 0 and last == len(groups) - 1
        if length < 13 or not (is_whole or len(layout) == 1 or layout in _CARD_LAYOUTS):
            continue
        number = digits_of(text, groups[first : last + 1])
        if (
            _ISSUERS.fullmatch(number)
            and luhn.is_valid(number)
            and not is_cut_off(text, groups[first][0], groups[last][1])
        ):
            found = last
    return found
