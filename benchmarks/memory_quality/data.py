"""Conversations in LoCoMo's layout: dated sessions of turns, and questions with the turns that answer them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np

from app.domain.embeddings import Vectors

CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open", 4: "single_hop", 5: "adversarial"}
_SESSION = re.compile(r"session_(\d+)")
_TURN = re.compile(r"D(\d+):(\d+)")


@dataclass(frozen=True)
class Turn:
    """What was said: the session and the turn's number in it, who said it and when; `text` is what is remembered, the
    same for everybody who is measured."""

    session: int
    number: int
    speaker: str
    text: str
    said_at: datetime
    words: str = ""
    """What was said without the name of who said it, where `text` has it."""

    @property
    def said(self) -> str:
        """What was said, as a chat frontend hands it in: who said it is told apart from it."""
        return self.words or self.text


@dataclass(frozen=True)
class Question:
    """What is asked, of which category, and the positions of the turns that answer it."""

    text: str
    category: str
    evidence: frozenset[int]


@dataclass(frozen=True)
class Conversation:
    """One conversation, and the questions about it that some turn answers."""

    name: str
    turns: Sequence[Turn]
    questions: Sequence[Question]
    is_talk: bool = True
    """Whether the turns were said one after the other; else each is a text of its own, in a session of its own."""

    @property
    def sessions(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The session of each turn."""
        return np.array([turn.session for turn in self.turns])


@dataclass(frozen=True)
class Embedded:
    """Vectors of a conversation's turns, of each turn with its neighbours, and of its questions."""

    turns: Vectors
    windows: Vectors
    questions: Vectors


def data_sets(folder: Path) -> dict[str, list[Conversation]]:
    """The sets in a folder by name: each sub-folder with a file of its own name in LoCoMo's layout."""
    found: dict[str, list[Conversation]] = {}
    for path in sorted(folder.glob("*/*.json")):
        if path.stem == path.parent.name and (read := read_conversations(path)):
            found[path.stem] = read
    return found


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a file; none where it has another layout."""
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, list):
        return []
    items = [cast(Any, item) for item in cast(list[Any], document)]
    if not all(isinstance(item, dict) and "conversation" in item and "qa" in item for item in items):
        return []
    return [_conversation(item, number) for number, item in enumerate(items, 1)]


def windows(conversation: Conversation, reach: int = 1) -> list[str]:
    """Each turn with `reach` turns before and after it in its session, as one text."""
    turns = conversation.turns
    return [
        "\n".join(
            turns[near].text
            for near in range(max(0, at - reach), min(len(turns), at + reach + 1))
            if turns[near].session == turn.session
        )
        for at, turn in enumerate(turns)
    ]


def _conversation(item: Mapping[str, Any], number: int) -> Conversation:
    turns = list(_turns(item["conversation"]))
    by_id = {f"D{turn.session}:{turn.number}": at for at, turn in enumerate(turns)}
    questions: list[Question] = []
    for asked in item["qa"]:
        named = (_TURN.findall(str(each)) for each in asked.get("evidence") or ())
        keys = [f"D{int(session)}:{int(turn)}" for pairs in named for session, turn in pairs]
        evidence = frozenset(by_id[key] for key in keys if key in by_id)
        if evidence:
            category = CATEGORIES.get(asked.get("category"), str(asked.get("category", "other")))
            questions.append(Question(str(asked["question"]), category, evidence))
    return Conversation(str(item.get("sample_id", number)), turns, questions)


def _turns(held: Mapping[str, Any]) -> Iterator[Turn]:
    names = sorted((match for key in held if (match := _SESSION.fullmatch(key))), key=lambda match: int(match[1]))
    for match in names:
        session = int(match[1])
        began = _moment(held.get(f"{match.string}_date_time"), session)
        for order, turn in enumerate(held[match.string], 1):
            named = _TURN.fullmatch(str(turn.get("dia_id", "")))
            caption = turn.get("blip_caption")
            words = str(turn["text"]) + (f" [shares {caption}]" if caption else "")
            number = int(named[2]) if named else order
            speaker = str(turn["speaker"])
            yield Turn(session, number, speaker, f"{speaker}: {words}", began + timedelta(seconds=order), words)


def _moment(text: Any, session: int) -> datetime:
    """When a session began; one that does not say so comes a week after the one before it."""
    for form in ("%I:%M %p on %d %B, %Y", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d (%a) %H:%M", "%Y-%m-%d"):
        try:
            return datetime.strptime(str(text), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return datetime(2023, 1, 1, tzinfo=UTC) + timedelta(weeks=session)
