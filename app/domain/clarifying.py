"""One clarifying question in a chat: when it may be asked, how it is put, and how the next turn answers it.

The question is text that every client can show. It is found again by that text, so nothing has to be remembered
between two turns but the hypothesis set in the database.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.chat import Chat
from app.domain.hypotheses import clarification_need
from app.domain.wording import as_request, content_words, normalise, words

OPENING = "Before I answer: which of these do you mean?"
CLOSING = "Reply with a number, or say it in your own words."

MAX_WORDS = 8
"""An input with more content words than this says enough by itself to be answered."""

WORTH_NEED = 0.5
WORTH_SHARE = 0.5
"""A question is put to the user of a chat only when it helps at least so much (clarification need), and when it is at
least this likely that one of its options is meant: people who chat want an answer."""

GUESS_CONFIDENCE = 0.55
GUESS_OPEN = 0.5
"""Where no question is put, the best reading is told as a guess when it is at least so likely, and the input leaves at
least so much open (1 - specificity): a guess that is wrong as often as right is in the way, and what says enough by
itself needs none."""

LEAST_TOKENS = 64
"""A caller who allows fewer tokens than this wants a value, not a conversation."""

_SMALL_TALK = frozenset(
    """hello hi hey hiya howdy greetings morning afternoon evening night good bye goodbye thanks thank thx cheers ok
    okay yes yeah yep no nope sure fine great cool nice perfect wow lol sorry welcome test testing ping lot
    much""".split()
)
_POINTING = frozenset(
    """it its this that these those them they he she him her his one ones again more another also too instead else
    continue shorter longer same above previous last next why go on""".split()
)
_STRUCTURED = (
    """tools functions response_format logprobs prediction audio guided_json guided_regex guided_choice guided_grammar
    structured_outputs grammar json_schema"""
).split()
_ONLY_TEXT = {"type": "text"}

_ORDINALS = "first second third fourth fifth".split()
_NUMBERS = "one two three four five".split()
_POLITE = re.compile(
    r"^(?:(?:i (?:mean|want|choose|pick)|please|the|option|number|no\.?|nr\.?|#)\s*)+|[\s.,!)]+$", re.I
)
_TAIL = re.compile(r"\s+(?:one|option|please|thanks|thank you|of (?:these|those|them))$")
_WITH_MORE = re.compile(r"^(?P<pick>[^,:;–—-]{1,30}?)\s*(?:[,:;–—-]|\b(?:but|and|with)\b)\s*(?P<more>.*\w.*)$", re.S)
_THANKS = frozenset(("please", "thanks", "thank you"))
_NONE = frozenset(
    [
        *("no", "nope", "none", "neither", "nothing", "something else", "not these", "none of the above"),
        *(f"{word} of {which}" for word in ("none", "neither") for which in ("these", "those", "them")),
    ]
)


@dataclass(frozen=True)
class Reply:
    """What a user made of a question: the place of an option (from 0), their own words, or neither, which turns all of
    them down."""

    option: int | None = None
    words: str = ""

    @property
    def is_rejection(self) -> bool:
        """Whether none of the options is meant, and nothing else is said."""
        return self.option is None and not self.words


def put(options: Sequence[str]) -> str:
    """The question with its options, as text."""
    lines = [f"{number}. {option}" for number, option in enumerate(options, start=1)]
    return "\n".join((OPENING, "", *lines, "", CLOSING))


def is_put(text: str) -> bool:
    """Whether an assistant's message is such a question."""
    return _bare(text).startswith(_bare(OPENING))


def is_same(text: str, options: Sequence[str]) -> bool:
    """Whether a message is the question with these options; clients may have changed its spacing or its marks."""
    return _bare(text) == _bare(put(options))


def asked_before(chat: Chat) -> str | None:
    """The question that the last message answers, None where the message before is none."""
    if chat.turn != len(chat.messages) - 1 or len(chat.messages) < 2:
        return None
    before = chat.messages[-2]
    return before.text if before.role == "assistant" and is_put(before.text) else None


