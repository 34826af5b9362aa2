"""How long the service and mem0 take with the same memories in the same run, without embedding; and bytes a memory.

One user has all memories, on every side: the turns of all conversations, and where these are too few the same again
with words changed. Most of them are there before anything is timed, both databases vacuumed and analysed, and the
service's worker has made the user's graph. The last ones are added one by one, then questions are searched for; all
sides do the same one after the other, in random order.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TypeVar

import numpy as np
from rich.progress import Progress

from app.domain.memory import Draft
from benchmarks.memory_quality.data import Conversation
from benchmarks.memory_quality.ours import BATCH, House, draft_of
from benchmarks.memory_quality.peer import Peer
from benchmarks.memory_quality.sides import Ours, Side, Theirs
from benchmarks.report import Seconds
from benchmarks.scale.data import Vocabulary, perturbed

WARM_UP = 20
Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    """How many memories there are in the end, how many of them are added one by one, and how many questions asked."""

    memories: int = 5_882
    """The turns of LoCoMo's ten conversations."""
    added: int = 300
    asked: int = 300


QUICK = Plan(200, 30, 30)


@dataclass(frozen=True)
class Measured:
    """Of each side: seconds of adds and of searches, and bytes a memory."""

    memories: int
    turns: int
    """How many of the memories are turns as they were said."""
    added: Mapping[str, Seconds]
    searched: Mapping[str, Seconds]
    sizes: Mapping[str, float]


async def measure_latency(
    house: House, peers: Mapping[str, Peer], conversations: Sequence[Conversation], plan: Plan, progress: Progress
) -> Measured:
    """Time the service ("ours") and mem0 by its names."""
    random = Random(1)
    drafts = memories_of(conversations, plan.memories, random)
    asked = [question.text for conversation in conversations for question in conversation.questions]
    queries = random.choices(asked, k=WARM_UP) + random.choices(asked, k=plan.asked)
    await house.embedder.embed([*(draft.content for draft in drafts), *queries])
    sides: dict[str, Side] = {"ours": Ours(house)}
    for name, peer in peers.items():
        await peer.open("timed_" + name.replace("/", "_"))
        sides[name] = Theirs(peer)
    held, one_by_one = drafts[: -plan.added], drafts[-plan.added :]
    sizes = {name: await _fill(side, held, progress) / len(held) for name, side in sides.items()}
    turns = min(len(drafts), sum(len(conversation.turns) for conversation in conversations))
    added = await _in_turns(sides, one_by_one, lambda side, draft: side.add([draft]), random, progress)
    searched = await _in_turns(sides, queries, lambda side, query: side.search(query), random, progress)
    searched = {name: seconds[WARM_UP:] for name, seconds in searched.items()}
    return Measured(len(drafts), turns, added, searched, sizes)


def memories_of(conversations: Sequence[Conversation], wanted: int, random: Random) -> list[Draft]:
    """So many turns as memories of one user, each conversation in sessions of its own; when all are told, they are told
    again with words changed."""
    said = [(conversation.name, turn) for conversation in conversations for turn in conversation.turns]
    vocabulary = Vocabulary.of([turn.text for _, turn in said])
    made: list[Draft] = []
    for again in count():
        for name, turn in said[: wanted - len(made)]:
            text = perturbed(turn.text, vocabulary, random) if again else turn.text
            made.append(draft_of(turn, text, f"{name}/{again}/{turn.session}"))
        if len(made) == wanted or not said:
            break
    return made


async def _fill(side: Side, drafts: Sequence[Draft], progress: Progress) -> int:
    """Have a side remember everything; the bytes this takes."""
    bar = progress.add_task("memories for the clock", total=len(drafts))
    before = await side.size()
    for start in range(0, len(drafts), BATCH):
        part = drafts[start : start + BATCH]
        await side.add(part)
        progress.advance(bar, len(part))
    await side.settle()
    return await side.size() - before


async def _in_turns(
    sides: Mapping[str, Side],
    items: Sequence[Item],
    call: Callable[[Side, Item], Awaitable[float]],
    random: Random,
    progress: Progress,
) -> dict[str, Seconds]:
    """The seconds of a call with each item on every side; which side is first is random."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for item in progress.track(items, description="timing " + ", ".join(sides)):
        for name in random.sample(sorted(sides), len(sides)):
            took[name].append(await call(sides[name], item))
    return {name: np.array(each) for name, each in took.items()}
