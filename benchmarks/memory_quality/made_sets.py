"""Sets made of the data for another purpose, among them some where vectors find more than words: see what is made of
which in `made_sets`. They are the same in every run."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from app.domain.embeddings import Vectors
from benchmarks.memory_quality.baselines import Stems
from benchmarks.memory_quality.data import Conversation, Question, Turn
from benchmarks.memory_quality.ours import House

BEGIN = datetime(2025, 1, 6, 9, tzinfo=UTC)
NOTHING = "Q00001"
"""The bank's entry for "ask nothing"."""

TALKS, TOPICS, EXCHANGES = 4, 40, 8
"""Of ClariQ's dialogues: how many conversations, of how many topics each, of how many questions with their answers."""

DETAILS_TALKS, TASKS, ASKED = 2, 50, 300
"""Of IN3's tasks: how many conversations, of how many tasks each, and about how many texts is asked."""

REWORDED = {"six": 6, "nine": 9}
"""How many of ten words of LoCoMo's questions are replaced."""
NEAR = 0.4
"""The least cosine of a word to the one that it replaces."""
LOOKED_AT = 20
_WORD = re.compile(r"[A-Za-z]{3,}")

QUICK_TURNS, QUICK_QUESTIONS = 200, 30

Row = Mapping[str, str]


async def made_sets(
    folder: Path, house: House, locomo: Sequence[Conversation], *, is_quick: bool = False
) -> dict[str, list[Conversation]]:
    """The sets by name; without those whose data is not there.

    Of `folder`/clariq: the bank's questions, of which those that were asked for a request are to be found by it
    (`clariq_bank`); what people answered, by what they meant (`clariq_answers`); and questions with their answers as
    conversations with a session for each topic, by the same (`clariq_talks`). Of `folder`/in3: what has to be asked
    about a task, by the task (`in3_inquiries`); what can be answered, by what was asked (`in3_options`); and tasks,
    inquiries and answers as conversations, by what is asked for (`in3_talks`). Of LoCoMo: the questions with six or
    nine of ten words replaced by the nearest other one (`locomo_six`, `locomo_nine`).
    """
    sets: dict[str, list[Conversation]] = {}
    bank = folder / "clariq" / "question_bank.tsv"
    if bank.exists():
        questions = {row["question_id"]: row["question"] for row in read_rows([bank])}
        others = sorted(path for path in bank.parent.glob("*.tsv") if path != bank)
        rows = [row for row in read_rows(others) if row["question_id"] != NOTHING]
        sets["clariq_bank"] = [clariq_bank(rows, questions)]
        sets["clariq_answers"] = [clariq_answers(rows)]
        sets["clariq_talks"] = clariq_talks(rows, questions)
    details = sorted((folder / "in3").glob("*.jsonl"))
    if details:
        tasks = [task for task in read_lines(details) if task["missing_details"]]
        sets["in3_inquiries"] = [in3_inquiries(tasks)]
        sets["in3_options"] = [in3_options(tasks)]
        sets["in3_talks"] = in3_talks(tasks)
    for name, of_ten in REWORDED.items() if locomo else ():
        sets[f"locomo_{name}"] = await reworded(house, locomo, of_ten)
    return {name: [shortened(each[0])] for name, each in sets.items()} if is_quick else sets


def shortened(conversation: Conversation) -> Conversation:
    """Some questions about a conversation, and its beginning; of texts that stand alone those that answer, and others
    beside them."""
    if conversation.is_talk:
        asked = [each for each in conversation.questions if max(each.evidence) < QUICK_TURNS]
        return replace(conversation, turns=conversation.turns[:QUICK_TURNS], questions=asked[:QUICK_QUESTIONS])
    kept: dict[int, int] = {}
    asked: list[Question] = []
    for question in conversation.questions[:QUICK_QUESTIONS]:
        new = question.evidence - set(kept)
        if len(kept) + len(new) <= QUICK_TURNS:
            kept |= {at: place for place, at in enumerate(sorted(new), len(kept))}
            asked.append(question)
    rest = [at for at in range(len(conversation.turns)) if at not in kept][: QUICK_TURNS - len(kept)]
    turns = [conversation.turns[at] for at in (*kept, *rest)]
    moved = [replace(each, evidence=frozenset(kept[at] for at in each.evidence)) for each in asked]
    return replace(conversation, turns=turns, questions=moved)


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of files of tab-separated values."""
    rows: list[Row] = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file, delimiter="\t")
    return rows


def read_lines(paths: Iterable[Path]) -> list[Mapping[str, Any]]:
    """The objects of files with one a line."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line]