def may_ask(chat: Chat) -> bool:
    """Whether a question may be put instead of an answer: the last message is a short one of the user's, of text alone,
    that stands for itself; nothing else than a plain answer is wanted; and a question was not put just before."""
    if chat.turn != len(chat.messages) - 1 or asked_before(chat) is not None:
        return False
    return _is_plain(chat.fields) and chat.messages[-1].is_text and _is_vague(chat)


def may_guess(confidences: Sequence[float], need: float) -> bool:
    """Whether the best of these readings of an input may be told as a guess. `need` is their clarification need."""
    return (
        bool(confidences)
        and confidences[0] >= GUESS_CONFIDENCE
        and need >= GUESS_OPEN * clarification_need(confidences, 0.0)
    )


def _is_plain(fields: Mapping[str, Any]) -> bool:
    if any(fields.get(name) not in (None, False, [], {}, _ONLY_TEXT) for name in _STRUCTURED):
        return False
    allowed = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return fields.get("n") in (None, 1) and not (isinstance(allowed, int) and allowed < LEAST_TOKENS)


def _is_vague(chat: Chat) -> bool:
    text = chat.messages[-1].text
    said = [word for word in content_words(text) if word not in _SMALL_TALK]
    if not 1 <= len(said) <= MAX_WORDS or "\n" in text.strip():
        return False
    spoken = set(words(text))
    is_told = as_request(text).startswith(("Answer", "Help with")) or text.rstrip().endswith("?")
    if is_told and "should" not in spoken:
        return False  # a question is answered, and a statement taken; what is open is what to do
    is_opening = all(message.role != "assistant" for message in chat.messages)
    return is_opening or not spoken & _POINTING


def read_reply(text: str, options: Sequence[str]) -> Reply:
    """How a user's message answers a question: by a number or an ordinal, by an option's own words, by turning all of
    them down, or by something else, which are their own words."""
    picked = _picked(text, options)
    if picked is not None:
        return Reply(picked)
    if normalise(text) in _NONE:
        return Reply()
    parts = _WITH_MORE.match(text.strip())
    if parts is not None and (picked := _numbered(parts["pick"], len(options))) is not None:
        more = parts["more"].strip()
        if normalise(more) in _THANKS:
            return Reply(picked)
        if _numbered(more, len(options)) is None:
            return Reply(picked, more)
    return Reply(words=text.strip())


def _picked(text: str, options: Sequence[str]) -> int | None:
    """The option that the whole of a message stands for: its very words, else its number, else words like its own."""
    picked = _worded(text, options, _spaced)
    if picked is None:
        picked = _numbered(text, len(options))
    return _worded(text, options, normalise) if picked is None else picked


def _worded(text: str, options: Sequence[str], alike: Callable[[str], str]) -> int | None:
    """The option that a message repeats, with or without its number."""
    bare = re.sub(r"^\d{1,2}\s*[.):]\s*", "", alike(text)).rstrip("?")
    return next((place for place, option in enumerate(options) if alike(option).rstrip("?") == bare), None)


def _spaced(text: str) -> str:
    return " ".join(text.casefold().split())


def _numbered(text: str, count: int) -> int | None:
    said = _POLITE.sub("", normalise(text))
    said = _POLITE.sub("", _TAIL.sub("", said)).strip(" .)(#")
    if said == "last":
        return count - 1
    for names in (_ORDINALS, _NUMBERS):
        if said in names:
            said = str(names.index(said) + 1)
    number = re.fullmatch(r"(\d{1,2})(?:st|nd|rd|th)?", said)
    return int(number[1]) - 1 if number and 1 <= int(number[1]) <= count else None


def _bare(text: str) -> str:
    """Letters and digits alone."""
    return "".join(character for character in text.casefold() if character.isalnum())
