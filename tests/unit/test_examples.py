"""The examples of intents are embedded once for each space, whoever asks and gives up meanwhile."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from app.domain.embeddings import EmbeddingSpace
from app.domain.errors import ModelUnavailable
from app.domain.spaces import Embedded, StoredSpace
from app.services.examples import CHUNK, ExampleVectors
from app.services.spaces import Spaces

TEXTS = [f"build thing {number}" for number in range(2 * CHUNK + 1)]
ONE, TWO = (StoredSpace(number, EmbeddingSpace(f"model-{number}", "1", 2), "vector", None) for number in (1, 2))


class Slow:
    """Spaces whose model waits for a sign, and may be out of service."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.sign = asyncio.Event()
        self.is_down = False

    async def embed_in(self, space: StoredSpace, texts: Sequence[str]) -> Embedded:
        self.asked.append((space.number, len(texts)))
        await self.sign.wait()
        if self.is_down:
            raise ModelUnavailable("out of service", "timeout")
        return Embedded(space, np.array([[space.number, float(text.split()[-1])] for text in texts], np.float32))


@pytest.fixture
async def model() -> Slow:
    return Slow()


@pytest.fixture
def examples(model: Slow) -> ExampleVectors:
    return ExampleVectors(cast(Spaces, cast(Any, model)))


async def test_many_who_ask_at_once_are_answered_by_one_piece_of_work(model: Slow, examples: ExampleVectors) -> None:
    asked = [asyncio.create_task(examples.of(b"a", TEXTS, ONE)) for _ in range(5)]
    await asyncio.sleep(0)
    model.sign.set()

    found = await asyncio.gather(*asked)

    assert model.asked == [(1, CHUNK), (1, CHUNK), (1, 1)]
    for each in found:
        assert each.vectors[:, 1].tolist() == list(range(len(TEXTS)))


async def test_who_gives_up_ends_nothing(model: Slow, examples: ExampleVectors) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(examples.of(b"a", TEXTS, ONE), 0.01)
    model.sign.set()
    assert len((await examples.of(b"a", TEXTS, ONE)).vectors) == len(TEXTS)
    assert sum(count for _, count in model.asked) == len(TEXTS)


async def test_a_space_that_was_prepared_is_ready_and_the_one_before_stays(
    model: Slow, examples: ExampleVectors
) -> None:
    model.sign.set()
    await examples.of(b"a", TEXTS, ONE)
    examples.prepare(b"a", TEXTS, TWO)
    examples.prepare(b"a", TEXTS, TWO)
    async with asyncio.timeout(5):
        while len(model.asked) < 6:  # noqa: ASYNC110 - it is what is tested
            await asyncio.sleep(0.001)
    asked = len(model.asked)

    there = await examples.of(b"a", TEXTS, TWO)
    back = await examples.of(b"a", TEXTS, ONE)

    assert (there.space, back.space) == (TWO, ONE)
    assert len(model.asked) == asked == 6


async def test_what_failed_is_begun_anew_by_who_asks_and_not_by_who_prepares(
    model: Slow, examples: ExampleVectors
) -> None:
    model.sign.set()
    model.is_down = True
    with pytest.raises(ModelUnavailable):
        await examples.of(b"a", TEXTS, ONE)
    await asyncio.sleep(0)
    model.is_down = False
    asked = len(model.asked)

    examples.prepare(b"a", TEXTS, ONE)
    await asyncio.sleep(0)

    assert len(model.asked) == asked
    assert len((await examples.of(b"a", TEXTS, ONE)).vectors) == len(TEXTS)
