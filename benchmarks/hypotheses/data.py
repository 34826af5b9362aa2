"""The data sets of the benchmark, and the vectors of their texts."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from app.domain.answers import Exchange, Text, content_of, told_words
from app.domain.belief import Heard
from app.domain.logit import Array
from app.domain.questions import common_words, unit, wordings
from app.ports import Embedder

NOTHING = "Q00001"
"""The bank's entry for "ask nothing"."""

_BATCH = 512
_REQUEST_SHARE = 0.04
"""Requests are fewer and shorter than questions: what is in one of 25 says how they ask."""


@dataclass(frozen=True)
class Topic:
    """A request with its facets, the questions asked for it, and what was answered by whom meant which facet."""

    request: str
    need: int
    facets: tuple[str, ...]
    question_ids: frozenset[str]
    answers: tuple[tuple[tuple[str, str], ...], ...]
    """For each facet, (question, answer) where both have words."""


@dataclass(frozen=True)
class Task:
    """An instruction, and whether people found it vague."""

    text: str
    is_vague: bool


@dataclass(frozen=True)
class Game:
    """Hidden weights of a traveller, and rounds of (options, index of the best one, what they said)."""

    weights: Array
    rounds: tuple[tuple[Array, int, str], ...]


def read_topics(path: Path) -> list[Topic]:
    """ClariQ's topics, in the file's order."""
    grouped: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            grouped.setdefault(row["topic_id"], []).append(row)
    return [_topic(rows) for rows in grouped.values()]


def _topic(rows: Sequence[dict[str, str]]) -> Topic:
    facets = {row["facet_id"]: row["facet_desc"] for row in rows}
    answers = {
        facet: tuple(
            (row["question"], row["answer"])
            for row in rows
            if row["facet_id"] == facet and row["question"] and row["answer"]
        )
        for facet in facets
    }
    asked = frozenset(row["question_id"] for row in rows if row["question_id"] != NOTHING)
    first = rows[0]
    return Topic(
        first["initial_request"],
        int(first["clarification_need"]),
        tuple(facets.values()),
        asked,
        tuple(answers.values()),
    )


def read_bank(path: Path) -> dict[str, str]:
    """ClariQ's bank of questions by id, without the one that asks nothing."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["question_id"]: row["question"] for row in rows if row["question_id"] != NOTHING}


def read_tasks(path: Path) -> list[Task]:
    """IN3's tasks, in the file's order."""
    with path.open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file if line.strip()]
    return [Task(row["task"], bool(row["vague"])) for row in rows]


def read_games(path: Path) -> list[Game]:
    """FlightPref's games, in the file's order."""
    return [
        Game(
            np.array(game["reward_function"], dtype=np.float64),
            tuple(
                (np.array(each["options"], dtype=np.float64), int(each["optimal_index"]), each.get("utterance") or "")
                for each in game["rounds"]
            ),
        )
        for game in json.loads(path.read_text(encoding="utf-8"))
    ]


class Vectors:
    """The vectors of texts, each embedded once."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._held: dict[str, Array] = {}

    async def add(self, texts: Iterable[str], progress: Progress) -> None:
        """Embed the texts that are not held yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._held]
        bar = progress.add_task("embedding", total=len(new))
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            vectors = (await self._embedder.embed(batch)).astype(np.float64)
            self._held.update(zip(batch, vectors, strict=True))
            progress.advance(bar, len(batch))

    def of(self, text: str) -> Array:
        """The vector (d,) of a text that was added."""
        return self._held[text]

    def text(self, text: str) -> Text:
        """A text with its vector."""
        return Text(text, self._held[text])

    def worded(self, text: str) -> Text:
        """A text with its vector and those of its words."""
        said = told_words(text)
        return Text(text, self._held[text], np.array([self._held[word] for word in said])) if said else self.text(text)

    def mean_of(self, texts: Sequence[str]) -> Array:
        """The direction (d,) between texts."""
        return unit(np.sum([self._held[text] for text in texts], axis=0))


def common_of(topics: Sequence[Topic]) -> frozenset[str]:
    """What people say in questions and requests whatever they are about."""
    questions = [[question for own in topic.answers for question, _ in own] for topic in topics]
    return common_words(questions) | common_words([[topic.request] for topic in topics], _REQUEST_SHARE)


def texts_of(topics: Sequence[Topic], common: frozenset[str]) -> Iterable[str]:
    """Everything of the topics that is read by its vector."""
    for topic in topics:
        yield from wordings(topic.request, common)
        for facet in topic.facets:
            yield from (facet, *told_words(facet))
        for own in topic.answers:
            for question, answer in own:
                content = content_of(answer)
                yield from (*wordings(question, common), answer, content, *told_words(content))


def heard_of(topic: Topic, vectors: Vectors, common: frozenset[str]) -> Heard:
    """A topic as a reader of answers is fitted on it."""
    return Heard(
        tuple(vectors.worded(facet) for facet in topic.facets),
        {
            index: [_exchange(question, answer, vectors, common) for question, answer in own]
            for index, own in enumerate(topic.answers)
        },
    )


def _exchange(question: str, answer: str, vectors: Vectors, common: frozenset[str]) -> Exchange:
    subject = wordings(question, common)[2]
    return Exchange(
        vectors.text(question), vectors.text(subject), vectors.text(answer), vectors.worded(content_of(answer))
    )
