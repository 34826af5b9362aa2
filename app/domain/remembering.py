"""What of a chat is worth remembering: what the user says of themselves in it, never what was put there for them."""

import re
from collections.abc import Sequence

from app.domain.chat import Chat
from app.domain.extraction import MAX_WORDS, MIN_WORDS, statements_in
from app.domain.hypotheses import Turn
from app.domain.memory import Draft, MemoryType
from app.domain.summaries import sentences
from app.domain.wording import normalise, words

SOURCE = "chat"

MAX_SAID = 4_000
"""Characters of a message; a longer one is a text that the user works on rather than one they say."""

HISTORY_CONFIDENCE = 0.6

_FIRST_PERSON = frozenset("i i'm i've i'd i'll my mine me we we're we've our ours us".split())
_NOT_SAID = re.compile(r"</?memory\b|^\s*#{1,6} Task:", re.IGNORECASE)
"""Marks of texts that no user typed: a prompt's own fences, and the tasks that frontends give a model beside the
conversation (a title for it, say)."""


def new_turns(chat: Chat) -> list[Turn]:
    """What the user says in this request and did not say in an earlier one: their messages behind the last answer."""
    turns: list[Turn] = []
    for message in reversed(chat.messages):
        if message.role != "user":
            if message.role in {"assistant", "tool", "function"}:
                break
            continue
        if message.text and len(message.text) <= MAX_SAID and not is_made(message.text):
            turns.append(Turn("user", message.text.replace("\0", " ")))
    return turns[::-1]


def is_made(text: str) -> bool:
    """Whether a message was made by a program rather than typed."""
    return _NOT_SAID.search(text) is not None


def drafts_of(turns: Sequence[Turn]) -> list[Draft]:
    """Memories for what the user states: typed where the type is plain, else as something that happened. Questions,
    requests and fragments give none."""
    drafts: list[Draft] = []
    for turn in turns:
        typed = [each for each in statements_in(turn.content, SOURCE) if not _is_asking(words(each.content))]
        drafts += typed
        known = {normalise(draft.content) for draft in typed}
        for sentence in sentences(turn.content):
            plain = " ".join(sentence.split())
            spoken = words(plain)
            if plain.endswith("?") or normalise(plain) in known or not MIN_WORDS <= len(spoken) <= MAX_WORDS:
                continue
            if _FIRST_PERSON & set(spoken) and not _is_asking(spoken):
                drafts.append(Draft(MemoryType.HISTORY, plain, HISTORY_CONFIDENCE, source=SOURCE, quote=plain))
    return drafts


def _is_asking(spoken: Sequence[str]) -> bool:
    """Whether a sentence without a question mark asks for something all the same."""
    asking = "what which who where when why how can could would will do does did is are should please tell give show"
    return spoken[0] in asking.split() or spoken[:2] in (["help", "me"], ["let", "me"], ["remind", "me"])
