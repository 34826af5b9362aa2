"""Phone numbers, international and national, by libphonenumber's metadata."""

import re
from collections.abc import Iterator

import phonenumbers

from app.domain.redaction.digits import digits_of, is_word
from app.domain.redaction.spans import Span

MAX_PHONE_CHECKS = 1000
"""Phone numbers of one text that are looked up in libphonenumber's metadata (20 to 50 us each); beyond it
a number is hidden by its shape alone, so that a hostile text costs no more and gains nothing."""

_PHONE_WORDS = (
    r"(?:(?:tele|cell|i)?phones?|tel|telefon(?:nummer)?|tele?fono|teléfono|téléphone|telefone|mobiles?|mobil(?:nummer)?"
    r"|móvil|handy(?:nummer)?|rufnummer|cell|fax|whats ?app|sms|dial|celular|телефон|тел"
    r"|my (?:(?:new|work|home|personal|private) )?number|(?:call|text|ring|reach)(?: (?:me|us|him|her|them|back))?)"
    r"|電話|电话|手机|携帯|전화"
)
_PHONE_BEFORE = re.compile(
    rf"(?:(?<![A-Za-z\[]){_PHONE_WORDS})(?:['’]?s)?"
    r"(?:[\s:;=,.#()\"'–-]{0,3}\b(?:numbers?|no|nr|num|is|at|on|me|us|under|via|unter|ist|lautet|auf|est|es|al|au|to"
    r"|direct|line|home|work|mobile)\b){0,4}[\s:;：=,.#+(\"'–-]{0,4}\Z",
    re.IGNORECASE,
)
_PHONE_AFTER = re.compile(
    r"\)?\s{0,2}(?:is|'s|’s) (?:my|our|his|her|their) (?:(?:new|work|home|personal|cell|mobile) )?"
    r"(?:phone|cell|mobile|number|tel)\b|\)?\s?\((?:cell|mobile|home|work|office|mob|m|c|h|w|o)\)",
    re.IGNORECASE,
)
_COMPACT_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_TRUNK_REGIONS = ("GB", "DE", "FR", "IT", "NL", "AU", "CH", "AT", "BE", "SE", "JP", "IN")
_EXTENSION = re.compile(r",?\s?(?:x|ext\.?|extension)\s?\d{1,6}\b", re.IGNORECASE)
_ZIP_PLUS_4 = re.compile(r"\d{5}-\d{4}")
_DRAMA_MOBILE = re.compile(r"07\d{9}")


class _PhoneChecks:
    """Look-ups in libphonenumber's metadata for one text, and how many of them are left."""

    def __init__(self) -> None:
        self.left = MAX_PHONE_CHECKS

    def is_valid(self, number: str, region: str | None) -> bool:
        """Whether the region (None: the number names it) assigns such numbers; True with none left."""
        if self.left <= 0:
            return True
        self.left -= 1
        parsed = _parse_phone(number, region)
        return parsed is not None and phonenumbers.is_valid_number(parsed)

    def is_possible(self, number: str) -> bool:
        """Whether an international number has a length its country uses; True with none left."""
        if self.left <= 0:
            return True
        parsed = _parse_phone(number, None)
        return parsed is not None and phonenumbers.is_possible_number(parsed)


