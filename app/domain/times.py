"""Time expressions in a query or statement: `last spring`, `two weeks ago`, `on 3 May 2023` as spans. English."""

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from app.domain import wording

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if name}
_SHORT = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_MONTH = "|".join((*_MONTHS, *_SHORT, "sept"))
_WEEKDAYS = {name.lower(): number for number, name in enumerate(calendar.day_name)}
_SEASONS = {"winter": 12, "spring": 3, "summer": 6, "autumn": 9, "fall": 9}
_UNIT_DAYS = {"day": 1, "week": 7, "fortnight": 14, "month": 30.44, "year": 365.25}

_ISO = re.compile(r"\b((?:19|20)\d\d)-(\d\d)(?:-(\d\d))?\b")
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b\.?,?(?: ((?:19|20)\d\d))?", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b(?!\d)(?:,? ((?:19|20)\d\d))?", re.IGNORECASE)
_IN_MONTH = re.compile(
    rf"\b(?:(in|last|this|during|since|early|late|mid) )?({_MONTH})\b(?:,? (?:of )?((?:19|20)\d\d))?", re.IGNORECASE
)
_YEAR = re.compile(r"\b(?:in|during|of|year|since|summer|winter|spring|autumn|fall) ((?:19|20)\d\d)\b", re.IGNORECASE)
_AGO = re.compile(
    r"\b(an?|[a-z]+|\d+)(?: (?:couple|few) of| few)? (day|week|fortnight|month|year)s? ago\b", re.IGNORECASE
)
_LAST = re.compile(r"\b(last|past|previous|this|over the) (week|month|year|weekend|night)\b", re.IGNORECASE)
_SINCE_THEN = re.compile(
    r"\b(?:last|past|previous) (\d+|couple(?: of)?|few|[a-z]+) (day|week|fortnight|month|year)s\b"
    r"|\b(recently|lately)\b",
    re.IGNORECASE,
)
_PART_OF_MONTH = re.compile(
    rf"\b(?:(first|second|third|last) week|(beginning|start|middle|end)) of ({_MONTH})\b(?:,? ((?:19|20)\d\d))?",
    re.IGNORECASE,
)
_PART_DAYS = {
    "first": (0, 7),
    "second": (7, 14),
    "third": (14, 21),
    "beginning": (0, 10),
    "start": (0, 10),
    "middle": (10, 20),
}
_WEEKDAY = re.compile(rf"\b(?:last|on|this) ({'|'.join(_WEEKDAYS)})\b", re.IGNORECASE)
_SEASON = re.compile(
    rf"\b(?:(last|this|in|during|the) )(?:the )?({'|'.join(_SEASONS)})\b(?:,? (?:of )?((?:19|20)\d\d))?", re.IGNORECASE
)
_RELATIVE_DAY = re.compile(r"\b(yesterday|today|tonight|tomorrow)\b", re.IGNORECASE)
_DAY_AHEAD = re.compile(
    rf"\b(?P<relative>today|tonight|tomorrow)\b"
    rf"|\b(?:on |by |until )?(?P<which>on|by|until|this|next|coming) (?P<weekday>{'|'.join(_WEEKDAYS)})\b"
    rf"|\b(?P<unit_which>next|this) (?P<unit>week|weekend|month|year)\b"
    rf"|\bin (?P<count>an?|[a-z]+|\d+) (?P<count_unit>day|week|month|year)s?\b"
    rf"|\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})\b\.?(?:,? (?P<year>(?:19|20)\d\d))?"
    rf"|\b(?P<month2>{_MONTH})\.? (?P<day2>\d{{1,2}})(?:st|nd|rd|th)?\b(?!\d)(?:,? (?P<year2>(?:19|20)\d\d))?"
    rf"|\b(?:in|next|this|by|until|early|late|mid) (?P<month3>{_MONTH})\b(?:,? (?P<year3>(?:19|20)\d\d))?"
    rf"|\b(?:in|next|this) (?:the )?(?P<season>{'|'.join(_SEASONS)})\b(?:,? (?P<year4>(?:19|20)\d\d))?",
    re.IGNORECASE,
)
"""What names a day to come, or a span."""

_A_MOMENT = timedelta(microseconds=1)
_DAYS = {"today": 0, "yesterday": 1, "tonight": 0}

