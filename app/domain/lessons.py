"""What a training sample teaches a model, as rows that TRL reads.

Prompts come from `app.domain.instructions`, the functions that the service asks a model with, and answers have the
shapes of `app.clients.slm.answers`: what is trained is what is served. Every rule here that chooses says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain import training, wording
from app.domain.datasets import CHAT, FACETS, PREFERENCES, RERANK, SOURCES, Row, SplitKey
from app.domain.facet_evidence import REMARK_PRECISION
from app.domain.instructions import (
    MAX_CITED,
    MAX_LINE,
    RERANK_BATCH,
    WISHES,
    Instruction,
    facets_instruction,
    hypotheses_instruction,
    memories_of,
    relevance_instruction,
)
from app.domain.persona import NEUTRAL, NEUTRAL_VARIANCE, Facet
from app.domain.training import Sample

CHOSEN_CONFIDENCE = 90
"""What a trained model says of the reading the user chose. The other shown ones and "none of these" share the rest
equally: people choose what they mean nearly always, and a list is one distribution."""

PAIR_CONFIDENCE = 50
"""The confidence in both halves of a preference pair: a pair is about the words, not about a number."""

USED_RELEVANCE, UNUSED_RELEVANCE = 9, 1
"""What a document that went into the prompt is worth out of 10, and one that did not. Neither is the end of the
scale: that the service used a memory is strong evidence of its use, not proof."""

MIN_LINE = 3

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TO_DO = re.compile(
    r"^(?:(?:do|would|did|are|is it) (?:you|that you)(?: (?:want|like|need|prefer|mean|trying|looking|wish|love))"
    r"(?: me)? to|(?:should|shall|can|could|may|must) I)\s+(?P<task>.+?)[\s?]*$",
    re.IGNORECASE,
)
_TO_HAVE = re.compile(r"^(?:do|would) you (?:want|like|need|prefer)\s+(?P<thing>.+?)[\s?]*$", re.IGNORECASE)
_OWN = {"your": "my", "yours": "mine", "yourself": "myself", "you": "me", "you're": "I'm"}
_YOU = re.compile(r"\b(?:yours|yourself|you're|your|you)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Dropped:
    """A sample that teaches nothing, and why, in a word."""

    reason: str


@dataclass(frozen=True)
class Lesson:
    """What a sample teaches one dataset: rows without `meta`, and their labels."""

    dataset: str
    rows: Sequence[tuple[Row, str]]


@dataclass(frozen=True)
class Taught:
    """All a sample teaches, for each dataset its rows or why there are none. `said` is what makes the sample itself
    and `known` what the model was told beside it, each text with the part it plays: two samples are near-duplicates
    where both are alike. So the same question of two people with different memories stays twice, and so does another
    question of one person."""

    lessons: Mapping[str, Lesson | Dropped]
    said: Sequence[tuple[str, str]] = ()
    known: Sequence[tuple[str, str]] = ()


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Told(_Part):
    type: str = "HISTORY"
    content: str
    date: str | None = None


class _Context(_Part):
    persona_facets: dict[str, float] = Field(default_factory=dict[str, float])
    recent_goals: list[str] = Field(default_factory=list[str])
    preferences: list[str] = Field(default_factory=list[str])
    memories: list[_Told] = Field(default_factory=list[_Told])


class _Shown(_Part):
    id: str
    question: str
    request: str | None = None
    evidence: list[str] = Field(default_factory=list[str])


class _Choice(_Part):
    user_input: str
    context: _Context = Field(default_factory=_Context)
    hypotheses: list[_Shown] = Field(min_length=1, max_length=20)
    selected_id: str | None = None
    label: str | None = None
    schema_version: int = 1


class _Comparison(_Part):
    hypothesis_a: str
    hypothesis_b: str
    preferred: training.Preferred
    reward: float | None = None


class _Move(_Part):
    signal: dict[str, Any]
    persona_facets: dict[str, float] = Field(min_length=1)
    updates: dict[str, float]
    source: str | None = None


class _Candidate(_Part):
    id: str
    content: str


class _Ranking(_Part):
    query: str
    candidates: list[_Candidate]
    used_ids: list[str] = Field(default_factory=list[str])
    success: bool | None = None


def taught_by(file: str, sample: Sample, key: SplitKey, rejected: frozenset[str] = frozenset()) -> Taught:
    """What a sample of a file teaches; `rejected` are ids that a feedback on its set turned down."""
    try:
        match file:
            case training.HYPOTHESES_FILE:
                return _from_choice(_Choice.model_validate(sample), rejected)
            case training.PREFERENCES_FILE:
                return _from_comparison(_Comparison.model_validate(sample))
            case training.PERSONA_FILE:
                return _from_move(_Move.model_validate(sample))
            case _:
                return _from_ranking(_Ranking.model_validate(sample), key)
    except ValidationError:
        return _nothing(file, "malformed")


def nearest_wish(delta: float) -> str:
    """The wish that moves a facet most nearly by `delta`."""
    return min(WISHES, key=lambda wish: (abs(WISHES[wish] - delta), abs(WISHES[wish])))


def request_of(question: str, user_input: str) -> str:
    """The task in the user's own voice, out of a clarifying question of a time when samples had no `request`: `Do you
    want to build your API?` gives `Build my API.` A question of another form leaves what the user typed."""
    if found := _TO_DO.match(question):
        task = _own_voice(found["task"])
        return f"{task[:1].upper()}{task[1:]}."
    if found := _TO_HAVE.match(question):
        return f"I want {_own_voice(found['thing'])}."
    return user_input if len(user_input.strip()) >= MIN_LINE else question.rstrip("? ")


def told_facets(facets: Mapping[str, float]) -> dict[str, float]:
    """The facets a prompt tells: a sample has their values only, so each counts as known no better than the least
    evidence that brings a facet from neutral to that value."""
    return {name: value for name, value in facets.items() if _least_known(name, value).is_expressed}


def _least_known(name: str, value: float) -> Facet:
    value = min(1.0, max(0.0, value))
    distance = abs(value - NEUTRAL)
    # Remarks of the precision p, all one way, bring it from neutral to v: |v - 1/2| = p / 2 / (P + p).
    start = 1.0 / NEUTRAL_VARIANCE
    precision = start * distance / (NEUTRAL - distance) if distance < NEUTRAL else REMARK_PRECISION
    return Facet(name, value, 1.0 / (start + precision), evidence=1)


@dataclass(frozen=True)
class _Reading:
    """A hypothesis that was shown, as a model would answer it."""

    id: str
    place: int
    words: Row

    def at(self, confidence: int) -> Row:
        return {**self.words, "confidence": confidence}


def _from_choice(choice: _Choice, rejected: frozenset[str]) -> Taught:
    """The chat row says the chosen reading first. Pairs set the chosen one against every other, and where nothing was
    chosen, what was let stand against what feedback turned down."""
    context = _context(choice)
    shown = [
        _Reading(one.id, place, _worded(one, choice.user_input, context))
        for place, one in enumerate(choice.hypotheses, start=1)
        if len(_line(one.question)) >= MIN_LINE
    ]
    chosen = next((one for one in shown if one.id == choice.selected_id), None)
    chat: Lesson | Dropped
    pairs: Lesson | Dropped
    if chosen is not None and (choice.label == "negative" or chosen.id in rejected):
        chat = pairs = Dropped("turned_down")
    elif chosen is not None:
        others = [one for one in shown if one is not chosen]
        chat = _chat(choice, context, chosen, others)
        pairs = _pairs(choice, context, [(chosen, one) for one in others], rejected)
    elif choice.selected_id is not None:
        chat = pairs = Dropped("malformed")  # what was chosen was not shown, or has no words
    else:
        # Nobody knows what the user meant: their own words are no part of a sample.
        chat = Dropped("nothing_chosen")
        let_stand = [one for one in shown if one.id not in rejected]
        turned_down = [one for one in shown if one.id in rejected]
        found = _pairs(choice, context, [(a, b) for a in let_stand for b in turned_down], rejected)
        pairs = Dropped("nothing_chosen") if isinstance(found, Dropped) else found
    said = [("input", choice.user_input)]
    for one in shown:
        part = "chosen" if one is chosen else "rejected" if one.id in rejected else "shown"
        said += [(part, one.words["question"]), (f"{part} request", one.words["request"])]
    known = [("memory", str(memory["content"])) for memory in memories_of(context)]
    known += [("facet", f"{name} {value:.1f}") for name, value in sorted(context["persona_facets"].items())]
    return Taught({CHAT: chat, PREFERENCES: pairs}, said, known)


def _chat(choice: _Choice, context: Mapping[str, Any], chosen: _Reading, others: Sequence[_Reading]) -> Lesson:
    instruction = hypotheses_instruction(choice.user_input, context, len(others) + 1)
    rest = (100 - CHOSEN_CONFIDENCE) // (len(others) + 1)
    readings = [chosen.at(CHOSEN_CONFIDENCE), *(one.at(rest) for one in others)]
    row = _conversation(instruction, completion=_json({"hypotheses": readings}))
    return Lesson(CHAT, [(row, f"shown as {chosen.place} of {len(choice.hypotheses)}")])


def _pairs(
    choice: _Choice,
    context: Mapping[str, Any],
    pairs: Sequence[tuple[_Reading, _Reading]],
    rejected: frozenset[str],
) -> Lesson | Dropped:
    different = [(better, worse) for better, worse in pairs if better.words != worse.words]
    if not different:
        return Dropped("nothing_to_compare")
    instruction = hypotheses_instruction(choice.user_input, context, 1)
    rows = [
        ({**_pair(instruction, better, worse), "reward": 1.0}, "rejection" if worse.id in rejected else "selection")
        for better, worse in different
    ]
    return Lesson(PREFERENCES, rows)


def _pair(instruction: Instruction, better: _Reading, worse: _Reading) -> Row:
    chosen, rejected = (_json({"hypotheses": [one.at(PAIR_CONFIDENCE)]}) for one in (better, worse))
    return _conversation(instruction, chosen=chosen, rejected=rejected)


def _from_comparison(comparison: _Comparison) -> Taught:
    """A comparison says two texts and nothing of what they were about: the prompt tells nothing either."""
    if comparison.preferred == "tie":
        return _nothing(training.PREFERENCES_FILE, "tie")
    texts = [_line(comparison.hypothesis_a), _line(comparison.hypothesis_b)]
    if min(map(len, texts)) < MIN_LINE or texts[0] == texts[1]:
        return _nothing(training.PREFERENCES_FILE, "nothing_to_compare")
    if comparison.preferred == "hypothesis_b":
        texts.reverse()
    better, worse = (_Reading("", 0, _worded(_Shown(id="", question=text), "", {})) for text in texts)
    row = _pair(hypotheses_instruction("", {}, 1), better, worse)
    reward = 1.0 if comparison.reward is None else comparison.reward
    lesson = Lesson(PREFERENCES, [({**row, "reward": reward}, "comparison")])
    return Taught({PREFERENCES: lesson}, [("chosen", texts[0]), ("rejected", texts[1])])


def _from_move(move: _Move) -> Taught:
    """A wish for each facet, the nearest to how far it was moved. What rules made of a click is left out: a model
    would learn the rules. Where the user said something in words, it stays, whoever read the words."""
    has_words = bool(str(move.signal.get("feedback") or move.signal.get("comment") or "").strip())
    if not has_words and move.source in (None, "local"):
        return _nothing(training.PERSONA_FILE, "made_by_rules")
    wishes = {name: nearest_wish(move.updates.get(name, 0.0)) for name in sorted(move.persona_facets)}
    moved = {name: wish for name, wish in wishes.items() if wish != "same"}
    if not moved:
        return _nothing(training.PERSONA_FILE, "nothing_moved")
    instruction = facets_instruction(move.signal, move.persona_facets)
    row = _conversation(instruction, completion=_json({"facets": wishes}))
    label = ", ".join(f"{name} {wish}" for name, wish in moved.items())
    _, *lines = instruction.user.split("\n")
    said = [("signal", line) for line in lines] + [("wish", f"{name} {wish}") for name, wish in moved.items()]
    known = [("facet", f"{name} {value:.1f}") for name, value in sorted(move.persona_facets.items())]
    return Taught({FACETS: Lesson(FACETS, [(row, label)])}, said, known)


def _from_ranking(ranking: _Ranking, key: SplitKey) -> Taught:
    """Documents in batches as the service asks for them, each in an order that has nothing to do with their rank, so
    that no place in the list gives the answer away. A batch without both used and unused documents says nothing."""
    used = set(ranking.used_ids)
    found = [one for one in ranking.candidates if one.content.strip()]
    if ranking.success is False:
        return _nothing(training.RANKING_FILE, "no_success")
    if not any(one.id in used for one in found):
        return _nothing(training.RANKING_FILE, "nothing_used")
    rows: list[tuple[Row, str]] = []
    for start in range(0, len(found), RERANK_BATCH):
        batch = sorted(
            found[start : start + RERANK_BATCH], key=lambda one: key.order(f"{ranking.query}\n{one.content}")
        )
        labels = [int(one.id in used) for one in batch]
        if 0 < sum(labels) < len(labels):
            documents = [one.content for one in batch]
            relevance = [USED_RELEVANCE if label else UNUSED_RELEVANCE for label in labels]
            chat = _conversation(
                relevance_instruction(ranking.query, documents), completion=_json({"relevance": relevance})
            )
            row = {"query": ranking.query, "documents": documents, "labels": labels, **chat}
            rows.append((row, f"{sum(labels)} of {len(labels)} used"))
    if not rows:
        return _nothing(training.RANKING_FILE, "no_contrast")
    said = [("query", ranking.query), *(("used" if one.id in used else "unused", one.content) for one in found)]
    return Taught({RERANK: Lesson(RERANK, rows)}, said)


def _nothing(file: str, reason: str) -> Taught:
    return Taught(dict.fromkeys(SOURCES[file], Dropped(reason)))


def _context(choice: _Choice) -> dict[str, Any]:
    """What the model was told. Goals and preferences are told as memories since there are memories in samples."""
    told: dict[str, Any] = {"persona_facets": told_facets(choice.context.persona_facets)}
    if choice.schema_version >= 2:
        told["memories"] = [one.model_dump(exclude_none=True) for one in choice.context.memories]
    else:
        told |= {"recent_goals": choice.context.recent_goals, "preferences": choice.context.preferences}
    return told


def _worded(shown: _Shown, user_input: str, context: Mapping[str, Any]) -> Row:
    question = _line(shown.question)
    request = _line(shown.request or "")
    if len(request) < MIN_LINE:
        request = _line(request_of(question, user_input))
    if len(request) < MIN_LINE:
        request = question
    return {
        "request": request,
        "question": question,
        "memories": _cited(shown, f"{question} {request}", user_input, context),
    }


def _cited(shown: _Shown, text: str, user_input: str, context: Mapping[str, Any]) -> list[int]:
    """The numbers of the memories a reading rests on. Samples name them by ids that prompts do not have, so they are
    found as the service finds them, by the words they add to the input; where that finds another number of memories
    than the sample names, none is cited."""
    if not shown.evidence:
        return []
    new = _words(text) - _words(user_input)
    told = [_words(str(memory["content"])) for memory in memories_of(context)]
    cited = [number for number, words in enumerate(told, start=1) if len(new & words) >= 2]
    return cited if len(cited) == len(shown.evidence) <= MAX_CITED else []


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    return frozenset(wording.content_words(text))


def _conversation(instruction: Instruction, **answers: str) -> Row:
    said = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return {"prompt": instruction.messages, **said}


def _json(document: Mapping[str, Any]) -> str:
    return orjson.dumps(document).decode()


def _line(text: str) -> str:
    """`text` on one line of at most MAX_LINE characters, cut between words where there are any."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    if len(line) <= MAX_LINE:
        return line
    head = line[: MAX_LINE - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[MAX_LINE // 2 :] else head) + "…"


def _own_voice(text: str) -> str:
    return _YOU.sub(lambda match: _OWN[match.group().lower()], text)
