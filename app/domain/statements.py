"""Statements: when two texts say the same, and when they cannot both hold."""

import re
from collections.abc import Sequence
from functools import cached_property

from app.domain import wording
from app.domain.facts import Fact, fact_in

NEAR_DUPLICATE_COSINE = 0.95
"""At or above this, two memories of one user and type say the same, unless a detail differs."""

CONFLICT_COSINE = 0.35
"""Below this, two memories are about different things and cannot be in conflict. `I live in Paris` and `I moved
to Berlin` are at 0.45."""

RELATED_COSINE = 0.1
"""Below this, two memories are not even looked at together: `My new flat is in Oslo` and `I moved to Berlin` tell one
attribute at little more."""

SAME_KIND_COSINE = 0.7
"""From here on, two values after the same words are of one kind: `I prefer tea` and `I prefer coffee` are at 0.74,
`I prefer tea` and `I prefer trains` at 0.52."""

# What leads to a state, as that state; words that only say when.
_CONTRACTIONS = tuple(
    (re.compile(pattern), full)
    for pattern, full in (
        (r"(?<![\w'-])i'm\b", "i am"),
        (r"(?<![\w'-])it's\b", "it is"),
        (r"'ve\b", ""),
        (r"(?<![\w'-])we\b", "i"),
        (r"(?<![\w'-])our\b", "my"),
    )
)
_PARAPHRASES = (
    (re.compile(r"\b(?:(?:have|has|just) )*(?:moved|relocated) to\b"), "live in"),
    (re.compile(r"\b(?:(?:have|has|just) )*switched to\b"), "use"),
)
_FILLERS = frozenset("now currently recently actually just instead anymore again today already still".split())
_CHANGES = frozenset("now switched instead anymore changed".split())
_ADDITIONS = frozenset("also too additionally another both well".split())

# Frames with room for one value at a time, by what comes before it. The second ones only where both values
# are of one kind.
_ONE_VALUE = re.compile(
    r"\b(?:(?:live|lives|living|reside|resides|based|born) (?:in|at|near|on)|works? (?:at|for|as)|am from|"
    r"(?:name|job|role|title|employer|manager|boss|budget|deadline|timezone|birthday|address|editor|language) is|"
    r"(?:host|hosts|deploy|deploys)\b.* (?:on|to)|(?:favourite|favorite|preferred|default|main) .*(?:is|are))"
    r"(?: an?| the)?$"
)
_ONE_OF_A_KIND = re.compile(
    r"^(?:i|the user|user) prefers?\b|^(?:always )?(?:answer|reply|respond|write)(?: to)?(?: me)? in$|^call me$|"
    r"\bworks? in$|^(?:my|the|user's) .*\b(?:is|are)(?: an?| the)?$"
)
_ONE_NAMED_AFTER = re.compile(r"^(?:is|are) (?:my|the) ")
_JOINERS = frozenset("with on in to for using as at by and or from when during near".split())
_SCOPES = _JOINERS - {"with", "using", "and", "or", "by"}
_ARTICLES = frozenset({"a", "an", "the"})

# How claims are compared: what someone likes, uses or does are different claims about the same thing.
_LIKINGS = frozenset("lik lov enjoy prefer hat dislik favour".split())
_UNSAID = frozenset(
    """a about again all also always am an and any are as at be because been being but by did do does doing even ever
    every for from had has have i if in into is it its longer me my of on or our out over so than that the their them
    they this to too up us very was we were will with would you your used gave given giving switched moved migrated
    changed away instead rather now anymore""".split()
) | {word for word in wording.NEGATIONS if wording.stem(word) not in _LIKINGS}
_DOINGS = frozenset("lik us work liv host deploy run writ drink eat driv play speak want need hav".split())
_PAST = frozenset("born grew studi studied graduat raised met".split())


class Statement:
    """A text as it is compared with others. Each part is worked out once, when it is first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def normal(self) -> str:
        """The one spelling it shares with texts that differ only in case, spacing and closing punctuation."""
        return wording.normalise(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        """Its words, lower-cased, and its names."""
        return self.names | set(wording.words(self.text))

    @cached_property
    def names(self) -> frozenset[str]:
        """Words written as names."""
        return wording.names(self.text)

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Its numbers, as digits."""
        return wording.numbers(self.text)

    @cached_property
    def is_negated(self) -> bool:
        """Whether it denies, stops or dislikes something."""
        return wording.has_negation(self.text)

    @cached_property
    def is_change(self) -> bool:
        """Whether it says that something is different from before."""
        return bool(_CHANGES & self.words)

    @cached_property
    def is_list(self) -> bool:
        """Whether it names several things."""
        return re.search(r",|\band\b|\bor\b|&", self.text) is not None

    @cached_property
    def fact(self) -> Fact | None:
        """The attribute of a person that it tells, if any."""
        return fact_in(self.text)

    @cached_property
    def claims(self) -> tuple[frozenset[str], frozenset[str]]:
        """What it affirms and what it denies, as stems of meaningful words; all likings are one."""
        affirmed, denied = wording.affirmed_and_denied(self.text)
        return _claims(affirmed), _claims(denied)

    @cached_property
    def plain(self) -> list[str]:
        """Its words with changes as the states they lead to and without words that only say when."""
        line = " ".join(wording.words(self.text))
        for pattern, full in (*_CONTRACTIONS, *_PARAPHRASES):
            line = pattern.sub(full, line)
        return [word for word in line.split() if word not in _FILLERS]

    @cached_property
    def plain_numbers(self) -> frozenset[str]:
        """The numbers among its plain words."""
        return wording.numbers(" ".join(self.plain))

    @cached_property
    def rest(self) -> frozenset[str]:
        """Stems of its plain words that are no numbers."""
        return frozenset(wording.stem(word) for word in self.plain if not wording.numbers(word))


