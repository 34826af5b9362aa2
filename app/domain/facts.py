"""Facts: which attribute of a person a sentence tells, and its value. `I moved to Lyon` tells `residence`: Lyon.

Two sentences that tell one attribute with different values cannot both hold now, however they are worded. Only
attributes with room for one value are listed, and only first-person sentences are read. English.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from app.domain import wording

_NAME = r"[\w'’&.-]+(?: (?:[A-Z0-9&][\w'’&.-]*|de|of|la|the|and|&))*"
"""A name as it is written: a word, and the capitalised words after it."""

_SOME = r"[\w'’+#.-]+(?: [\w'’+#.-]+){0,2}"
_NOW = r"(?:(?:now|just|actually|finally|currently|recently|officially|already|since|both|all|also|still) )*"
_HAVE = rf"(?:i|we)(?:'ve| have|'m| am|'re| are)? {_NOW}"

# Tried in order; the first that matches tells the attribute. `value` is what it is.
_PATTERNS: Sequence[tuple[str, re.Pattern[str]]] = tuple(
    (attribute, re.compile(pattern, re.IGNORECASE))
    for attribute, pattern in (
        ("residence", rf"\b{_HAVE}(?:lives?|living|reside|residing|stay(?:ing)?|based|settled|settling|home) (?:down )?(?:over |up |down |out )?(?:in|at|near) (?P<value>{_NAME})"),
        ("residence", rf"\b{_HAVE}(?:moved|moving|relocated|relocating|transferred|packed up and (?:moved|left|went|gone))(?: [\w'’]+){{0,5}}? (?:to|for|into) (?P<value>{_NAME})"),
        ("residence", rf"\b(?:my|our) (?:home|new home|place|new place|flat|new flat|house|new house|apartment|new apartment|address|city)(?: is|'s) {_NOW}(?:in |at )?(?P<value>{_NAME})"),
        ("residence", rf"\b(?P<value>{_NAME}) (?:is|has been|has become|became) {_NOW}(?:(?:my|our) (?:new )?(?:home|city|base|place)|home)\b"),
        ("residence", rf"\b(?P<value>{_NAME}) is where (?:i|we)(?:'m| am|'ve| have)? {_NOW}(?:lives?|living|based|settled|moved)\b"),
        ("residence", rf"\b(?:call|calling|called|made|make) (?P<value>{_NAME}) (?:my|our) home\b|\b(?:got|signed|found|rented|rent|bought|renting)\b[^.]*\b(?:flat|apartment|house|place|room|lease)\b[^.]*? in (?P<value2>{_NAME})"),
        ("employer", rf"\b{_HAVE}(?:works?|working|employed|hired|started|starting|start|signed on|signed|job|joined up)(?: [\w'’-]+){{0,4}}? (?:at|for|by|with) (?P<value>{_NAME})"),
        ("employer", rf"\b(?:i|we)(?:'ve| have|'m| am)? {_NOW}(?:joined|joining|switched jobs to|moved over to|left [\w'’&.-]+ for|quit [\w'’&.-]+ for) (?P<value>{_NAME})"),
        ("employer", rf"\bmy (?:new |current )?(?:employer|company|firm|workplace|boss company)(?: is|'s)(?: called)? {_NOW}(?P<value>{_NAME})"),
        ("employer", rf"\b(?:new|got a|took a|accepted a|landed a|have a)(?: [\w'’-]+){{0,3}} (?:job|position|role|offer|post)(?: [\w'’-]+){{0,3}}? (?:at|with|from) (?P<value>{_NAME})"),
        ("employer", rf"\b(?P<value>{_NAME}) (?:hired|employs|has hired|pays) me\b|\b(?P<value2>{_NAME}) is (?:now )?(?:my (?:new )?employer|where i (?:now )?work)\b"),
        ("name", rf"\b(?:my name(?: is|'s)|(?:please )?call me|i(?:'m| am) called|i go by|everyone calls me) {_NOW}(?P<value>{_NAME})"),
        ("phone", r"\bmy (?:new |current )?(?:phone|number|phone number|mobile|cell)(?: number)? (?:is|has changed to|changed to) (?:now )?(?P<value>[+\d][\d ()-]{4,})"),
        ("partner", rf"\b(?:my|our) (?:new )?(?:partner|wife|husband|girlfriend|boyfriend|fianc[ée]e?)(?: is|'s)(?: called| named)? (?P<value>{_NAME})"),
        ("car", rf"\b(?:i|we)(?:'ve| have|'m| am)? {_NOW}(?:drive|driving|bought|own|switched to|traded(?: [\w'’-]+){{1,4}} for)(?: an?| my| our)?(?: new| used)? (?P<value>{_NAME})(?: now)?(?= now|$|[.,!;])"),
        ("car", rf"\b(?:my|our) (?:new |current )?car(?: is|'s) {_NOW}(?:an? )?(?P<value>{_NAME})"),
        ("editor", rf"\bmy (?:new |main |current )?editor(?: is|'s) {_NOW}(?P<value>{_SOME})"),
        ("editor", rf"\b{_HAVE}(?:code|coding|program|programming|write code|edit|editing)(?: everything)? in (?P<value>{_NAME})"),
        ("diet", rf"\b{_HAVE}(?:gone |became |become |turned |went )?(?P<value>vegan|vegetarian|pescatarian|keto|omnivore|gluten[- ]free)\b"),
        ("language", rf"\b(?:answer|reply|write|talk|speak|respond) (?:to )?(?:me )?in (?P<value>{_NAME})"),
    )
)  # fmt: skip

_TELLS = re.compile(
    r"\b(?:i|we|my|our|me|home|where|joined|moved|started|settled|relocated|switched)\b|i'", re.IGNORECASE
)
"""Without one of these words nothing is told of oneself."""

_OPENING = re.compile(
    r"^(?:(?:so|well|oh|hey|by the way|btw|guess what|big news|update|news|fyi|ok|okay)[,:!.]? )+", re.IGNORECASE
)
_DROPPED = re.compile(
    r"^(?=(?:just |finally |officially |recently |now )*(?:moved|joined|relocated|settled|started|switched|living|working|based)\b)",
    re.IGNORECASE,
)
"""Where a sentence begins without its subject: `Just moved to Oslo`."""

_SAID = r"[\w'’&.+#-]+(?: [\w'’&.+#-]+){0,3}?"
"""What was said wrongly or meant: up to four words, as few as it takes."""

_END = r"(?=\s*(?:[,;:!?)-]|\.(?:\s|$)|$))"
_OOPS = (
    r"(?:^|\b(?:no|oops|ops|wait|hang on|hold on|sorry|pardon|wrong|mistake|my bad|correction|typo|scratch that|"
    r"actually)\b ?[,.:;!-]+ *)"
)
"""Where a correction begins that has no verb of its own: with the sentence, or after words that announce it."""

# Tried in order; the first that matches sets right. What is not said to be a correction has to put a name for a name:
# `not bad, it's ok` sets nothing right.
_CORRECTIONS: Sequence[tuple[re.Pattern[str], bool]] = tuple(
    (re.compile(pattern, re.IGNORECASE), is_of_names)
    for pattern, is_of_names in (
        (rf"\b(?:i meant(?: to say)?|i should have (?:said|written)|make that|correction[:,]?(?: (?:it'?s|it is|that'?s))?) (?!to\b)(?P<new>{_SAID}),? (?:and )?(?:not|instead of|rather than) (?P<old>{_SAID}){_END}", False),
        (rf"\bit(?:'?s| is) actually (?P<new>{_SAID}),? (?:and )?(?:not|instead of|rather than) (?P<old>{_SAID}){_END}", True),
        (rf"{_OOPS}not (?P<old>{_SAID})[,;:]? (?:but )?i meant (?P<new>{_SAID}){_END}", False),
        (rf"{_OOPS}not (?P<old>{_SAID})[,;:]? it(?:'?s| is) (?P<new>{_SAID}){_END}", True),
        (rf"\bi said (?P<old>{_SAID})(?: earlier| before| just now)?[,;]?(?: but| and| when)?(?: i)? meant (?P<new>{_SAID}){_END}", False),
        (rf"\bi said (?P<old>{_SAID})(?: earlier| before| just now)?[,;]?(?: but)? it(?:'?s| is) (?P<new>{_SAID}){_END}", True),
    )
)  # fmt: skip
_TAIL = re.compile(
    r"\s+(?:now|today|these days|since\b.*|for (?:good|now|work|the|a)\b.*|last\b.*|this\b.*|in (?:19|20)\d\d.*|"
    r"after\b.*|with\b.*|and\b(?! [A-Z]).*|as of\b.*|from\b.*|on\b.*|at last|anymore|again|yesterday|too|where\b.*|"
    r"because\b.*|but\b.*|so\b.*|until\b.*|i\b.*|next\b.*|instead\b.*|as\b.*|is\b.*)$",
    re.IGNORECASE,
)
_COMMON = frozenset({"phone", "diet", "editor"})
"""Attributes whose values need not be written as names."""

_SCOPED = re.compile(
    r"\b(?:in|during|over|every) (?:the )?(?:summers?|winters?|spring|autumn|fall|weeks?|weekends?|holidays)\b|"
    r"\bon (?:weekends|weekdays|holidays)\b|\bpart of the\b|\bsometimes\b|\bboth\b",
    re.IGNORECASE,
)
"""What leaves room for another value."""

_WISH = re.compile(r"\b(?:if|would|might|(?-i:may)|want|hope|plan|used to|could|wish|dream)\b", re.IGNORECASE)
_NO_VALUES = frozenset("a an the my our me it there here home work him her them this that be do same".split())


@dataclass(frozen=True)
class Fact:
    """An attribute and its value, in one spelling."""

    attribute: str
    value: str


@dataclass(frozen=True)
class Correction:
    """What was said wrongly, and what was meant; as written."""

    old: str
    new: str


@lru_cache(maxsize=50_000)
def fact_in(text: str) -> Fact | None:
    """The attribute that a sentence tells; None for none, for questions, denials and conditions."""
    line = _OPENING.sub("", " ".join(text.replace("’", "'").split()))
    line = _DROPPED.sub("I ", line, count=1)
    if not _TELLS.search(line) or _SCOPED.search(line) or line.endswith("?") or is_wish(line):
        return None
    for attribute, pattern in _PATTERNS:
        for match in pattern.finditer(line):
            written = next(found for found in match.groupdict().values() if found)
            if attribute not in _COMMON and not _is_written_as_name(written):
                continue
            value = _value(written)
            if value and not wording.has_negation(line[: match.start()].lower()):
                return Fact(attribute, value)
    return None


def is_wish(text: str) -> bool:
    """Whether a text says what may be, might have been or was rather than what is."""
    return _WISH.search(text) is not None


@lru_cache(maxsize=50_000)
def correction_in(text: str) -> Correction | None:
    """What a sentence sets right: `I meant Lyon, not Paris`."""
    line = " ".join(text.replace("’", "'").split())
    for pattern, is_of_names in _CORRECTIONS:
        for match in pattern.finditer(line):
            old, new = _trimmed(match["old"]), _trimmed(match["new"])
            if is_of_names and not (_is_written_as_name(old) and _is_written_as_name(new)):
                continue
            if old and new and old.lower() != new.lower():
                return Correction(old, new)
    return None


def _is_written_as_name(value: str) -> bool:
    return re.match(r"[A-Z0-9]", re.sub(r"^(?:the|an?) ", "", value)) is not None


def _trimmed(value: str) -> str:
    return _TAIL.sub("", value.strip(" .,;:!")).strip(" .,;:!")


def _value(written: str) -> str:
    value = re.sub(r"^(?:the|an?|my) ", "", _trimmed(written).lower())
    return "" if value in _NO_VALUES else value
