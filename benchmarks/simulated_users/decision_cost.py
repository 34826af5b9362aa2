"""What deciding costs within a local hypothesize: in one process, within the same calls.

The service's own functions are timed where it calls them. Deciding is the belief over the readings, the value of a
question, the decision, and what is kept of them; recording is the whole statement that stores the set, which would be
stored without a decision, too, and so more than what the decision adds.
"""

import functools
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Any

import numpy as np

from app.services import hypotheses as service
from app.services.hypotheses import HypothesisService
from app.store.hypotheses import HypothesisStore
from benchmarks.report import Figure, Target, percentile

DECIDING = ("shown_hypotheses", "decide", "clarification_need", "specificity", "meanings_of", "set_row")
"""What of the service's module is deciding, and what it keeps of it."""

WARM_UP = 50


class Clockwork:
    """Seconds spent in the functions that are timed."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.spent = 0.0
        self._depth = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds added; one that another timed one calls counts once."""

        @functools.wraps(function)
        def run(*given: Any, **named: Any) -> Any:
            self._depth += 1
            started = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.spent += time.perf_counter() - started

        return run

    def awaited(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same of one that is awaited."""

        @functools.wraps(function)
        async def run(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return await function(*given, **named)
            finally:
                self.spent += time.perf_counter() - started

        return run


@contextmanager
def _replaced(owner: ModuleType | type, name: str, put: Any) -> Generator[None]:
    held = getattr(owner, name)
    setattr(owner, name, put)
    try:
        yield
    finally:
        setattr(owner, name, held)


async def measure(
    hypotheses: HypothesisService, tenant_id: str, asked: Sequence[tuple[str, str]], rounds: int
) -> list[Figure]:
    """So many hypothesizes of (user, input) in random order, one at a time."""
    random, deciding, recording = Random(3), Clockwork(), Clockwork()
    took: list[tuple[float, float, float]] = []
    with _all_timed(deciding, recording):
        for number in range(WARM_UP + rounds):
            user_id, text = random.choice(asked)
            deciding.spent = recording.spent = 0.0
            started = time.perf_counter()
            await hypotheses.hypothesize(tenant_id, user_id, text)
            if number >= WARM_UP:
                took.append((time.perf_counter() - started, deciding.spent, recording.spent))
    whole, decided, recorded = np.array(took).T * 1000
    return [
        *(Figure(f"hypothesize/p{rank}_ms", percentile(whole, rank), "ms", note="all of it") for rank in (50, 95)),
        Figure(
            "decision/p50_ms", percentile(decided, 50), "ms", note="within it: belief, value of a question, decision"
        ),
        Figure("decision/p95_ms", percentile(decided, 95), "ms", Target("≤", 5)),
        Figure("decision/recorded/p50_ms", percentile(decided + recorded, 50), "ms", note="and storing the whole set"),
        Figure("decision/recorded/p95_ms", percentile(decided + recorded, 95), "ms"),
        Figure("decision/share", float(decided.sum() / whole.sum()), "", note="of the time that hypothesizing takes"),
    ]


@contextmanager
def _all_timed(deciding: Clockwork, recording: Clockwork) -> Generator[None]:
    with _replaced(HypothesisStore, "insert_set", recording.awaited(HypothesisStore.insert_set)):
        held = {name: getattr(service, name) for name in DECIDING}
        try:
            for name, function in held.items():
                setattr(service, name, deciding.timed(function))
            yield
        finally:
            for name, function in held.items():
                setattr(service, name, function)