_NOW_ASKED = re.compile(
    r"\b(?:do|am|are|is|have|'s|'m|'re)\b[^.?!]*\b(?:i|my|mine|we|our)\b|\b(?:i|my|mine|we|our)\b[^.?!]*\b(?:do|am|are|is|have|'s|'m|'re|live|work|use)\b",
    re.IGNORECASE,
)
_OF_ONESELF = re.compile(r"\b(?:i|i'm|my|mine|me|we|our|ours|us)\b", re.IGNORECASE)
_PAST_ASKED = re.compile(
    r"\b(?:did|was|were|had|used to|before|previous(?:ly)?|former(?:ly)?|first|ever|earlier|once|when|old|ago|last|"
    r"history)\b",
    re.IGNORECASE,
)

AFTER_DAYS = 10.0
BEFORE_DAYS = 2.0
"""How fast closeness to a span fades: what happened is told later, seldom before."""

FEW = 2.5
"""How many `a couple` or `a few` are."""

RECENT_DAYS = 30.0
"""`Recently` is so long."""

LONG_DAYS = 30.0
"""A span of this length says half as much as a day."""


REACH_DAYS = 5.0
"""So far outside a span what was told may be about it: before it the closeness is below 0.1 there, after it 0.6."""


@dataclass(frozen=True)
class Span:
    """From `start` to `end`, both aware."""

    start: datetime
    end: datetime

    @property
    def days(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds() / 86400.0


def spans(text: str, now: datetime) -> list[Span]:
    """The spans of time that `text` names, seen from `now`; without a year the last such span that began."""
    found: list[Span] = []
    rest = text
    for pattern, read in (
        (_ISO, _iso),
        (_DAY_FIRST, _day_first),
        (_MONTH_FIRST, _month_first),
        (_PART_OF_MONTH, _part_of_month),
        (_SEASON, _season),
        (_IN_MONTH, _month),
        (_AGO, _ago),
        (_SINCE_THEN, _since_then),
        (_LAST, _last),
        (_WEEKDAY, _weekday),
        (_YEAR, _year),
    ):
        for match in pattern.finditer(rest):
            span = read(match, now)
            if span is not None:
                found.append(span)
                # What was read is read once.
                rest = rest[: match.start()] + " " * (match.end() - match.start()) + rest[match.end() :]
    words = set(wording.words(rest))
    for word, days in _DAYS.items():
        if word in words:
            found.append(_day(now - timedelta(days=days)))
    return found


def names_day_ahead(text: str) -> bool:
    """Whether a text names a day, or a span, in words that what is to come is told in."""
    return _DAY_AHEAD.search(text) is not None or _ISO.search(text) is not None


def dated(text: str, now: datetime, *, is_ahead: bool = False) -> str:
    """`text` with the date behind each expression that is told from the moment it was said: `last Friday` said on 6 May
    2024 becomes `last Friday (2024-05-03)`. Where it `is_ahead` of that moment, `on Friday` is the next one."""
    found: list[tuple[int, Span]] = []
    if is_ahead:
        ahead = ((match.end(), _ahead(match, now)) for match in _DAY_AHEAD.finditer(text))
        return _with_dates(text, [(end, span) for end, span in ahead if span is not None])
    for pattern, read in ((_AGO, _ago), (_LAST, _last), (_WEEKDAY, _weekday), (_RELATIVE_DAY, _relative_day)):
        for match in pattern.finditer(text):
            span = read(match, now)
            if span is not None:
                found.append((match.end(), span))
    return _with_dates(text, found)


def _with_dates(text: str, found: Sequence[tuple[int, Span]]) -> str:
    parts, at = list[str](), 0
    for end, span in sorted(found, key=lambda each: each[0]):
        parts.append(f"{text[at:end]} ({_date_of(span)})")
        at = end
    return "".join([*parts, text[at:]])


def _date_of(span: Span) -> str:
    """A span's date as exactly as it is known."""
    if span.days > 4 * _UNIT_DAYS["month"]:
        return f"{span.start:%Y}"
    if span.days > 2 * _UNIT_DAYS["month"]:
        return f"{span.start:%Y-%m} to {span.end - _A_MOMENT:%Y-%m}"
    if span.days > 2 * _UNIT_DAYS["week"]:
        return f"{span.start:%Y-%m}"
    return f"{span.start:%Y-%m-%d}" if span.days <= 1 else f"{span.start:%Y-%m-%d} to {span.end - _A_MOMENT:%Y-%m-%d}"


def _relative_day(match: re.Match[str], now: datetime) -> Span | None:
    return _day(now + timedelta(days={"yesterday": -1, "today": 0, "tonight": 0, "tomorrow": 1}[match[1].lower()]))


def _ahead(match: re.Match[str], now: datetime) -> Span | None:
    """The first such span that is not over at `now`; None where the text says the year itself, or there is none."""
    said = {name: value.lower() for name, value in match.groupdict().items() if value}
    if said.keys() & {"year", "year2", "year3", "year4"}:
        return None
    if "relative" in said:
        return _day(now + timedelta(days=1 if said["relative"] == "tomorrow" else 0))
    if "weekday" in said:
        return _weekday_ahead(_WEEKDAYS[said["weekday"]], now, is_next_week=said["which"] == "next")
    if "unit" in said:
        return _unit_ahead(said["unit"], now, is_next=said["unit_which"] == "next")
    if "count" in said:
        return _in_time(said["count"], said["count_unit"], now)
    if "season" in said:
        return _first_ahead(now, _SEASONS[said["season"]], months=3)
    month = said.get("month") or said.get("month2") or said["month3"]
    day = said.get("day") or said.get("day2")
    return _first_ahead(now, _month_number(month), int(day) if day else None)


def _first_ahead(now: datetime, month: int, day: int | None = None, months: int = 1) -> Span | None:
    found = (_of(year, month, day, months) for year in range(now.year, now.year + 5))
    return next((span for span in found if span is not None and span.end > now), None)


def _weekday_ahead(weekday: int, now: datetime, *, is_next_week: bool) -> Span:
    """`on Friday`: the next one, a week ahead on a Friday. `next Friday`: the one of next week."""
    if is_next_week:
        return _day(now + timedelta(days=7 - now.weekday() + weekday))
    return _day(now + timedelta(days=(weekday - now.weekday()) % 7 or 7))


def _unit_ahead(unit: str, now: datetime, *, is_next: bool) -> Span | None:
    today = _day(now).start
    monday = today + timedelta(days=(7 if is_next else 0) - today.weekday())
    if unit == "week":
        return Span(monday, monday + timedelta(days=7))
    if unit == "weekend":
        return Span(monday + timedelta(days=5), monday + timedelta(days=7))
    if unit == "month":
        year, month = divmod(now.year * 12 + now.month - 1 + is_next, 12)
        return _of(year, month + 1)
    return _of(now.year + is_next, 1, months=12)


def _in_time(count: str, unit: str, now: datetime) -> Span | None:
    """`in two weeks`, as exactly as its unit."""
    many = _count(count)
    if many is None:
        return None
    days = many * _UNIT_DAYS[unit]
    slack = timedelta(days=_UNIT_DAYS[unit] // 2)
    try:
        at = _day(now + timedelta(days=days))
        return Span(_day(at.start - slack).start, _day(at.start + slack).end)
    except OverflowError:
        return None


def asks_of_oneself(text: str) -> bool:
    """Whether a question is about who asks it, and names no past."""
    return _OF_ONESELF.search(text) is not None and _PAST_ASKED.search(text) is None


def asks_of_now(text: str) -> bool:
    """Whether a question asks how things are now for who asks it: in the present, of `I` or `my`, no time named."""
    return _NOW_ASKED.search(text) is not None and _PAST_ASKED.search(text) is None


def closeness(at: datetime, wanted: Sequence[Span]) -> float:
    """How well a moment fits the best of some spans, 0..1: within it, or told a little later; short spans say more."""
    return float(closenesses(np.array([at.timestamp() / 3600.0]), wanted)[0])


def closenesses(hours: NDArray[np.float64], wanted: Sequence[Span]) -> NDArray[np.float64]:
    """The same for moments in hours since 1970, of shape (n,); 0 for NaN."""
    best = np.zeros(len(hours))
    for span in wanted:
        early = span.start.timestamp() / 3600.0 - hours
        late = hours - span.end.timestamp() / 3600.0
        says = 1.0 / (1.0 + max(0.0, span.days - 1.0) / LONG_DAYS)
        faded = np.exp(-np.maximum(early, 0.0) / 24.0 / BEFORE_DAYS - np.maximum(late, 0.0) / 24.0 / AFTER_DAYS)
        best = np.fmax(best, says * faded)
    return best


def _day(moment: datetime) -> Span:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return Span(start, start + timedelta(days=1))


def _month_number(name: str) -> int:
    return _MONTHS.get(name.lower()) or _SHORT[name.lower()[:3]]


def _of(year: int, month: int, day: int | None = None, months: int = 1) -> Span | None:
    try:
        start = datetime(year, month, day or 1, tzinfo=UTC)
    except ValueError:
        return None
    if day is not None:
        return _day(start)
    ends = month - 1 + months
    return Span(start, datetime(year + ends // 12, ends % 12 + 1, 1, tzinfo=UTC))


def _latest(year: str | None, now: datetime, month: int, day: int | None = None, months: int = 1) -> Span | None:
    """The span in the year given, else the last one that began before `now`."""
    if year:
        return _of(int(year), month, day, months)
    this = _of(now.year, month, day, months)
    return this if this is None or this.start <= now else _of(now.year - 1, month, day, months)


def _iso(match: re.Match[str], now: datetime) -> Span | None:
    return _of(int(match[1]), int(match[2]), int(match[3]) if match[3] else None)


def _day_first(match: re.Match[str], now: datetime) -> Span | None:
    return _latest(match[3], now, _month_number(match[2]), int(match[1]))


def _month_first(match: re.Match[str], now: datetime) -> Span | None:
    return _latest(match[3], now, _month_number(match[1]), int(match[2]))


def _month(match: re.Match[str], now: datetime) -> Span | None:
    """`may` and `march` are verbs too: without a year or a word before them they are no months."""
    is_plain = not match[1] and not match[3]
    if is_plain and (match[2].islower() or match[2].lower() in {"may", "march"}):
        return None
    return _latest(match[3], now, _month_number(match[2]))


def _season(match: re.Match[str], now: datetime) -> Span | None:
    return _latest(match[3], now, _SEASONS[match[2].lower()], months=3)


def _count(word: str) -> float | None:
    """How many a word counts; None for one that counts nothing exactly."""
    if word in {"a", "an", "one"}:
        return 1.0
    numbers = wording.numbers(word)
    return float(min(numbers)) if len(numbers) == 1 else None


def _ago(match: re.Match[str], now: datetime) -> Span | None:
    count = _count(match[1].lower())
    days = (FEW if count is None else count) * _UNIT_DAYS[match[2].lower()]
    slack = max(0.5, _UNIT_DAYS[match[2].lower()] / 2)
    try:
        at = now - timedelta(days=days)
        return Span(at - timedelta(days=slack), at + timedelta(days=slack))
    except OverflowError:
        return None


def _since_then(match: re.Match[str], now: datetime) -> Span | None:
    """`the past two months`, `recently`: up to now."""
    if match[3]:
        return Span(now - timedelta(days=RECENT_DAYS), now)
    said = match[1].lower()
    many = FEW if said.startswith(("couple", "few")) else _count(said)
    if many is None:
        return None
    try:
        return Span(now - timedelta(days=many * _UNIT_DAYS[match[2].lower()]), now)
    except OverflowError:
        return None


def _part_of_month(match: re.Match[str], now: datetime) -> Span | None:
    """`the last week of May`, `the end of May 2023`."""
    month = _latest(match[4], now, _month_number(match[3]))
    if month is None:
        return None
    part = (match[1] or match[2]).lower()
    if part in {"last", "end"}:
        return Span(month.end - timedelta(days=7 if part == "last" else 10), month.end)
    first, over = _PART_DAYS[part]
    return Span(month.start + timedelta(days=first), month.start + timedelta(days=over))


def _last(match: re.Match[str], now: datetime) -> Span | None:
    is_this, unit = match[1].lower() == "this", match[2].lower()
    today = _day(now).start
    if unit == "night":
        return _day(now - timedelta(days=0 if is_this else 1))
    if unit == "weekend":
        saturday = today - timedelta(days=(today.weekday() - 5) % 7)
        return Span(saturday, saturday + timedelta(days=2))
    if unit == "week":
        monday = today - timedelta(days=today.weekday() + (0 if is_this else 7))
        return Span(monday, monday + timedelta(days=7))
    if unit == "month":
        first = today.replace(day=1)
        return _of(first.year, first.month) if is_this else _of(*_before(first.year, first.month))
    return _of(now.year - (0 if is_this else 1), 1, months=12)


def _before(year: int, month: int) -> tuple[int, int]:
    return (year, month - 1) if month > 1 else (year - 1, 12)


def _weekday(match: re.Match[str], now: datetime) -> Span | None:
    back = (now.weekday() - _WEEKDAYS[match[1].lower()]) % 7 or 7
    return _day(now - timedelta(days=back))


def _year(match: re.Match[str], now: datetime) -> Span | None:
    return _of(int(match[1]), 1, months=12)
