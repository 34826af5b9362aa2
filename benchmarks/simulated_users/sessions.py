"""One task after the other through the service's HTTP API, as a chat frontend would."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from benchmarks.simulated_users import manners
from benchmarks.simulated_users.people import Task

Document = Mapping[str, Any]
Act = Literal["auto_advance", "proceed", "picked", "own words"]

MOST_QUESTIONS = 4
"""Questions after which people say what they mean."""


@dataclass(frozen=True)
class Stakes:
    """What a question costs and what a wrong act loses, in right acts: the service's own settings."""

    question_cost: float
    losses: Mapping[str, float]


@dataclass
class Done:
    """What became of one task. `confidences` and `at` are of the first hypotheses: how sure the service was of each,
    and the position of what was meant (None: it is not there). `is_right` tells of the first act; `sure` is the
    confidence of what it rests on."""

    person: int
    session: int
    intent: str
    decision: str
    confidences: tuple[float, ...]
    at: int | None
    questions: int = 0
    picks: int = 0
    act: Act = "proceed"
    sure: float = 0.0
    is_right: bool = False
    utility: float = 0.0
    seconds: list[float] = field(default_factory=list[float])
    """How long each hypothesize and answer took."""


class Door:
    """A client with one tenant's key. With `is_learning` false nothing is ever told of what came of anything, and
    nobody comes twice: there is nothing to learn from."""

    def __init__(self, base_url: str, key: str, *, is_learning: bool, timeout_s: float = 60.0) -> None:
        """Connects to nothing yet."""
        self.is_learning = is_learning
        self._client = httpx.AsyncClient(
            base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Document:
        """The answer to a request. Raises httpx.HTTPStatusError where it is refused."""
        answer = await self._client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    async def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Replace what is at a path."""
        (await self._client.put(path, json=body)).raise_for_status()

    async def get(self, path: str) -> Document:
        """What is at a path."""
        answer = await self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def user_of(self, task: Task) -> str:
        """Who the person is in this session."""
        return task.person.name if self.is_learning else f"{task.person.name}-{task.session}"


async def perform(door: Door, task: Task, stakes: Stakes) -> Done:
    """One task from the first words to the last, and what it was worth: 1 for what was meant, less the loss where
    something else was done, less each question's cost. Saying it all in one's own words counts as one more question."""
    user = {"user_id": door.user_of(task)}
    started = time.perf_counter()
    made = await door.post("/v1/hypothesize", user | {"input_text": task.input_text})
    texts = questions_of(made)
    done = Done(
        task.person.number,
        task.session,
        task.intent.name,
        made["decision"],
        confidences_of(made),
        manners.found(texts, task.intent, task.goal),
        seconds=[time.perf_counter() - started],
    )
    picked: int | None = None
    while made["decision"] == "ask" and done.questions < MOST_QUESTIONS:
        said = manners.reply(questions_of(made), task.intent, task.goal, task.dice, done.questions)
        done.questions += 1
        if said.picked is not None:
            picked = said.picked
            break
        about = user | {"hypothesis_set_id": made["hypothesis_set_id"]}
        if said.words:
            about["answer"] = said.words
        else:
            about["rejected_ids"] = [one["id"] for one in made["hypotheses"]]
        started = time.perf_counter()
        made = await door.post("/v1/answer", about)
        done.seconds.append(time.perf_counter() - started)
    _act(done, task, made, picked)
    done.utility = (1.0 if done.is_right else -stakes.losses.get(task.intent.name, 0.0)) - (
        stakes.question_cost * (done.questions + (done.act == "own words"))
    )
    if door.is_learning:
        await _tell(door, user, task, made, done, picked)
    return done


def questions_of(made: Document) -> list[str]:
    """What the options of a set say."""
    return [one["question"] for one in made["hypotheses"]]


def confidences_of(made: Document) -> tuple[float, ...]:
    """How sure the service is of each."""
    return tuple(one["confidence"] for one in made["hypotheses"])


def _act(done: Done, task: Task, made: Document, picked: int | None) -> None:
    """What is done in the end, and whether it is what was meant."""
    texts, confidences = questions_of(made), confidences_of(made)
    if picked is not None:
        done.act, done.sure, done.picks = "picked", confidences[picked], 1
        done.is_right = manners.names(texts[picked], task.intent, task.goal)
    elif made["decision"] == "auto_advance":
        done.act, done.sure = "auto_advance", confidences[0]
        done.is_right = manners.names(texts[0], task.intent, task.goal)
    elif made["decision"] == "ask":
        done.act, done.is_right = "own words", True
    else:
        done.act = "proceed"
        likeliest = sorted(range(len(texts)), key=lambda at: -confidences[at])
        done.is_right = manners.guess([texts[at] for at in likeliest], task.intent, task.goal, task.dice)


async def _tell(
    door: Door, user: Mapping[str, str], task: Task, made: Document, done: Done, picked: int | None
) -> None:
    """Execute what was settled on, say how it was received, undo what was wrong and have the right thing done."""
    about = user | {"input_text": task.input_text, "hypothesis_set_id": made["hypothesis_set_id"]}
    position = picked if picked is not None else 0 if done.act == "auto_advance" else None
    chosen = {} if position is None else {"hypothesis_id": made["hypotheses"][position]["id"]}
    own = {"custom_answer": task.goal.words}
    execution = await door.post("/v1/execute", about | (own if done.act == "own words" else chosen))
    comment = manners.remark(task.person, task.dice)
    feedback: dict[str, Any] = {"execution_id": execution["execution_id"], "comment": comment}
    if not done.is_right:
        feedback["success"] = False
        if chosen:
            feedback["rejected_ids"] = [chosen["hypothesis_id"]]
    elif task.dice.roll("praise") < manners.PRAISES:
        feedback["success"] = True
    if comment or "success" in feedback:
        await door.post("/v1/feedback", user | feedback)
    if not done.is_right:
        right = manners.found(questions_of(made), task.intent, task.goal)
        instead = own if right is None else {"hypothesis_id": made["hypotheses"][right]["id"]}
        await door.post("/v1/execute", about | instead)


async def leanings(door: Door, names: Sequence[str]) -> list[dict[str, tuple[float, bool]]]:
    """What the service holds of each person's facets: the value, 0..1, and whether it is sure enough to use it."""
    found: list[dict[str, tuple[float, bool]]] = []
    for name in names:
        facets = (await door.get(f"/v1/persona/{name}"))["facets"]
        found.append({facet: (held["value"], held["is_expressed"]) for facet, held in facets.items()})
    return found