def _parse_phone(number: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


def find_phones(text: str, chains: list[list[Span]]) -> Iterator[Span]:
    checks = _PhoneChecks()
    for groups in chains:
        index, is_inside = 0, False
        while index < len(groups):
            last = _phone_end(text, groups, index, is_inside, checks)
            if last is not None:
                yield _phone_span(text, groups[index][0], groups[last][1])
            is_inside = last is None and _is_id_part(text, groups[index])
            index = index + 1 if last is None else last + 1


def _is_id_part(text: str, group: Span) -> bool:
    """Whether a group of digits is a step of a path, or so long that the next group goes on with it."""
    start, end = group
    if text[end : end + 1] == "/":
        return True
    return end - start >= 3 and not (end - start == 4 and text[start : start + 2] in ("19", "20"))


def _phone_span(text: str, start: int, end: int) -> Span:
    """start..end with the plus and brackets before it and the extension after it."""
    if start and text[start - 1] == "(" and ")" in text[start:end]:
        start -= 1
    if start and text[start - 1] in "+＋":
        start -= 1
    if start and text[start - 1] == "(" and ")" in text[start:end] and "(" not in text[start:end]:
        start -= 1
    extension = _EXTENSION.match(text, end)
    return start, extension.end() if extension else end


def _phone_end(text: str, groups: list[Span], first: int, is_inside: bool, checks: _PhoneChecks) -> int | None:
    """The last group of the phone number that starts at group `first`, if one does; `is_inside` says that
    the groups before it may be the beginning of the same number."""
    start = groups[first][0]
    if start and is_word(text[start - 1]):
        return None
    lead = text[max(0, start - 3) : start].rstrip("(")
    if lead[-1:] in ("+", "＋") and not is_word(lead[-2:-1] or " "):
        return _international_end(text, groups, first, checks)
    last = None
    if text[start : start + 2] == "00" and text[start + 2 : start + 3] not in ("", "0"):
        last = _prefixed_end(text, groups, first, checks)
    if last is None and not (is_inside and text[start] == "0"):
        last = _national_end(text, groups, first, checks)
    return _named_end(text, groups, first) if last is None else last


def _windows(
    text: str, groups: list[Span], first: int, least: int, most: int, most_groups: int = 16
) -> Iterator[tuple[int, str]]:
    """The numbers of `least` to `most` digits that start at group `first`, longest first, as (last, digits)."""
    found: list[tuple[int, str]] = []
    number = ""
    for last in range(first, min(len(groups), first + most_groups)):
        number += digits_of(text, [groups[last]])
        if len(number) > most:
            break
        end = groups[last][1]
        if len(number) >= least and not (end < len(text) and is_word(text[end])):
            found.append((last, number))
    return reversed(found)


def _international_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, after a plus: a number its country assigns, or a formatted one of a length it uses."""
    possible = None
    start = groups[first][0]
    for last, digits in _windows(text, groups, first, 7, 16):
        if "(0)" in text[start : groups[last][1]]:
            number = "+" + digits_of(text, [g for g in groups[first : last + 1] if text[g[0] - 1 : g[1] + 1] != "(0)"])
        else:
            number = "+" + digits
        if checks.is_valid(number, None):
            return last
        is_formatted = last > first or _is_named_before(text, start)
        if possible is None and is_formatted and checks.is_possible(number):
            possible = last
    return possible


def _prefixed_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, for a number that starts with 00 and its country."""
    for last, digits in _windows(text, groups, first, 10, 17):
        if checks.is_valid("+" + digits[2:], None):
            return last
    return None


def _is_part_of_code(text: str, start: int, end: int) -> bool:
    """Whether a number is glued to something that makes it an id, an amount or a fraction."""
    before = text[start - 1 : start].rstrip("(") if start else ""
    after, next_after = text[end : end + 1], text[end + 1 : end + 2]
    if (before and before in "-–_#$€£¥\\@.") or (before == ":" and text[start - 2 : start - 1].isdigit()):
        return True
    return bool(next_after) and ((after == "-" and is_word(next_after)) or (after == "." and next_after.isdigit()))


def _national_end(text: str, groups: list[Span], first: int, checks: _PhoneChecks) -> int | None:
    """As _phone_end, for a number formatted as one: `(202) 555-0143`, `020 7946 0958`, `138 1234 5678`."""
    start = groups[first][0]
    for last, digits in _windows(text, groups, first, 9, 13, most_groups=6):
        end = groups[last][1]
        is_path = text.count("/", start, end) > 1 or (first == 0 and text[start - 1 : start] == "/")
        if last == first or is_path or _is_part_of_code(text, start, end):
            continue
        layout = tuple(stop - begin for begin, stop in groups[first : last + 1])
        has_area = text[start - 1 : start] == "(" and text[groups[first][1] : groups[first][1] + 1] == ")"
        if _is_national(text[start:end], digits, layout, has_area, checks):
            return last
    return None


def _is_national(written: str, digits: str, layout: tuple[int, ...], has_area: bool, checks: _PhoneChecks) -> bool:
    if layout in ((3, 3, 4), (1, 3, 3, 4)) or (has_area and layout == (3, 7)):
        if len(digits) == 11 and digits[0] != "1":
            return False
        number = digits[-10:]
        if number[0] in "01":
            return number[0] == "0" and _is_trunk(digits, checks)
        is_punctuated = written[-5] in "-.‐‑–" and written[-6].isdigit()
        return is_punctuated or has_area or number[:3] == "555" or checks.is_valid(number, "US")
    if digits[0] == "0" and digits[1] != "0" and layout[0] > 1 and layout[-1] > 1:
        return not _ZIP_PLUS_4.fullmatch(written) and _is_trunk(digits, checks)
    if layout == (3, 4, 4) and digits[0] == "1":
        return checks.is_valid(digits, "CN")
    return has_area and layout in ((2, 5, 4), (2, 4, 4)) and checks.is_valid(digits, "BR")


def _is_trunk(digits: str, checks: _PhoneChecks) -> bool:
    """Whether a number with a leading 0 is assigned in a country that writes them so."""
    if _DRAMA_MOBILE.fullmatch(digits):
        return True
    return any(checks.is_valid(digits, region) for region in _TRUNK_REGIONS)


def _named_end(text: str, groups: list[Span], first: int) -> int | None:
    """As _phone_end, for any number of 7 to 15 digits beside a word such as "phone" or "call me"."""
    # Inside a chain there are only digits and punctuation beside a group, never a word.
    if first > 0 and len(groups) - first > 16:
        return None
    is_named = first == 0 and _is_named_before(text, groups[first][0])
    for last, digits in _windows(text, groups, first, 7, 15):
        is_date = len(digits) == 8 and _COMPACT_DATE.fullmatch(digits)
        if not is_date and (is_named or (last == len(groups) - 1 and _PHONE_AFTER.match(text, groups[last][1]))):
            return last
    return None


def _is_named_before(text: str, start: int) -> bool:
    return _PHONE_BEFORE.search(text[max(0, start - 48) : start]) is not None
