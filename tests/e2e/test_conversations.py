"""Whole conversations: nothing one user said ever reaches another, in no hypothesis and in no prompt.

Every speaker is a user, every turn a HISTORY memory; then turns are asked about and executed. The texts that
come back are searched for the words of all other users. `LOCOMO_FILE` names a further file in LoCoMo's layout;
`LOCOMO_TURNS` is how many turns are asked about, 300 or `all`.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from app.domain.memory import Draft, MemoryType
from app.services.choices import ExecuteRequest
from app.services.keys import DEFAULT_TENANT
from app.settings import Settings
from app.store.engine import Database
from app.wiring import open_services
from tests.servers import open_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

DEMO = Path(__file__).parents[2] / "data" / "demo" / "conversation.json"
FILES = [DEMO, *(Path(name) for name in [os.environ.get("LOCOMO_FILE")] if name)]
TURNS = os.environ.get("LOCOMO_TURNS", "300")
LEAST_WORDS = 4
SNIPPET_WORDS = 16
"""Hypotheses quote the beginning of a memory, at most so many words of it."""


@dataclass(frozen=True)
class Said:
    """One turn of a conversation."""

    user: str
    content: str
    at: datetime


def turns_of(file: Path) -> list[Said]:
    """Every turn of every sample, oldest first within a sample."""
    turns: list[Said] = []
    for sample in orjson.loads(file.read_bytes()):
        conversation = sample["conversation"]
        for number in range(1, len(conversation)):
            for turn in conversation.get(f"session_{number}") or ():
                at = datetime.strptime(conversation[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y")
                if turn.get("text", "").strip():
                    turns.append(Said(f"{sample['sample_id']}/{turn['speaker']}", turn["text"], at.replace(tzinfo=UTC)))
    return turns


def words_of(said: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", unescape(said).lower()))


def quotable(content: str) -> set[tuple[str, ...]]:
    """What of a memory would give it away: all of it, its beginning as a hypothesis quotes it, each sentence
    as a summary takes it; nothing shorter than LEAST_WORDS."""
    whole = " ".join(content.split())
    parts = [whole, " ".join(whole.split()[:SNIPPET_WORDS]), *re.findall(r"[^.!?\n]+", content)]
    return {words for part in parts if len(words := words_of(part)) >= LEAST_WORDS}


class Eavesdropper:
    """Finds the words of other users in a text."""

    def __init__(self, turns: Iterable[Said]) -> None:
        self._owners: dict[tuple[str, ...], set[str]] = {}
        self._starts: dict[tuple[str, ...], set[int]] = {}
        self._own: dict[str, str] = {}
        for turn in turns:
            self._own[turn.user] = f"{self._own.get(turn.user, ' ')}{' '.join(words_of(turn.content))} "
            for words in quotable(turn.content):
                self._owners.setdefault(words, set()).add(turn.user)
                self._starts.setdefault(words[:LEAST_WORDS], set()).add(len(words))

    def overhears(self, user: str, texts: Iterable[str]) -> Iterator[str]:
        """The words of others in texts made for a user, who never said these words themselves."""
        for each in texts:
            words = words_of(each)
            for at in range(len(words) - LEAST_WORDS + 1):
                for length in self._starts.get(words[at : at + LEAST_WORDS], ()):
                    quoted = words[at : at + length]
                    owners = self._owners.get(quoted)
                    if owners and user not in owners and f" {' '.join(quoted)} " not in self._own[user]:
                        yield " ".join(quoted)


def sampled(turns: Sequence[Said]) -> list[Said]:
    """TURNS of the turns, the same ones each time."""
    if TURNS == "all" or len(turns) <= int(TURNS):
        return list(turns)
    return random.Random(7).sample(list(turns), int(TURNS))


def test_an_eavesdropper_would_be_heard() -> None:
    """The check itself: it finds a whole memory, its beginning and a sentence of it, escaped or not, and does
    not mind what the user said too."""
    bob = Said("bob", "Yesterday I bought a blue canoe & two paddles. It floats very well!", datetime.now(UTC))
    ada = Said("ada", "My boat floats very well, it floats very well indeed", datetime.now(UTC))
    check = Eavesdropper([bob, ada])
    fenced = '<memory type="HISTORY">Yesterday I bought a blue canoe &amp; two paddles. It floats…</memory>'
    assert list(check.overhears("ada", [f"Sail, following on from “{bob.content}”?"]))
    assert list(check.overhears("ada", [fenced]))
    assert list(check.overhears("bob", ["My boat floats very well, it floats very well indeed"]))
    assert not list(check.overhears("bob", [fenced]))
    assert not list(check.overhears("ada", ["It floats very well.", "I bought a red canoe"]))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_nobody_hears_another(file: Path) -> None:
    """Over the turns of a file: no question, rationale or prompt made for a user holds words of another, and
    every memory it rests on is the user's own."""
    turns = turns_of(file)
    eavesdropper = Eavesdropper(turns)
    asked = sampled(turns)
    counts: Counter[str] = Counter(users=len({turn.user for turn in turns}), turns=len(turns))
    leaks: list[tuple[str, str]] = []
    used: list[tuple[str, str]] = []
    with open_folder() as folder:
        settings = Settings(_env_file=None, data_dir=folder, database_url=None)
        async with open_services(settings) as services:
            for user in {turn.user for turn in turns}:
                own = [Draft(MemoryType.HISTORY, t.content, valid_from=t.at) for t in turns if t.user == user]
                for start in range(0, len(own), 250):
                    await services.memories.add(DEFAULT_TENANT, user, own[start : start + 250])
            for turn in asked:
                made = await services.hypotheses.hypothesize(DEFAULT_TENANT, turn.user, turn.content)
                chosen = made.hypotheses[0].id if made.hypotheses else None
                request = ExecuteRequest(turn.content, made.set_id, chosen)
                prompt = (await services.context.execute(DEFAULT_TENANT, turn.user, request)).prompt
                texts = [each for one in made.hypotheses for each in (one.question, one.request, one.rationale)]
                texts += [prompt.text, *(message["content"] for message in prompt.messages)]
                leaks += [(turn.user, words) for words in eavesdropper.overhears(turn.user, texts)]
                evidence = [str(each) for one in made.hypotheses for each in one.evidence]
                in_prompt = [str(use.memory_id) for use in prompt.uses]
                used += [(turn.user, memory_id) for memory_id in (*evidence, *in_prompt)]
                counts.update(inputs=1, hypotheses=len(made.hypotheses), evidence=len(evidence), uses=len(in_prompt))
                counts.update({made.decision: 1, "from the cohort": sum(o.origin == "cohort" for o in made.hypotheses)})
            owners = await _owners(services.database)
    counts["foreign memories"] = sum(owners[memory_id] != user for user, memory_id in used)
    counts["leaks"] = len(leaks)
    print(f"\n{file.name}: {dict(counts)}")
    assert counts["evidence"] > 0 < counts["uses"]
    assert leaks == []
    assert counts["foreign memories"] == 0


async def _owners(database: Database) -> Mapping[str, str]:
    """Whose each memory is."""
    async with database.begin(DEFAULT_TENANT) as connection:
        rows = await connection.execute(text("SELECT memory_id, user_id FROM memories"))
        return {str(row.memory_id): row.user_id for row in rows}