def clariq_bank(rows: Sequence[Row], questions: Mapping[str, str]) -> Conversation:
    """The questions that were asked for a request, among all of the bank."""
    texts = [question for number, question in questions.items() if number != NOTHING]
    places = {number: at for at, number in enumerate(each for each in questions if each != NOTHING)}
    wanted: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["question_id"] in places:
            wanted[row["initial_request"]].add(places[row["question_id"]])
    return _texts("clariq bank", texts, "request", wanted)


def clariq_answers(rows: Sequence[Row]) -> Conversation:
    """What was answered by those who meant a facet, among everybody's answers."""
    texts = sorted({row["answer"] for row in rows if row["answer"]})
    places = {text: at for at, text in enumerate(texts)}
    wanted: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["answer"]:
            wanted[row["facet_desc"]].add(places[row["answer"]])
    return _texts("clariq answers", texts, "facet", wanted)


def _texts(name: str, texts: Sequence[str], category: str, wanted: Mapping[str, set[int]]) -> Conversation:
    """Texts that stand alone, and what finds which of them."""
    turns = [Turn(at, 1, "", text, BEGIN) for at, text in enumerate(texts, 1)]
    questions = [Question(text, category, frozenset(wanted[text])) for text in sorted(wanted)]
    return Conversation(name, turns, questions, is_talk=False)


def in3_inquiries(tasks: Sequence[Mapping[str, Any]]) -> Conversation:
    """What has to be asked about a task, among what has to be asked about any."""
    wanted = {task["task"]: {each["inquiry"] for each in task["missing_details"]} for task in tasks}
    return _told("in3 inquiries", "task", wanted)


