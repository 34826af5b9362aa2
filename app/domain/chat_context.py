"""What memory adds to a chat, and where: what holds for the user before the first thing they say, what this turn calls
for before the last, what they mean behind it.

The first part is the same from turn to turn while nothing about the user changes, and is not there where nothing holds;
all else is in the last message, so an upstream's prefix cache finds all that is before that again. What is recalled
stands in front of the question and not behind it, because small models answer better so. All goes into messages of the
user's own: no message is added, so none comes between a tool call and its result, and a model whose template takes one
system message at the beginning, or none, is served too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from app.domain.chat import Addition, Chat
from app.domain.memory import Memory, MemoryType
from app.domain.prompt import SAFETY, fence, fence_quotations
from app.domain.ranking import Ranked
from app.domain.redaction import redact
from app.domain.wording import normalise

CountTokens = Callable[[str], int]

STANDING = (MemoryType.STYLE, MemoryType.CONSTRAINT)
"""What holds whatever is asked."""

STANDING_SHARE = 0.5
"""Most of the budget that it may take."""

RECALLED = 8
"""Most memories that a turn calls for."""

MIN_SIMILARITY = 0.25
MIN_SHARE = 0.5
"""A memory whose nearness to what is asked is below MIN_SIMILARITY, or below this share of the best one's, is left
out."""

STANDING_TITLE = "## How the user wants it"
RECALLED_TITLE = "## What the user said before"


@dataclass(frozen=True)
class Meant:
    """What a user means, in one sentence (None: what they wrote says it all). Where it `is_said`, the conversation says
    it in so many words, and it need not be told again; where it `is_guess`, nobody settled on it: it is told as no more
    than that, and nothing is learned from it."""

    sentence: str | None = None
    is_said: bool = False
    is_guess: bool = False


@dataclass(frozen=True)
class Known:
    """What is known when a chat comes: how the user likes to be answered, a sentence each; the memories of the types
    in STANDING, oldest first; those that what is asked calls for, best first; what the user means."""

    persona: Sequence[str]
    standing: Sequence[Memory]
    recalled: Sequence[Ranked]
    meant: Meant = Meant()


@dataclass(frozen=True)
class Context:
    """The texts to add, how many tokens they have together, and which memories are in them."""

    additions: tuple[Addition, ...]
    tokens: int
    memory_ids: tuple[UUID, ...]


NOTHING = Context((), 0, ())


def make_context(chat: Chat, known: Known, token_budget: int, count: CountTokens) -> Context:
    """What to add, with at most `token_budget` tokens in all.

    What stands before the first message depends on nothing that this turn calls for, and not on the room that takes.
    What the conversation says itself is not said again: so what a user has just stated, and is remembered meanwhile,
    changes nothing in front of it. Lines that do not fit are left out whole, and so is a meaning.
    """
    turn = chat.turn
    first = next((place for place, each in enumerate(chat.messages) if each.role == "user" and each.content), None)
    if turn is None or first is None or chat.messages[turn].content is None:
        return NOTHING
    said = "\n".join(normalise(message.text) for message in chat.messages)
    front, held_ids = _front(known, said, token_budget, count)
    recalled = [item.memory for item in relevant(known.recalled) if normalise(item.memory.content) not in said]
    left = token_budget - count(front)
    before, behind, picked_ids = _called_for(recalled, _meaning(known, chat), left, count, is_safe=bool(front))
    additions = [
        Addition(place, text, is_before=is_before)
        for place, text, is_before in ((first, front, True), (turn, before, True), (turn, behind, False))
        if text
    ]
    tokens = sum(count(each.text) for each in additions)
    return Context(tuple(additions), tokens, (*held_ids, *picked_ids))


def _front(known: Known, said: str, token_budget: int, count: CountTokens) -> tuple[str, list[UUID]]:
    """What the fences mean, with what holds whatever is asked, and which memories are in it; "" where nothing does."""
    standing = [memory for memory in known.standing if normalise(memory.content) not in said]
    lines = [redact(line).text for line in known.persona]
    room = int((token_budget - count(SAFETY)) * STANDING_SHARE)
    held, held_ids = _fitted(STANDING_TITLE, lines, standing, room, count)
    front = f"{SAFETY}\n\n{held}"
    return (front, held_ids) if held and count(front) <= token_budget else ("", [])


def _called_for(
    recalled: Sequence[Memory], meaning: str, token_budget: int, count: CountTokens, *, is_safe: bool
) -> tuple[str, str, list[UUID]]:
    """What a turn calls for: before its message, behind it, and which memories are in the former. What the fences mean
    is in front of the first of them, unless it `is_safe`: told already."""
    room = token_budget
    while True:
        # Picked by rank, told by age: a score that moves a little moves nothing.
        left = room - count(meaning) - (0 if is_safe else count(SAFETY) + 2)
        picked, picked_ids = _fitted(RECALLED_TITLE, [], recalled, left, count, is_by_age=True)
        before = picked if is_safe or not picked else f"{SAFETY}\n\n{picked}"
        is_told = is_safe or bool(picked) or "<memory" not in meaning
        behind = meaning if is_told else f"{SAFETY}\n\n{meaning}"
        over = count(before) + count(behind) - token_budget
        if over <= 0 or not (picked or meaning):
            return before, behind, picked_ids
        if picked:  # pieces put together can have a few tokens more than the pieces
            room -= over
        else:
            room, meaning = token_budget, ""


def relevant(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Those that what is asked calls for, best first; what holds in any case is told elsewhere."""
    best = max((item.nearness for item in ranked), default=0.0)
    least = max(MIN_SIMILARITY, MIN_SHARE * best)
    found = [item for item in ranked if item.nearness >= least and item.memory.type not in STANDING]
    return found[:RECALLED]


def _meaning(known: Known, chat: Chat) -> str:
    """What the user means, with all fenced that it quotes and they did not say in this chat."""
    meant = known.meant
    if meant.sentence is None or meant.is_said:
        return ""
    facts = [(item, redact(item.memory.content).text) for item in known.recalled]
    opening = "I probably mean" if meant.is_guess else "I mean"
    own = "\n".join(message.text for message in chat.messages if message.role == "user")
    return f"{opening}: {fence_quotations(redact(meant.sentence).text, facts, redact(own).text)}"


def _fitted(
    title: str,
    lines: Sequence[str],
    memories: Sequence[Memory],
    budget: int,
    count: CountTokens,
    *,
    is_by_age: bool = False,
) -> tuple[str, list[UUID]]:
    """A title with the lines and memories that fit, in order, and which memories these are; "" where none does."""
    left = budget - count(title) - 2
    taken = list[str]()
    kept = list[tuple[Memory, str]]()
    for line in lines:
        cost = count(line) + 1
        if cost <= left:
            taken.append(line)
            left -= cost
    for memory in memories:
        line = fence(memory, redact(memory.content).text)
        cost = count(line) + 1
        if cost <= left:
            kept.append((memory, line))
            left -= cost
    if is_by_age:
        kept.sort(key=lambda pair: (pair[0].valid_from, pair[0].memory_id.int))
    if not taken and not kept:
        return "", []
    return "\n".join((title, *taken, *(line for _, line in kept))), [memory.memory_id for memory, _ in kept]
