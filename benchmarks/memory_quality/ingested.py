"""Conversations handed in as chats are (`TurnService.take`): who says something is told apart from what they say, and
statements are made of it beside the turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from app.domain.memory import Memory
from app.domain.turns import SPEAKING, Utterance
from app.services.keys import DEFAULT_TENANT
from app.store.engine import Statements
from benchmarks.memory_quality.data import Conversation, Turn
from benchmarks.memory_quality.measures import Answer
from benchmarks.memory_quality.ours import Cost, House
from benchmarks.memory_quality.support import Derived, is_told

_DERIVED = """
SELECT content, quote, source FROM memories
WHERE tenant_id = $1 AND user_id = $2 AND source LIKE 'turn:%' ORDER BY source, content
"""


@dataclass(frozen=True)
class Support:
    """Of memories that were made of turns, how many there are, and those that no turn tells."""

    derived: int = 0
    untold: tuple[Derived, ...] = ()

    def __add__(self, other: "Support") -> "Support":
        return Support(self.derived + other.derived, (*self.untold, *other.untold))


async def answer_ingested(house: House, conversation: Conversation) -> tuple[list[Answer], Cost, Support]:
    """What a search by default finds for each question about a conversation that was handed in; what that cost; and
    whether what was made of it was said."""
    user = f"{conversation.name}, handed in"
    sessions = {str(session): list(turns) for session, turns in groupby(conversation.turns, lambda turn: turn.session)}
    speakers = list(dict.fromkeys(turn.speaker for turn in conversation.turns))
    said = {
        session: [utterance_of(turn, is_user=turn.speaker == speakers[0]) for turn in turns]
        for session, turns in sessions.items()
    }

    async def take() -> None:
        for session, utterances in said.items():
            await house.services.turns.take(DEFAULT_TENANT, user, utterances, session)

    _, cost = await house.costing(len(conversation.turns), take)
    places = Places.of(conversation)
    answers = await house.answers(conversation, user, places.of_memory)
    return answers, cost, await support_of(house, user, list(said.items()))


def utterance_of(turn: Turn, *, is_user: bool) -> Utterance:
    """A turn as a message: of two people who talk, the one who began is the user and the other one answers."""
    role = turn.speaker if turn.speaker in SPEAKING else "user" if is_user else "assistant"
    return Utterance(role, turn.said, turn.said_at, turn.speaker)


@dataclass(frozen=True)
class Places:
    """Where the turns of a conversation are: by session and number, and by what else was said in the same words."""

    numbered: dict[tuple[str, int], int]
    worded: dict[tuple[str, str, str], list[int]]

    @classmethod
    def of(cls, conversation: Conversation) -> "Places":
        """Those of a conversation."""
        numbered: dict[tuple[str, int], int] = {}
        worded: dict[tuple[str, str, str], list[int]] = {}
        numbers: dict[str, int] = {}
        for at, turn in enumerate(conversation.turns):
            session = str(turn.session)
            numbers[session] = numbers.get(session, 0) + 1
            numbered[session, numbers[session]] = at
            worded.setdefault((session, turn.speaker, turn.said), []).append(at)
        return cls(numbered, worded)

    def of_memory(self, memory: Memory) -> list[int]:
        """The turns that a memory is or was made of; a turn said twice in a session is one memory."""
        if memory.session is not None and memory.turn is not None:
            at = [self.numbered[memory.session, memory.turn]]
            return self.worded.get((memory.session, memory.speaker or "", memory.content), at)
        session, turn = turn_of(memory.source)
        return [self.numbered[session, turn]]


def turn_of(source: str) -> tuple[str, int]:
    """The session and the number of the turn that a source names: `turn:SESSION:NUMBER`."""
    session, _, number = source.removeprefix("turn:").rpartition(":")
    return session, int(number)


async def support_of(house: House, user: str, said: Sequence[tuple[str, Sequence[Utterance]]]) -> Support:
    """Whether a user's memories that were made of turns are told by them; `said`: session after session."""
    async with house.services.database.begin(DEFAULT_TENANT) as connection:
        rows = await (await Statements.of(connection)).fetch(_DERIVED, DEFAULT_TENANT, user)
    derived = [Derived(row["content"], row["quote"], *turn_of(row["source"])) for row in rows]
    order = [(session, at) for session, each in said for at in range(1, len(each) + 1)]
    texts = [utterance.content for _, each in said for utterance in each]
    places = {key: place for place, key in enumerate(order)}
    untold = [
        each for each in derived if not is_told(each, texts[place := places[each.session, each.turn]], texts[:place])
    ]
    return Support(len(derived), tuple(untold))
