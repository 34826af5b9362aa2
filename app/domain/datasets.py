"""Datasets: what a training sample teaches, as rows that TRL reads.

Prompts come from `app.domain.instructions`, the functions that the service asks a model with, and answers have the
shapes of `app.clients.slm.answers`: what is trained is what is served. Every rule here that chooses says so.
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain import training, wording
from app.domain.errors import InvalidInput
from app.domain.instructions import (
    Instruction,
    facets_instruction,
    hypotheses_instruction,
    memories_of,
    relevance_instruction,
)
from app.domain.persona import NEUTRAL, OBSERVATIONS_PER_UNIT, PRIOR_STRENGTH, Facet
from app.domain.redaction import merge_counts, redact
from app.domain.training import Sample

Split = Literal["train", "heldout", "later"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "later")

CHAT, PREFERENCES, FACETS, RERANK = "hypotheses_chat", "preferences", "facets_chat", "rerank"
DATASETS = {"hypotheses": CHAT, "preferences": PREFERENCES, "facets": FACETS, "rerank": RERANK}
"""The datasets by the names they are returned under."""

SOURCES: Mapping[str, tuple[str, ...]] = {
    training.HYPOTHESES_FILE: (CHAT, PREFERENCES),
    training.PREFERENCES_FILE: (PREFERENCES,),
    training.PERSONA_FILE: (FACETS,),
    training.RANKING_FILE: (RERANK,),
}
"""Which datasets a file of samples feeds. `user_feedback.jsonl` feeds none by itself: what it turns down is joined to
the hypotheses by their set."""

SUMMARY_FILE = "dataset_summary.json"

CHOSEN_CONFIDENCE = 90
"""What a trained model says of the reading the user chose. The other shown ones and "none of these" share the rest
equally: people choose what they mean nearly always, and a list is one distribution."""

PAIR_CONFIDENCE = 50
"""The confidence in both halves of a preference pair: a pair is about the words, not about a number."""

WISHES = {"much less": -0.16, "less": -0.08, "same": 0.0, "more": 0.08, "much more": 0.16}
USED_RELEVANCE, UNUSED_RELEVANCE = 9, 1
"""What a document that went into the prompt is worth out of 10, and one that did not. Neither is the end of the
scale: that the service used a memory is strong evidence of its use, not proof."""

MAX_LINE = 180
MIN_LINE = 3
MAX_CITED = 3
DOCUMENTS = 10
"""Limits of the answers' shapes and documents in one relevance call, as in `app.clients.slm`; a test holds them
together."""

MARKS = 4
"""Tokens that a chat template adds to each message, about."""

_PIECE_END = re.compile(r'\n|(?<=,)(?=")')
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TO_DO = re.compile(
    r"^(?:(?:do|would|did|are|is it) (?:you|that you)(?: (?:want|like|need|prefer|mean|trying|looking|wish|love))"
    r"(?: me)? to|(?:should|shall|can|could|may|must) I)\s+(?P<task>.+?)[\s?]*$",
    re.IGNORECASE,
)
_TO_HAVE = re.compile(r"^(?:do|would) you (?:want|like|need|prefer)\s+(?P<thing>.+?)[\s?]*$", re.IGNORECASE)
_OWN = {"your": "my", "yours": "mine", "yourself": "myself", "you": "me", "you're": "I'm"}
_YOU = re.compile(r"\b(?:yours|yourself|you're|your|you)\b", re.IGNORECASE)
_WITHOUT_TEXT = frozenset({"id", "evidence", "rank", "used_ids", "rejected_ids", "selected_id", "label", "preferred"})

Row = dict[str, Any]

_ABOUT = training.About(datetime(1970, 1, 1, tzinfo=UTC), "")
_HEAD = frozenset({*_ABOUT.head(), *_ABOUT.tail()})
"""Fields of a sample that say where it comes from."""


@dataclass(frozen=True)
class DatasetOptions:
    """What a preparation may be told. `heldout_share` of the users are never trained on; the newest `later_share` of
    the others' samples are kept apart; rows of more than `max_tokens` are dropped; of a user only the newest
    `max_per_user` samples of each file are taken (None: all); samples whose texts are alike to `near_duplicate`
    (Jaccard, of word triples) or more count as the same. Raises InvalidInput for what means nothing."""

    heldout_share: float = 0.1
    later_share: float = 0.1
    max_tokens: int = 2048
    max_per_user: int | None = None
    near_duplicate: float = 0.8

    def __post_init__(self) -> None:
        for name in ("heldout_share", "later_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} is a share from 0 to less than 1.", field=name)
        if self.max_tokens < 1 or (self.max_per_user is not None and self.max_per_user < 1):
            raise InvalidInput("max_tokens and max_per_user are 1 or more.", field="max_tokens")
        if not 0.5 <= self.near_duplicate <= 1:
            raise InvalidInput("near_duplicate is a similarity from 0.5 to 1.", field="near_duplicate")


@dataclass(frozen=True)
class SplitKey:
    """The secret behind the names of users in datasets and behind who is held out: without it neither can be
    worked out from an id. The same key holds out the same users for ever."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Which key this is, without giving it away."""
        return self._digest("key", b"")[:16]

    def user(self, tenant_id: str, user_id: str) -> str:
        """A user's name in datasets."""
        return self._digest("user", orjson.dumps([tenant_id, _encodable(user_id)]))

    def tenant(self, tenant_id: str) -> str:
        """A tenant's name in datasets."""
        return self._digest("tenant", tenant_id.encode("utf-8", "replace"))

    def is_heldout(self, user: str, share: float) -> bool:
        """Whether a user (by their name in datasets) is held out."""
        return int(self._digest("split", user.encode())[:16], 16) < share * 2**64

    def order(self, text: str) -> str:
        """Something to sort by that says nothing about where a text stood."""
        return self._digest("order", text.encode("utf-8", "replace"))

    def _digest(self, purpose: str, value: bytes) -> str:
        return hashlib.blake2b(value, key=self.secret, person=purpose.encode(), digest_size=16).hexdigest()


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


