"""Held-out rows, and models to judge that know the user's choice as well as they are told to."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.domain.errors import ModelUnavailable
from app.domain.instructions import hypotheses_instruction
from app.ports import JudgedAnswer

CHOSEN = "Plan my own thing"
"""How every chosen request of `row` begins."""


def row(number: int, users: int = 20) -> dict[str, Any]:
    """A row of `hypotheses_chat`: three readings, the chosen one first."""
    requests = [f"{CHOSEN} {number}", f"Tell everything of subject {number}", f"Ask somebody else about {number}"]
    readings = [{"request": text, "question": f"{text}?", "memories": [], "confidence": 50} for text in requests]
    return {
        "prompt": hypotheses_instruction(f"thing {number}", {}, 3).messages,
        "completion": [{"role": "assistant", "content": orjson.dumps({"hypotheses": readings}).decode()}],
        "meta": {"user": f"user{number % users}"},
    }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of rows."""
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))
    return path


class FakeJudged:
    """Finds the chosen reading the likeliest on a `skill` share of the rows, always the same ones, and answers with it
    first there. `seconds` is what an answer
    takes, `silence` the share of the questions that it leaves without an answer."""

    def __init__(self, skill: float, *, seconds: float = 1.0, is_valid: bool = True, silence: float = 0.0) -> None:
        self.skill = skill
        self.seconds = seconds
        self.is_valid = is_valid
        self.silence = silence
        self.asked: list[str] = []

    async def likelihoods(self, messages: Sequence[Mapping[str, str]], requests: Sequence[str]) -> list[float]:
        """-0.5 for the one it finds likely, -2 for the others."""
        self._ask("likelihoods", messages)
        chosen = next(place for place, text in enumerate(requests) if text.startswith(CHOSEN))
        liked = chosen if self._knows(messages) else (chosen + 1) % len(requests)
        return [-0.5 if place == liked else -2.0 for place in range(len(requests))]

    async def answer(self, messages: Sequence[Mapping[str, str]], count: int) -> JudgedAnswer:
        """The choice, or something else."""
        self._ask("answer", messages)
        number = _number(messages)
        first = f"{CHOSEN} {number}" if self._knows(messages) else f"Sing and dance in street {number}"
        return JudgedAnswer((first, *["Whatever it is"] * (count - 1)), first, self.seconds)

    async def is_valid_unaided(self, messages: Sequence[Mapping[str, str]], count: int) -> bool:
        """`is_valid`."""
        self._ask("validity", messages)
        return self.is_valid

    def _ask(self, kind: str, messages: Sequence[Mapping[str, str]]) -> None:
        self.asked.append(kind)
        if random.Random(f"{kind} {_number(messages)}").random() < self.silence:
            raise ModelUnavailable("silent", "timeout")

    def _knows(self, messages: Sequence[Mapping[str, str]]) -> bool:
        return random.Random(_number(messages)).random() < self.skill


def _number(messages: Sequence[Mapping[str, str]]) -> int:
    return int(messages[1]["content"].partition("<input>thing ")[2].partition("<")[0])