def in3_options(tasks: Sequence[Mapping[str, Any]]) -> Conversation:
    """What can be answered to a question, among what can be answered to any."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for detail in (each for task in tasks for each in task["missing_details"] if each["options"]):
        wanted[detail["inquiry"]].add(", ".join(detail["options"]))
    return _told("in3 options", "inquiry", wanted)


def _told(name: str, category: str, wanted: Mapping[str, set[str]]) -> Conversation:
    """Texts that stand alone, by what finds them, of which some is asked."""
    texts = sorted({text for each in wanted.values() for text in each})
    places = {text: at for at, text in enumerate(texts)}
    asked = Random(0).sample(sorted(wanted), min(ASKED, len(wanted)))
    return _texts(name, texts, category, {text: {places[each] for each in wanted[text]} for text in asked})


def in3_talks(tasks: Sequence[Mapping[str, Any]], seed: int = 0) -> list[Conversation]:
    """Conversations of sessions, a task each, in which what is left open is asked and answered; what finds an answer is
    what it is about."""
    random = Random(seed)
    held = random.sample(list(tasks), min(DETAILS_TALKS * TASKS, len(tasks)))
    talks: list[Conversation] = []
    for number, start in enumerate(range(0, len(held), TASKS), 1):
        turns: list[Turn] = []
        wanted: dict[str, set[int]] = defaultdict(set)
        for session, task in enumerate(held[start : start + TASKS], 1):
            said, about = [("user", task["task"])], [""]
            for detail in (each for each in task["missing_details"] if each["options"]):
                said += [("assistant", detail["inquiry"]), ("user", random.choice(detail["options"]))]
                about += ["", detail["description"]]
            for turn, ((speaker, text), told) in enumerate(zip(said, about, strict=True), 1):
                if told:
                    wanted[told].add(len(turns))
                at = BEGIN + timedelta(days=session, seconds=turn)
                turns.append(Turn(session, turn, speaker, text, at))
        asked = [Question(text, "detail", frozenset(wanted[text])) for text in sorted(wanted)]
        talks.append(Conversation(f"in3 talk {number}", turns, asked))
    return talks


def clariq_talks(rows: Sequence[Row], questions: Mapping[str, str], seed: int = 0) -> list[Conversation]:
    """Conversations of sessions, a topic each, in which questions are asked and answered; what finds an answer is what
    was meant by it."""
    random = Random(seed)
    by_topic: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["question_id"] in questions and row["answer"]:
            by_topic[row["topic_id"]].append(row)
    topics = sorted(by_topic)
    random.shuffle(topics)
    talks: list[Conversation] = []
    for number in range(TALKS):
        turns: list[Turn] = []
        wanted: dict[str, set[int]] = defaultdict(set)
        for session, topic in enumerate(topics[number * TOPICS : (number + 1) * TOPICS], 1):
            held = by_topic[topic]
            at = BEGIN + timedelta(days=session)
            for order, row in enumerate(random.sample(held, min(EXCHANGES, len(held)))):
                said = (("assistant", questions[row["question_id"]]), ("user", row["answer"]))
                turns += [
                    Turn(session, 2 * order + place, speaker, text, at + timedelta(seconds=2 * order + place))
                    for place, (speaker, text) in enumerate(said, 1)
                ]
                wanted[row["facet_desc"]].add(len(turns) - 1)
        asked = [Question(text, "facet", frozenset(wanted[text])) for text in sorted(wanted)]
        if asked:
            talks.append(Conversation(f"clariq talk {number + 1}", turns, asked))
    return talks


async def reworded(house: House, conversations: Sequence[Conversation], of_ten: int) -> list[Conversation]:
    """The same conversations, with so many of ten words of the questions replaced by the nearest other word of all that
    was said and asked; names of those who speak are kept."""
    texts = [turn.text for each in conversations for turn in each.turns]
    texts += [question.text for each in conversations for question in each.questions]
    vocabulary = sorted({word.lower() for text in texts for word in _WORD.findall(text)})
    stems = await house.stems(vocabulary)
    vocabulary = [word for word, stem in zip(vocabulary, stems, strict=True) if stem]
    stems = [stem for stem in stems if stem]
    asked = {word.lower() for each in conversations for asked in each.questions for word in _WORD.findall(asked.text)}
    others = nearest_others(vocabulary, await house.embedder.embed(vocabulary), stems, asked)
    made: list[Conversation] = []
    for each in conversations:
        random = Random(f"{of_ten}/{each.name}")
        kept = {word for turn in each.turns for word in turn.speaker.lower().split()}
        questions = [
            replace(question, text=with_others(question.text, others, kept, of_ten / 10, random))
            for question in each.questions
        ]
        made.append(replace(each, name=f"{each.name}, {of_ten} of ten words", questions=questions))
    return made


def nearest_others(vocabulary: Sequence[str], vectors: Vectors, stems: Stems, wanted: Iterable[str]) -> dict[str, str]:
    """For each of some words of a vocabulary the nearest one that is another word: with another stem and another
    beginning, and no nearer than `NEAR` there is none."""
    places = {word: at for at, word in enumerate(vocabulary)}
    others: dict[str, str] = {}
    for word in sorted(set(wanted) & set(places)):
        cosines = vectors @ vectors[places[word]]
        for at in map(int, np.argsort(-cosines, kind="stable")[:LOOKED_AT]):
            other = vocabulary[at]
            if cosines[at] > NEAR and stems[at] != stems[places[word]] and other[:4] != word[:4]:
                others[word] = other
                break
    return others


def with_others(text: str, others: Mapping[str, str], kept: set[str], share: float, random: Random) -> str:
    """A text with a share of its words, by chance, replaced by others."""

    def other(found: re.Match[str]) -> str:
        word = found[0].lower()
        if word not in others or word in kept or random.random() > share:
            return found[0]
        return others[word]

    return _WORD.sub(other, text)
