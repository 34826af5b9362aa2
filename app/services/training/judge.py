"""The judge: candidate and serving model on the same held-out prompts, and what the policy says of it.

    Judge(policy, embedder, python).judge([heldout, later], candidate, serving) -> Judgement

Both models rank the readings that the user was shown by how likely they find them, and on some of the rows they answer
in full. What one of the two leaves unanswered counts for neither, and is counted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from app.domain.errors import InvalidInput, ModelUnavailable
from app.domain.judging import Choice, choice_of, rank_of_choice, reliability, sampled
from app.domain.promotion import Figure, Policy, Unanswered, Verdict, verdict
from app.ports import Embedder, Judged, JudgedAnswer
from app.services.training.figures import Answered, Scored, figures_of, stated
from app.services.training.ratings import check_rating, rate

OnProgress = Callable[[str, int, int], None]
"""Stage (`likelihoods`, `answers`, `validity`, `ratings`, `intervals`), done, total."""

AT_ONCE = 4
"""Rows in work at a time, where no time is measured."""

T = TypeVar("T")


@dataclass(frozen=True)
class Judgement:
    """What came out. `reliability` has for each model (mean said, share true, how many) by bin; `metrics` are those of
    the candidate's training, where they were given."""

    verdict: Verdict
    policy: Policy
    figures: Mapping[str, Figure]
    rows: int
    users: int
    answered: int
    unanswered: Unanswered
    seconds: float
    reliability: Mapping[str, Sequence[tuple[float, float, int]]] = field(default_factory=dict[str, Any])
    metrics: Mapping[str, Any] | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the candidate may serve."""
        return self.verdict.is_accepted

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why not, a sentence for each reason."""
        return self.verdict.refusals

    def document(self) -> dict[str, Any]:
        """As JSON, without any text of users."""
        return {
            "is_accepted": self.is_accepted,
            "refusals": list(self.refusals),
            "figures": {
                name: {**asdict(figure), "difference": figure.difference} for name, figure in self.figures.items()
            },
            "gates": dict(self.verdict.passed),
            "rows": self.rows,
            "users": self.users,
            "answered": self.answered,
            "unanswered": asdict(self.unanswered),
            "policy": self.policy.document(),
            "reliability": {who: [list(one) for one in bins] for who, bins in self.reliability.items()},
            "training": {name: value for name, value in (self.metrics or {}).items() if name in {"before", "after"}},
            "seconds": round(self.seconds, 1),
        }


class Judge:
    """Judges candidates by one policy."""

    def __init__(self, policy: Policy, embedder: Embedder, training_python: Path | None = None) -> None:
        """`training_python`: the training environment's, e.g. venv-train/bin/python; only for a reward model."""
        self._policy = policy
        self._embedder = embedder
        self._python = training_python

    async def judge(
        self,
        rows_paths: Sequence[Path],
        candidate: Judged,
        serving: Judged,
        *,
        reward_model: Path | None = None,
        metrics: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Judgement:
        """Judge on the rows of `hypotheses_chat.heldout.jsonl` and `.later.jsonl`; `metrics` are carried along. It may
        be cancelled at any time. Raises InvalidInput for a file that cannot be read, ModelUnavailable where the
        embedder, the reward model or a package is missing; a silent language model is a refusal."""
        started = time.monotonic()
        python = None if reward_model is None else check_rating(self._python, reward_model)
        choices = sampled(await asyncio.to_thread(read_choices, rows_paths), self._policy.rows.most)
        session = _Session(self._policy, candidate, serving, len(choices), on_progress or _unheard)
        scored = await session.score(choices)
        answered = await session.answer(choices[: self._policy.rows.answered])
        answered = await session.validate(answered)
        answered = [await self._matched(one) for one in answered]
        if python is not None and reward_model is not None:
            answered = await _rated(python, reward_model, answered, session.report)
        session.report("intervals", 0, 1)
        figures = await asyncio.to_thread(figures_of, scored, answered, self._policy.bootstrap)
        session.report("intervals", 1, 1)
        return Judgement(
            verdict(self._policy, figures, len(choices), session.unanswered),
            self._policy,
            figures,
            rows=len(scored),
            users=len({one.choice.user for one in scored}),
            answered=len(answered),
            unanswered=session.unanswered,
            seconds=time.monotonic() - started,
            reliability={
                "candidate": reliability([pair for one in scored for pair in stated(one.choice, one.candidate)]),
                "serving": reliability([pair for one in scored for pair in stated(one.choice, one.serving)]),
            },
            metrics=metrics,
        )

    async def _matched(self, one: Answered) -> Answered:
        """With the place at which each model's answer says what was chosen."""
        shown = await self._embedder.embed(one.choice.requests)
        own = await self._embedder.embed(one.candidate.requests)
        other = await self._embedder.embed(one.serving.requests)
        chosen = one.choice.chosen
        return one.with_ranks(rank_of_choice(own, shown, chosen), rank_of_choice(other, shown, chosen))


def read_choices(paths: Sequence[Path]) -> list[Choice]:
    """The choices in files of rows. Raises InvalidInput for a file that cannot be read or holds no lines of JSON."""
    found: list[Choice] = []
    for path in paths:
        try:
            with path.open("rb") as lines:
                rows = (choice_of(orjson.loads(line)) for line in lines)
                found += [choice for choice in rows if choice is not None]
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}", field="rows") from None
        except orjson.JSONDecodeError:
            raise InvalidInput(f"{path} holds a line that is no JSON", field="rows") from None
    return found