def moment_of(sample: Sample) -> int | None:
    """When a sample was made, in seconds since 1970; None where it does not say."""
    try:
        at = datetime.fromisoformat(sample["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def owner_of(sample: Sample) -> tuple[str, str] | None:
    """(tenant, user) of a sample; None where it does not say."""
    tenant_id, user_id = sample.get("tenant_id", "default"), sample.get("user_id")
    return (tenant_id, user_id) if isinstance(tenant_id, str) and isinstance(user_id, str) else None


def cut_at(moments: Sequence[int], later_share: float) -> int | None:
    """The last moment of training: of `moments` (sorted) at most `later_share` are after it. None without any."""
    if not moments:
        return None
    return moments[max(0, len(moments) - 1 - int(later_share * len(moments)))]


def split_of(is_heldout: bool, moment: int, cut: int) -> Split:
    """Where a sample goes: held-out users whole, the others' by time."""
    if is_heldout:
        return "heldout"
    return "later" if moment > cut else "train"


def without_secrets(sample: Sample) -> tuple[Sample, dict[str, int]]:
    """`sample` with every text redacted again, and how many secrets of each kind were left in it.

    All its texts are searched as one, which costs a fifth of searching each; only where something is found are
    they redacted one by one.
    """
    content = {name: value for name, value in sample.items() if name not in _HEAD}
    texts: list[str] = []
    _gather(content, texts)
    if not redact("\n\n".join(texts)).counts:
        return sample, {}
    counts: dict[str, int] = {}
    cleaned = _redacted(content, counts)
    return {**sample, **cleaned}, counts


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


def meta_of(sample: Sample, key: SplitKey, owner: tuple[str, str]) -> Row:
    """Where a row comes from, without the names of tenant and user. Texts throughout: readers of JSON lines guess a
    column's type from its first rows, and null has none."""
    return {
        "user": key.user(*owner),
        "tenant": key.tenant(owner[0]),
        "set_id": _text(sample.get("hypothesis_set_id")),
        "timestamp": _text(sample.get("timestamp")),
        "model": _text(sample.get("model")),
        "adapter": _text(sample.get("adapter")),
        "prompt_version": _text(sample.get("prompt_version")),
        "schema_version": version if isinstance(version := sample.get("schema_version"), int) else 1,
    }


def tokens_in(row: Row, count: Callable[[str], int]) -> int:
    """Tokens of a row as it is trained on: its prompt and its longest answer, with the template's marks. Counted
    in pieces, lines and fields of JSON, because these come again from row to row; the sum was never more than 3 off the
    count in one piece, for rows of 330 to 820 tokens."""
    answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return _tokens(row["prompt"], count) + max(_tokens(answer, count) for answer in answers)


class Tally:
    """What a dataset's file holds, counted row by row from the rows themselves, so that it can be counted again."""

    def __init__(self) -> None:
        self.rows = 0
        self.labels: Counter[str] = Counter()
        self._users: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        meta = row["meta"]
        self.rows += 1
        self._users[int(meta["user"][:16], 16)] += 1
        self._tokens[meta["tokens"]] += 1
        self.labels.update(str(meta["label"]).split(", "))

    def summary(self) -> dict[str, Any]:
        """Counts, quantiles of tokens, and the share of the user with the most rows."""
        most = max(self._users.values(), default=0)
        return {
            "rows": self.rows,
            "users": len(self._users),
            "largest_user_share": round(most / self.rows, 4) if self.rows else 0.0,
            "labels": dict(sorted(self.labels.items())),
            "tokens": self._quantiles(),
        }

    def _quantiles(self) -> dict[str, int]:
        if not self.rows:
            return {}
        sizes = sorted(self._tokens)
        reached: list[int] = []
        for size in sizes:
            reached.append((reached[-1] if reached else 0) + self._tokens[size])
        at = {name: sizes[bisect_right(reached, int(rank * (self.rows - 1)))] for name, rank in _RANKS.items()}
        return {**at, "total": sum(size * times for size, times in self._tokens.items())}


_RANKS = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


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
    # From the Beta update: after weight w all in one direction, |v - 1/2| = w / (2 (n + w)).
    weight = PRIOR_STRENGTH * 2 * distance / (1 - 2 * distance) if distance < NEUTRAL else OBSERVATIONS_PER_UNIT
    return Facet(name, value, PRIOR_STRENGTH + weight)


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
    for start in range(0, len(found), DOCUMENTS):
        batch = sorted(found[start : start + DOCUMENTS], key=lambda one: key.order(f"{ranking.query}\n{one.content}"))
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


def _tokens(messages: Sequence[Mapping[str, str]], count: Callable[[str], int]) -> int:
    texts = [message["content"] for message in messages]
    return sum(MARKS + text.count("\n") + sum(map(count, _PIECE_END.split(text))) for text in texts)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _gather(value: object, texts: list[str]) -> None:
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            if type(inner) is str:
                if name not in _WITHOUT_TEXT:
                    texts.append(inner)
            elif isinstance(inner, dict | list) and name not in _WITHOUT_TEXT:
                _gather(cast(object, inner), texts)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _gather(inner, texts)


def _redacted(value: Any, counts: dict[str, int]) -> Any:
    if isinstance(value, str):
        found = redact(value)
        if found.counts:
            counts.update(merge_counts(counts, found.counts))
        return found.text
    if isinstance(value, list):
        return [_redacted(inner, counts) for inner in cast("list[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return {name: inner if name in _WITHOUT_TEXT else _redacted(inner, counts) for name, inner in pairs.items()}
    return value
