"""What words carry: content words, names, numbers, negation. English first; other scripts degrade to words."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+(?:['’.+#-][^\W_]+)*[+#]{0,2}")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*|[\"“(]\s*)$")

STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be because been before being but by can could did do
    does doing for from get got had has have having he her here hers him his how i if in into is it its just let
    like ll m me more most my need no nor not now of on once only or other our ours out over own please re s same
    she should so some such t than that the their theirs them then there these they this those through to too
    under until up us use ve very want was we were what when where which while who whom why will with would you
    your yours user""".split()
)

_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}

_NEGATIONS = frozenset(
    """not no never none nothing without neither nor cannot avoid avoids stop stopped stops quit dislike dislikes
    hate hates against except longer isn't aren't wasn't weren't don't doesn't didn't won't wouldn't can't
    couldn't shouldn't haven't hasn't hadn't ain't""".split()
)


def words(text: str) -> list[str]:
    """The words of `text` in order, lower-cased, with their inner apostrophes, dots and plus signs."""
    return [match.group().lower().replace("’", "'") for match in _WORD.finditer(text)]


def content_words(text: str) -> list[str]:
    """The words that carry meaning: without function words and single letters other than digits."""
    return [
        word
        for word in words(text)
        if word not in STOP_WORDS and word not in _NEGATIONS and (len(word) > 1 or word.isdigit())
    ]


def numbers(text: str) -> frozenset[str]:
    """The numbers in `text`, as digits; `two` counts as 2."""
    spelled = {_NUMBER_WORDS[word] for word in words(text) if word in _NUMBER_WORDS}
    return frozenset(_NUMBER.findall(text)) | spelled


def has_negation(text: str) -> bool:
    """Whether `text` denies, stops or dislikes something."""
    return any(word in _NEGATIONS for word in words(text))


def names(text: str) -> frozenset[str]:
    """Words written as names, lower-cased: capitalised or with inner capitals or digits.

    A capitalised word that opens a sentence counts unless it is a function word: it may be a name, and
    taking a name for a common word is the costlier mistake where two memories are compared.
    """
    found: set[str] = set()
    for match in _WORD.finditer(text):
        word = match.group()
        if not any(letter.isupper() for letter in word):
            continue
        lowered = word.lower()
        if lowered in STOP_WORDS or lowered in _NEGATIONS or lowered.split("'")[0] in STOP_WORDS:
            continue
        found.add(lowered)
    return frozenset(found)


def mid_sentence_names(text: str) -> list[str]:
    """Names that cannot be mere sentence openings, in order and as written, each once."""
    found: dict[str, None] = {}
    for match in _WORD.finditer(text):
        word = match.group()
        is_opening = _SENTENCE_START.search(text[: match.start()]) is not None
        has_inner = any(letter.isupper() for letter in word[1:])
        if word.lower() in STOP_WORDS or len(word) < 2 or word.lower().split("'")[0] in STOP_WORDS:
            continue
        if (word[0].isupper() and not is_opening) or has_inner:
            found.setdefault(word)
    return list(found)


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
    r"^(?:(?:hi|hello|hey|ok|okay|so|well|please)[,!]?\s+|(?:can|could|would|will) you\s+(?:please\s+)?|"
    r"(?:i\s+(?:want|need|would like|'d like|wish)|i'd like)\s+(?:you\s+)?to\s+|help me\s+(?:to\s+)?|let'?s\s+)+",
    re.IGNORECASE,
)


def as_request(text: str, max_words: int = 14) -> str:
    """`text` as an imperative addressed to the assistant and worded to the user: `deploy my app` gives
    `Deploy your app`. Greetings and politeness go; long inputs are cut after `max_words` words.
    """
    line = snippet(_OPENINGS.sub("", " ".join(text.split())).rstrip(" ?.!"), max_words)
    swapped = _WORD.sub(lambda match: _SECOND_PERSON.get(match.group().lower().replace("’", "'"), match.group()), line)
    return swapped[:1].upper() + swapped[1:]