def is_duplicate(draft: Statement, memory: Statement, cosine: float) -> bool:
    """Whether two contents of one type say the same thing."""
    if draft.normal == memory.normal:
        return True
    return cosine >= NEAR_DUPLICATE_COSINE and differing_detail(draft, memory) is None


def differing_detail(a: Statement, b: Statement) -> str | None:
    """The detail in which two similar texts differ: `number`, `name` or `negation`; None when in none.

    A word that is a name in one text and the same word in lower case in the other does not differ.
    """
    if a.numbers != b.numbers:
        return "number"
    if a.is_negated != b.is_negated:
        return "negation"
    return "name" if (a.names - b.words) or (b.names - a.words) else None


def contradiction(draft: Statement, memory: Statement, cosine: float) -> str | None:
    """Why `draft` and `memory` cannot both hold now, or None.

    Two values of one attribute (`app.domain.facts`) cannot, however they are worded. Beside them three shapes are
    recognised: the same claim denied (`negation`), the same statement with another number
    (`number`), and one value where another stood in a frame that has room for only one (`value`):
    `I live in Paris` / `I moved to Berlin`, `My editor is Vim` / `My editor is Emacs`. Where in doubt, None:
    two memories beside one another cost less than one that is lost.
    """
    if draft.fact is not None and memory.fact is not None and draft.fact.attribute == memory.fact.attribute:
        return "value" if draft.fact.value != memory.fact.value and not _ADDITIONS & draft.words else None
    if cosine < CONFLICT_COSINE:
        return None
    if _is_denial(draft, memory):
        return "negation"
    if draft.is_negated != memory.is_negated or draft.plain == memory.plain:
        return None
    if _has_other_number(memory, draft):
        return "number"
    return "value" if _has_other_value(memory, draft, cosine) else None


def _claims(text: str) -> frozenset[str]:
    """What `text` says, as stems of its meaningful words; all likings are one."""
    said = [word for word in wording.words(text) if not {word, word.split("'")[0]} & _UNSAID]
    stems = {wording.stem(word) for word in said}
    return frozenset("lik" if each in _LIKINGS else each for each in stems)


def _is_denial(draft: Statement, memory: Statement) -> bool:
    """Whether `draft` denies all that `memory` claims, or claims all that `memory` denies."""
    held, dropped = memory.claims
    claimed, denied = draft.claims
    if denied and _covers(denied, held):
        is_part_of_list = bool(held - denied) and memory.is_list
        return not is_part_of_list
    return bool(dropped) and held <= claimed and _covers(dropped, claimed)


def _covers(denied: frozenset[str], claimed: frozenset[str]) -> bool:
    """Whether the claim is about just what is denied. A denial without a verb (`not Java`) touches short claims
    only, and none that stay true whatever comes later."""
    rest = claimed - denied
    if not denied <= claimed or rest & _PAST:
        return False
    return bool(denied & _DOINGS) or len(rest - _DOINGS) <= 1


def _has_other_number(old: Statement, new: Statement) -> bool:
    """Whether two statements are the same but for their numbers."""
    if not (old.plain_numbers and new.plain_numbers) or old.plain_numbers == new.plain_numbers:
        return False
    return old.rest == new.rest and len(old.rest) > 1


def _has_other_value(old: Statement, new: Statement, cosine: float) -> bool:
    """Whether two statements differ in one value only, and have room for only one."""
    prefix, old_middle, new_middle, suffix = _differing_middle(old.plain, new.plain)
    old_value, old_scope = _value_and_scope(old_middle)
    new_value, new_scope = _value_and_scope(new_middle)
    if not (old_value and new_value) or max(len(old_value), len(new_value)) > 6 or old_scope != new_scope:
        return False
    is_number = bool(wording.numbers(" ".join(old_value)))
    is_comparable = (
        (is_number or not set(old_value) & set(new_value))
        and (old_value[0] in _ARTICLES) == (new_value[0] in _ARTICLES)
        and is_number == bool(wording.numbers(" ".join(new_value)))
        and not _ADDITIONS & set(new_middle + suffix)
    )
    if not is_comparable:
        return False
    before, after = " ".join(prefix), " ".join(suffix)
    if _ONE_VALUE.search(before):
        return True
    is_one_of_a_kind = bool(_ONE_OF_A_KIND.search(before)) or bool(not before and _ONE_NAMED_AFTER.search(after))
    return (new.is_change or is_one_of_a_kind) and cosine >= SAME_KIND_COSINE


def _value_and_scope(middle: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a value up to the first joiner, and where it narrows the statement, what follows:
    `Rust for systems` gives (`Rust`, `for systems`)."""
    at = next((index for index, word in enumerate(middle) if word in _JOINERS), len(middle))
    rest = list(middle[at:])
    return list(middle[:at]), rest if rest and rest[0] in _SCOPES else []


def _differing_middle(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """(common prefix, the old middle, the new middle, common suffix) of two word sequences."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return (
        list(old[:start]),
        list(old[start : len(old) - end]),
        list(new[start : len(new) - end]),
        list(old[len(old) - end :]),
    )
