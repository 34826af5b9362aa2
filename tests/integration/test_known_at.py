"""Two times for each fact: when it was true, and when that was learned."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.api.deps import Services
from app.domain.memory import Draft, MemoryType
from app.services.ranking import SearchRequest

USER = "ada"
QUESTION = "Where do I live?"
JANUARY, FEBRUARY, MARCH = (datetime(2025, month, 1, tzinfo=UTC) for month in (1, 2, 3))
A_WEEK = timedelta(days=7)


class SetClock:
    """A clock that says what it was told to."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def clock(services: Services, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """The moment at which the services learn something."""
    clock = SetClock(datetime(2025, 6, 1, tzinfo=UTC))
    for service in (services.memories, services.ranking):
        monkeypatch.setitem(service.__dict__, "clock", clock)
    return clock


async def learn(services: Services, tenant: str, clock: SetClock, at: datetime, what: str, since: datetime) -> UUID:
    """Add a home that is learned at a moment and true since another one."""
    clock.moment = at
    added = await services.memories.add(tenant, USER, [Draft(MemoryType.PROFILE, what, valid_from=since)])
    return added.ids[0]


async def homes(
    services: Services, tenant: str, *, as_of: datetime | None = None, known_at: datetime | None = None
) -> Sequence[str]:
    """Where the user lives, by what is found."""
    request = SearchRequest(QUESTION, types=[MemoryType.PROFILE], as_of=as_of, known_at=known_at)
    return [item.memory.content for item in (await services.ranking.search(tenant, USER, request)).ranked]


async def test_what_was_true_and_what_was_believed(services: Services, tenant: str, clock: SetClock) -> None:
    """A move in March that is told of in June: as of April one lived in Lyon, and in April one was believed not to."""
    april, june, july = (datetime(2025, month, 1, tzinfo=UTC) for month in (4, 6, 7))
    await learn(services, tenant, clock, JANUARY, "I live in Paris", JANUARY)
    await learn(services, tenant, clock, june, "I live in Lyon", MARCH)
    clock.moment = july
    assert await homes(services, tenant) == ["I live in Lyon"]
    assert await homes(services, tenant, as_of=april) == ["I live in Lyon"]
    assert await homes(services, tenant, as_of=april, known_at=april) == ["I live in Paris"]
    assert await homes(services, tenant, known_at=april) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=FEBRUARY) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=april, known_at=june) == ["I live in Lyon"]
    assert await homes(services, tenant, known_at=JANUARY - A_WEEK) == []


async def test_an_end_that_is_moved_twice(services: Services, tenant: str, clock: SetClock) -> None:
    """Learned in June: Paris since January. In July: Oslo since March. In August: Lyon in between, since February."""
    june, july, august, later = (datetime(2025, month, 1, tzinfo=UTC) for month in (6, 7, 8, 9))
    middle = FEBRUARY + A_WEEK
    await learn(services, tenant, clock, june, "I live in Paris", JANUARY)
    await learn(services, tenant, clock, july, "I live in Oslo", MARCH)
    await learn(services, tenant, clock, august, "I live in Lyon", FEBRUARY)
    clock.moment = later
    assert await homes(services, tenant, as_of=middle) == ["I live in Lyon"]
    assert await homes(services, tenant, as_of=middle, known_at=july + A_WEEK) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=MARCH + A_WEEK, known_at=july + A_WEEK) == ["I live in Oslo"]
    assert await homes(services, tenant, as_of=MARCH + A_WEEK, known_at=june + A_WEEK) == ["I live in Paris"]


async def test_a_beginning_that_is_learned_later(services: Services, tenant: str, clock: SetClock) -> None:
    """Learned in June: Paris since March. In July: since January. In June nobody knew of February."""
    june, july, later = (datetime(2025, month, 1, tzinfo=UTC) for month in (6, 7, 8))
    first = await learn(services, tenant, clock, june, "I live in Paris", MARCH)
    assert await learn(services, tenant, clock, july, "I live in Paris", JANUARY) == first
    clock.moment = later
    assert await homes(services, tenant) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=FEBRUARY) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=FEBRUARY, known_at=june + A_WEEK) == []
    assert await homes(services, tenant, as_of=MARCH, known_at=june + A_WEEK) == ["I live in Paris"]
    assert (await services.memories.get(tenant, first)).valid_from == JANUARY


async def test_a_time_away_that_is_learned_later(services: Services, tenant: str, clock: SetClock) -> None:
    """Learned in June and July: Paris in January and in March. In August: Lyon in between."""
    june, july, august, later = (datetime(2025, month, 1, tzinfo=UTC) for month in (6, 7, 8, 9))
    middle = FEBRUARY + A_WEEK
    paris = await learn(services, tenant, clock, june, "I live in Paris", JANUARY)
    assert await learn(services, tenant, clock, july, "I live in Paris", MARCH) == paris
    await learn(services, tenant, clock, august, "I live in Lyon", FEBRUARY)
    clock.moment = later
    for at, home in ((JANUARY + A_WEEK, "Paris"), (middle, "Lyon"), (MARCH + A_WEEK, "Paris"), (later, "Paris")):
        assert await homes(services, tenant, as_of=at) == [f"I live in {home}"]
        assert await homes(services, tenant, as_of=at, known_at=july + A_WEEK) == ["I live in Paris"]
    held = await services.memories.get(tenant, paris)
    assert (held.superseded_by, held.valid_from, held.valid_to) == (None, MARCH, None)


async def test_what_a_memory_said_before_it_was_changed(services: Services, tenant: str, clock: SetClock) -> None:
    """A change of wording: before it the old one was believed to hold; of the past it is still."""
    june, july, later = (datetime(2025, month, 1, tzinfo=UTC) for month in (6, 7, 8))
    memory_id = await learn(services, tenant, clock, june, "I live in Paris", JANUARY)
    clock.moment = july
    await services.memories.update(tenant, memory_id, {"content": "I live in Lille"})
    clock.moment = later
    assert await homes(services, tenant) == ["I live in Lille"]
    assert await homes(services, tenant, as_of=june) == ["I live in Paris"]
    assert await homes(services, tenant, known_at=june + A_WEEK) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=later, known_at=june + A_WEEK) == ["I live in Paris"]


async def test_an_end_that_is_told_is_known_from_then_on(services: Services, tenant: str, clock: SetClock) -> None:
    june, july, later = (datetime(2025, month, 1, tzinfo=UTC) for month in (6, 7, 8))
    memory_id = await learn(services, tenant, clock, june, "I live in Paris", JANUARY)
    clock.moment = july
    await services.memories.update(tenant, memory_id, {"valid_to": MARCH})
    clock.moment = later
    assert await homes(services, tenant) == []
    assert await homes(services, tenant, known_at=june + A_WEEK) == ["I live in Paris"]
    assert await homes(services, tenant, as_of=FEBRUARY) == ["I live in Paris"]
