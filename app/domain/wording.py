"""What words carry: content words, names, numbers, negation. English first; other scripts degrade to words."""

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’.+#-][^\W_]+)*[+#]{0,2}")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_THOUSANDS = re.compile(r"(?<=\d)[.,](?=\d{3}(?!\d))")

STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be because been before being but by can could did do
    does doing for from get got had has have having he her here hers him his how i if in into is it its just let
    like ll m me more most my need no nor not now of on once only or other our ours out over own please re s same
    she should so some such t than that the their theirs them then there these they this those through to too
    under until up us use used uses using ve very want wants was we were what when where which while who whom why
    will with would you your yours user""".split()
)

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER_WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}

NEGATIONS = frozenset(
    """not no never none nothing without neither nor cannot avoid avoids stop stopped stops quit dislike dislikes
    hate hates against except isn't aren't wasn't weren't don't doesn't didn't won't wouldn't can't
    couldn't shouldn't haven't hasn't hadn't ain't isnt arent wasnt werent dont doesnt didnt wouldnt cant
    couldnt shouldnt havent hasnt hadnt""".split()
)
# What opens a denial: of a fact, of a habit, of a thing left behind or ranked second.
_DENIAL = re.compile(
    rf"\b(?:{'|'.join(sorted(NEGATIONS, key=len, reverse=True))}|(?:gave|given|giving) up|"
    r"(?:i|we|he|she|they|user) used to|instead of|rather than|(?P<ranked>prefer[^,.;]*? )over|"
    r"(?:i|we)(?:'m|'re|'ve| am| are| have)? (?:(?:just|now|already|finally) )?"
    r"(?:drop|dropped|dropping|ditch|ditched|ditching|abandoned|abandoning|retired|retiring|left|leaving)|"
    r"(?:got|getting|get) rid of|done with|"
    r"(?P<away>(?:switch|mov|migrat|chang)(?:ed|ing) (?:away )?(?:from|off)|away from))\b(?! (?:only|just)\b)",
    re.IGNORECASE,
)
# What closes it: the end of a sentence, or a new clause. A list goes on.
_CLAUSE_END = re.compile(
    r"[.;!?]\s|\n|\b(?:but|because|since)\b|"
    r"(?:,|\band\b)\s*(?=(?:and |now )?(?:i|we|it|he|she|they|you|my|our|only|just|use|prefer|always)\b)",
    re.IGNORECASE,
)

_ENDING = re.compile(r"(?<=\w\w)(?:(?<=(\w))\1ing|(?<=(\w))\2ed|ing|ed|es|e|s|'s)$")
_TO = re.compile(r"\bto\b", re.IGNORECASE)

# Names of days and months are names in lower case too, but for `march` and `may`, which are more often verbs.
_CALENDAR = frozenset(
    """monday tuesday wednesday thursday friday saturday sunday january february april june july august september
    october november december""".split()
)


def words(text: str) -> list[str]:
    """The words of `text` in order, lower-cased, with their inner apostrophes, dots and plus signs."""
    return [word.lower() for word in _written_words(text)]


def _written_words(text: str) -> list[str]:
    return [match.group().replace("’", "'") for match in _WORD.finditer(_composed(text))]


def _composed(text: str) -> str:
    """One Unicode form for letters with marks, which would be two words otherwise."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def content_words(text: str) -> list[str]:
    """The words that carry meaning: without function words and single letters other than digits."""
    return [
        word
        for word in words(text)
        if word not in STOP_WORDS and word not in NEGATIONS and (len(word) > 1 or word.isdigit())
    ]


def numbers(text: str) -> frozenset[str]:
    """The numbers in `text`, as digits without separators of thousands; `twenty-five` counts as 25."""
    digits = {_THOUSANDS.sub("", number) for number in _NUMBER.findall(text)}
    return frozenset(digits | _spelled_numbers(words(text)))


def _spelled_numbers(spoken: Sequence[str]) -> set[str]:
    found: set[str] = set()
    total, current, is_open = 0, 0, False
    for word in [part for each in spoken for part in each.split("-")] + [""]:
        value = _NUMBER_WORDS.get(word)
        is_next = current % 100 == 0 or (current % 100 >= 20 and current % 10 == 0 and value is not None and value < 10)
        if value is not None and is_next:
            current, is_open = current + value, True
        elif word == "hundred":
            current, is_open = 100 * max(1, current), True
        elif word in _SCALES:
            total, current, is_open = total + _SCALES[word] * max(1, current), 0, True
        elif word == "and" and is_open and (current >= 100 or total):
            continue
        else:
            if is_open:
                found.add(str(total + current))
            total, current, is_open = 0, value or 0, value is not None
    return found


def stem(word: str) -> str:
    """`word` without its commonest English endings, so that `use` and `using` are one."""
    return _ENDING.sub("", word)


