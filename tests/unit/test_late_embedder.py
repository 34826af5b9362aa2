"""A model that is loaded when the first text comes: once, whoever gives up waiting for it."""

import asyncio

import pytest

from app.clients.embeddings.late import LateEmbedder
from app.domain.errors import ModelUnavailable
from app.ports import Embedder
from tests.fakes import FakeEmbedder


class Opening:
    """Opens when it may, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0
        self.may = asyncio.Event()
        self.error: Exception | None = None
        self.real = FakeEmbedder()

    async def __call__(self) -> Embedder:
        self.times += 1
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return self.real


async def test_it_is_opened_once_for_all_who_ask() -> None:
    opening = Opening()
    late = LateEmbedder(opening)
    with pytest.raises(ModelUnavailable):
        _ = late.space
    asked = [asyncio.create_task(late.embed(["x"])) for _ in range(3)]
    await asyncio.sleep(0)
    opening.may.set()
    await asyncio.gather(*asked)
    assert (opening.times, late.space, late.backend) == (1, opening.real.space, "fake")


async def test_who_gives_up_does_not_end_the_opening() -> None:
    """A write waits a second at most for a model that takes longer to load; the next one finds it loaded."""
    opening = Opening()
    late = LateEmbedder(opening)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(late.embed(["x"]), 0.01)
    opening.may.set()
    assert (await late.embed(["x"])).shape == (1, 384)
    assert opening.times == 1


async def test_what_could_not_be_opened_is_tried_again() -> None:
    opening = Opening()
    opening.may.set()
    opening.error = ModelUnavailable("no file")
    late = LateEmbedder(opening)
    with pytest.raises(ModelUnavailable, match="no file"):
        await late.embed(["x"])
    opening.error = None
    await late.embed(["x"])
    assert opening.times == 2
    await late.aclose()
    await late.embed(["x"])
    assert opening.times == 3, "closed, it can be opened again"
