"""Filling waits while searches are slow because of it, and only then."""

import asyncio

import pytest

from app.services import space_throttle
from app.services.space_throttle import FIRST_S, LATEST, LONGEST_S, SHORTER, SHORTEST_S, UNNOTICED_S, Throttle


class Search:
    """A probe that takes as long as is said."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self) -> None:
        await asyncio.sleep(self.seconds)


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes by what probes say they take."""
    clock = [0.0]

    async def pass_time(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(space_throttle.asyncio, "sleep", pass_time)
    monkeypatch.setattr(space_throttle.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(space_throttle, "EVERY_S", 0.0)


async def throttled(throttle: Throttle, batches: int) -> list[float]:
    """The pauses before so many batches."""
    pauses: list[float] = []
    for _ in range(batches):
        await throttle()
        pauses.append(throttle.pause_s)
    return pauses


async def test_searches_as_quick_as_before_hold_nothing_up() -> None:
    throttle = Throttle(Search(0.02), most=1.5, usual_s=0.02)
    assert await throttled(throttle, 3 * LATEST) == [0.0] * 3 * LATEST


async def test_it_begins_gently_with_what_it_measures() -> None:
    throttle = Throttle(Search(0.02), most=1.5)
    pauses = (await throttled(throttle, 8 * LATEST))[LATEST - 1 :: LATEST]
    assert throttle.usual_s == pytest.approx(0.02)
    assert pauses[:3] == pytest.approx([SHORTER * FIRST_S, SHORTER**2 * FIRST_S, SHORTER**3 * FIRST_S])
    assert pauses[-1] == 0.0


async def test_slow_searches_double_the_pause_up_to_its_limit() -> None:
    search = Search(0.06)
    throttle = Throttle(search, most=1.5, usual_s=0.02)
    pauses = (await throttled(throttle, 8 * LATEST))[LATEST - 1 :: LATEST]
    assert pauses[:3] == pytest.approx([SHORTEST_S, 2 * SHORTEST_S, 4 * SHORTEST_S])
    assert pauses[-1] == LONGEST_S


async def test_a_few_milliseconds_hold_nothing_up() -> None:
    """Twice as long is nothing where it is two milliseconds more."""
    throttle = Throttle(Search(0.002 + 0.9 * UNNOTICED_S), most=1.5, usual_s=0.002)
    assert await throttled(throttle, 3 * LATEST) == [0.0] * 3 * LATEST


async def test_the_pause_gets_shorter_when_searches_are_quick_again() -> None:
    search = Search(0.2)
    throttle = Throttle(search, most=1.5, usual_s=0.02)
    await throttled(throttle, 8 * LATEST)
    assert throttle.pause_s == LONGEST_S
    search.seconds = 0.02
    pauses = await throttled(throttle, 13 * LATEST)
    assert pauses == sorted(pauses, reverse=True)
    assert pauses[-1] == 0.0


async def test_one_slow_search_in_five_holds_nothing_up() -> None:
    """What a busy machine does by chance is not for the filler to make good."""
    search = Search(0.02)
    throttle = Throttle(search, most=1.5, usual_s=0.02)
    for number in range(8 * LATEST):
        search.seconds = 0.02 if number % 5 else 0.5
        await throttle()
        assert throttle.pause_s == 0.0