def has_negation(text: str) -> bool:
    """Whether `text` denies, stops or dislikes something."""
    return _DENIAL.search(_composed(text).replace("’", "'")) is not None


def affirmed_and_denied(text: str) -> tuple[str, str]:
    """The part of `text` that holds and the part it denies: `I use Azure, not AWS` gives (`I use Azure,`,
    `not AWS`). A denial reaches to the end of its clause.
    """
    plain = _composed(text).replace("’", "'")
    affirmed: list[str] = []
    denied: list[str] = []
    at = 0
    while opening := _DENIAL.search(plain, at):
        closing = _CLAUSE_END.search(plain, opening.end())
        end = closing.start() if closing else len(plain)
        if opening["away"] and (towards := _TO.search(plain, opening.end(), end)):
            end = towards.start()
        start = opening.end("ranked") if opening["ranked"] else opening.start()
        affirmed.append(plain[at:start])
        denied.append(plain[start:end])
        at = end
    return " ".join([*affirmed, plain[at:]]), " ".join(denied)


def names(text: str) -> frozenset[str]:
    """Words written as names, lower-cased: capitalised or with inner capitals, days and months in any case,
    every word of a script without capitals, and signs such as emoji.

    A capitalised word that opens a sentence counts unless it is a function word: it may be a name, and
    taking a name for a common word is the costlier mistake where two memories are compared.
    """
    found = {sign for sign in text if unicodedata.category(sign) == "So"} if not text.isascii() else set[str]()
    for word in _written_words(text):
        lowered = word.lower()
        if not (lowered != word or lowered in _CALENDAR or any(_has_no_case(letter) for letter in word)):
            continue
        if lowered in STOP_WORDS or lowered in NEGATIONS or lowered.split("'")[0] in STOP_WORDS:
            continue
        found.add(lowered)
    return frozenset(found)


def _has_no_case(letter: str) -> bool:
    return letter.isalpha() and letter.lower() == letter.upper()


def normalise(text: str) -> str:
    """One spelling for texts that differ only in case, spacing, Unicode form or closing punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(" .!;,")


def snippet(text: str, max_words: int = 16) -> str:
    """The beginning of `text` on one line, at most `max_words` words, with an ellipsis where cut."""
    parts = text.split()
    if len(parts) <= max_words:
        return " ".join(parts).rstrip(".!;, ")
    return " ".join(parts[:max_words]).rstrip(".!;,:- ") + "…"


_SECOND_PERSON = {
    "i": "you",
    "i'm": "you're",
    "i've": "you've",
    "i'd": "you'd",
    "i'll": "you'll",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "our": "your",
    "ours": "yours",
    "am": "are",
}
_OPENINGS = re.compile(
    r"^(?:(?:hi|hello|hey|ok|okay|so|well|please)\b[,!]?\s*|(?:can|could|would|will) you\s+(?:please\s+)?|"
    r"(?:i\s+(?:want|need|would like|wish)|i['’]d like)\s+(?:(?:you\s+)?to\s+|(?=(?:an?|the|some|help)\b))|"
    r"help me\s+(?:to\s+)?(?!(?:with|on|in|out|please|find out)\b)(?=[a-z])|let['’]?s\s+)+",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"(?:what|which|who|whose|whom|where|when|why|how)\b|(?:do|have)\s+(?:i|we|you|they)\b|"
    r"(?:is|are|does|did|can|could|should|would|will|was|were|has|am|may)\s+\w",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"(?:i|we|he|she|it|they|there|this|that|these|those|my|our|the|no|nothing|something|everything)(?:['’]\w+)?\s",
    re.IGNORECASE,
)


def as_request(text: str, max_words: int = 14) -> str:
    """`text` as an imperative addressed to the assistant and worded to the user: `deploy my app` gives
    `Deploy your app`. Greetings and politeness go; long inputs are cut after `max_words` words; questions and
    statements are quoted: `Answer “what is love?”`, `Help with “it is slow”`.
    """
    whole = " ".join(text.split())
    line = snippet(_OPENINGS.sub("", whole).rstrip(" ?.!"), max_words)
    if not any(letter.isalnum() for letter in line):
        return f"Answer “{snippet(whole, max_words)}”" if whole else "Answer"
    if _QUESTION.match(line):
        return f"Answer “{line}?”"
    if _STATEMENT.match(line):
        return f"Help with “{line}”"
    swapped = addressed(line)
    return swapped[:1].upper() + swapped[1:]


def addressed(text: str) -> str:
    """`text` of a user, as said to that user: `for my team` gives `for your team`."""
    return _WORD.sub(lambda match: _SECOND_PERSON.get(match.group().lower().replace("’", "'"), match.group()), text)
