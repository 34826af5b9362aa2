"""A client that asks without a pause and checks every answer."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import httpx2
import numpy as np

from benchmarks.ray_serve.versions import TEXTS, Versions

TRIES = 6
"""Of a request: as often is it sent, with pauses of 0.1, 0.2, 0.4, 0.8 and 1.6 s between."""

_CLIENTS = 8
_TOLERANCE = 1e-4


@dataclass
class Load:
    """What came of the requests."""

    answered: int = 0
    failed: list[str] = field(default_factory=list[str])
    retries: Counter[str] = field(default_factory=Counter[str])
    """Of requests that were sent again, why."""
    models: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """When each answered request was sent first, and which model answered it."""
    seconds: list[float] = field(default_factory=list[float])
    """How long each answered request took, all its tries and pauses included."""
    torn: list[str] = field(default_factory=list[str])
    """Answers that are not what the model they name says of these texts."""

    async def reached(self, answered: int) -> None:
        """Return when so many are answered."""
        while True:
            if self.answered >= answered:
                return
            await asyncio.sleep(0.01)

    def models_since(self, moment: float) -> set[str]:
        """Which models answered what was sent after the moment, a reading of the monotonic clock."""
        return {model for sent, model in self.models if sent > moment}


async def ask_all(base_url: str, versions: Versions, is_over: Callable[[int], bool], load: Load) -> None:
    """Ask for the vectors of two texts at a time, several clients at once, until `is_over(answered)`."""
    numbers = count()
    limits = httpx2.Limits(max_connections=_CLIENTS)
    async with httpx2.AsyncClient(base_url=base_url, timeout=30, limits=limits) as client:

        async def work() -> None:
            while not is_over(load.answered):
                place = next(numbers) % (len(TEXTS) - 1)
                sent = time.monotonic()
                answer = await _ask(client, TEXTS[place : place + 2], load)
                if answer is None:
                    continue
                load.seconds.append(time.monotonic() - sent)
                document = answer.json()
                load.answered += 1
                load.models.append((sent, document["model"]))
                expected = versions.vectors[document["model"]][place : place + 2]
                got = np.array(document["embeddings"])
                if got.shape != expected.shape or np.abs(got - expected).max() > _TOLERANCE:
                    load.torn.append(f"{document['model']}: {got.shape}")

        await asyncio.gather(*(work() for _ in range(_CLIENTS)))


async def _ask(client: httpx2.AsyncClient, texts: list[str], load: Load) -> httpx2.Response | None:
    """The answer with status 200, tried for again where there is another; None when all tries failed."""
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(0.1 * 2 ** (attempt - 1))
        try:
            answer = await client.post("/embed", json={"inputs": texts})
        except httpx2.TransportError as error:
            reason = type(error).__name__
        else:
            if answer.status_code == 200:
                return answer
            reason = str(answer.status_code)
        load.retries[reason] += 1
    load.failed.append(reason)
    return None