def _unheard(stage: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""


class _Session:
    """One judgement under way: who is asked, and what stayed without an answer."""

    def __init__(self, policy: Policy, candidate: Judged, serving: Judged, rows: int, report: OnProgress) -> None:
        self._candidate = candidate
        self._serving = serving
        self._bearable = policy.rows.unanswered * (rows + 2 * min(rows, policy.rows.answered))
        self._asked = 0
        self._silent = [0, 0]
        self.report = report

    @property
    def unanswered(self) -> Unanswered:
        """What stayed without an answer so far."""
        return Unanswered(self._asked, *self._silent)

    async def score(self, choices: Sequence[Choice]) -> list[Scored]:
        """The likelihoods of the readings shown, of both models."""

        async def one(choice: Choice) -> Scored | None:
            likely = [model.likelihoods(choice.messages, choice.requests) for model in self._models]
            both = await self._both(*likely)
            return None if both is None else Scored(choice, *(tuple(each) for each in both))

        return await self._each("likelihoods", choices, one, AT_ONCE)

    async def answer(self, choices: Sequence[Choice]) -> list[Answered]:
        """Answers in full, one at a time, each model first on every other row: both see the same machine."""

        async def one(place_and_choice: tuple[int, Choice]) -> Answered | None:
            place, choice = place_and_choice
            said: list[JudgedAnswer | None] = [None, None]
            for index in (0, 1) if place % 2 == 0 else (1, 0):
                said[index] = await self._quietly(index, self._models[index].answer(choice.messages, choice.shown))
            self._asked += 1
            return None if said[0] is None or said[1] is None else Answered(choice, said[0], said[1])

        return await self._each("answers", list(enumerate(choices)), one, 1)

    async def validate(self, answered: Sequence[Answered]) -> list[Answered]:
        """With whether each model answers in the right shape where no grammar makes sure of it."""

        async def one(each: Answered) -> Answered | None:
            choice = each.choice
            both = await self._both(*(model.is_valid_unaided(choice.messages, choice.shown) for model in self._models))
            return each if both is None else each.with_validity(*both)

        return await self._each("validity", answered, one, AT_ONCE)

    @property
    def _models(self) -> tuple[Judged, Judged]:
        return self._candidate, self._serving

    async def _both(self, candidate: Awaitable[T], serving: Awaitable[T]) -> tuple[T, T] | None:
        """Both models' answers to one question; None where one has none."""
        own, other = await asyncio.gather(self._quietly(0, candidate), self._quietly(1, serving))
        self._asked += 1
        return None if own is None or other is None else (own, other)

    async def _quietly(self, index: int, question: Awaitable[T]) -> T | None:
        try:
            return await question
        except ModelUnavailable:
            self._silent[index] += 1
            return None

    async def _each(
        self, stage: str, items: Sequence[T], work: Callable[[T], Awaitable[Any]], at_once: int
    ) -> list[Any]:
        """The work on every item, without what is None, in order. Once a model has been silent more often than is
        bearable nobody is asked any more: the refusal is certain."""
        results: list[Any] = [None] * len(items)
        left = iter(enumerate(items))
        done = 0

        async def worker() -> None:
            nonlocal done
            for place, item in left:
                if max(self._silent) > self._bearable:
                    return
                results[place] = await work(item)
                done += 1
                self.report(stage, done, len(items))

        self.report(stage, 0, len(items))
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
        return [result for result in results if result is not None]


async def _rated(python: Path, folder: Path, answered: Sequence[Answered], report: OnProgress) -> list[Answered]:
    """With the reward model's ratings of both answers."""
    report("ratings", 0, len(answered))
    conversations = [
        [*one.choice.messages, {"role": "assistant", "content": said.text}]
        for one in answered
        for said in (one.candidate, one.serving)
    ]
    ratings = await rate(python, folder, conversations) if conversations else []
    report("ratings", len(answered), len(answered))
    return [one.with_ratings(*ratings[2 * place : 2 * place + 2]) for place, one in enumerate(answered)]
