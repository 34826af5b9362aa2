"""Memories on the real database and model: nothing half done, nothing twice, nothing lost of what was once true."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import CapturingLogger

from app.api.deps import Services
from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import Draft, MemoryType
from app.services import memories as memories_module
from app.services.ranking import SearchRequest
from tests.integration.conftest import facts

ROWS = text(
    "SELECT memory_id, xmin::text AS transaction, superseded_by, version_of FROM memories WHERE user_id = :user"
)
NOW = datetime.now(UTC)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


async def rows_of(services: Services, tenant: str, user: str) -> list:
    async with services.database.begin(tenant) as connection:
        return list((await connection.execute(ROWS, {"user": user})).all())


async def found(services: Services, tenant: str, user: str, query: str, as_of: datetime | None = None) -> list[str]:
    """What a search finds, in the order of the words."""
    result = await services.ranking.search(tenant, user, SearchRequest(query, as_of=as_of))
    return sorted(item.memory.content for item in result.ranked)


async def test_one_memory_is_kept_as_it_was_given(services: Services, tenant: str) -> None:
    """Every field comes back, whatever the script the content is in, and the user exists from then on."""
    draft = Draft(
        MemoryType.ARTIFACT,
        "Построил сайт 🚲\nмежду делом",
        0.61,
        ("web", "site"),
        "chat",
        days_ago(3),
        None,
        days_ago(-9),
    )
    added = await services.memories.add(tenant, "ünï/cøde 用户", [draft])
    held = await services.memories.get(tenant, added.ids[0])
    assert (held.user_id, held.content, held.confidence, held.tags) == (
        "ünï/cøde 用户",
        draft.content,
        0.61,
        ("web", "site"),
    )
    assert (held.source, held.valid_from, held.expires_at) == ("chat", draft.valid_from, draft.expires_at)
    assert held.created_at == held.updated_at >= NOW
    assert (added.deduplicated, added.superseded) == (0, ())


async def test_a_thousand_memories_are_one_transaction(services: Services, tenant: str) -> None:
    """1,000 at once give 1,000 ids in order and 1,000 rows, all written by the same transaction."""
    drafts = facts(*(f"Visited museum {number}" for number in range(1000)), kind=MemoryType.HISTORY)
    added = await services.memories.add(tenant, "visitor", drafts)
    rows = await rows_of(services, tenant, "visitor")
    assert {row.memory_id for row in rows} == set(added.ids)
    assert (len(rows), len(set(added.ids)), added.deduplicated) == (1000, 1000, 0)
    assert len({row.transaction for row in rows}) == 1
    for index in (0, 499, 999):
        assert (await services.memories.get(tenant, added.ids[index])).content == f"Visited museum {index}"


async def test_a_failure_in_the_middle_leaves_nothing(services: Services, tenant: str) -> None:
    """A memory the database refuses takes the whole batch with it, the new user included."""
    contents = [f"Fact number {number}" for number in range(20)]
    contents[11] = "not storable: \0"
    with pytest.raises(DBAPIError):
        await services.memories.add(tenant, "nobody", facts(*contents, kind=MemoryType.HISTORY))
    assert await rows_of(services, tenant, "nobody") == []
    with pytest.raises(NotFound):
        await services.personas.get(tenant, "nobody")
    with pytest.raises(InvalidInput):
        await services.memories.add(
            tenant, "nobody", [*facts("fine"), Draft(MemoryType.GOAL, "ends first", valid_to=days_ago(1))]
        )
    assert await rows_of(services, tenant, "nobody") == []


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ("I like hiking in the mountains", "I like hiking in the mountains"),
        ("I like hiking in the mountains", "  i LIKE hiking   in the mountains. "),
        ("I like hiking in the mountains", "I really like hiking in the mountains"),
        ("I like spicy food a lot.", "I like spicy food very much."),
        ("Our team uses 2 week sprints.", "Our team uses two week sprints."),
    ],
)
async def test_what_says_the_same_is_kept_once(services: Services, tenant: str, first: str, again: str) -> None:
    """Said again, in a second call or in the same one, a fact stays one row, is surer, and keeps all tags."""
    for user, batches in (("later", 2), ("at once", 1)):
        one = Draft(MemoryType.PREFERENCE, first, 0.6, ("a", "b"))
        two = Draft(MemoryType.PREFERENCE, again, 0.6, ("b", "c"))
        if batches == 2:
            ids = (await services.memories.add(tenant, user, [one])).ids
            added = await services.memories.add(tenant, user, [two])
            ids = (*ids, *added.ids)
        else:
            added = await services.memories.add(tenant, user, [one, two])
            ids = added.ids
        assert added.deduplicated == 1
        assert ids[0] == ids[1]
        assert len(await rows_of(services, tenant, user)) == 1
        held = await services.memories.get(tenant, ids[0])
        assert (held.content, held.tags) == (first, ("a", "b", "c"))
        assert 0.6 < held.confidence < 1.0


async def test_many_writers_of_the_same_facts_write_them_once(services: Services, tenant: str) -> None:
    """32 writers with the same five facts, worded alike but not the same, in different orders: five rows."""
    known = [
        ("I like hiking in the mountains", "I really like hiking in the mountains"),
        ("My dog is called Rex.", "my dog is called Rex"),
        ("I am allergic to peanuts.", "I AM allergic to peanuts"),
        ("I prefer the window seat on a plane.", "I prefer the window seat on the plane."),
        ("My bike is a red Brompton.", "My bike is a red Brompton"),
    ]

    async def write(number: int) -> int:
        contents = [pair[(number + index) % 2] for index, pair in enumerate(known)]
        turn = number % len(known)
        added = await services.memories.add(tenant, "crowd", facts(*contents[turn:], *contents[:turn]))
        return added.deduplicated

    merged = await asyncio.gather(*(write(number) for number in range(32)))
    assert len(await rows_of(services, tenant, "crowd")) == len(known)
    assert sum(merged) == 31 * len(known)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("My flat has 3 rooms", "My flat has 4 rooms"),
        ("The meeting with Anna went well", "The meeting with Hanna went well"),
        ("I tried the new ramen place and liked it", "I tried the new ramen place and never liked it"),
    ],
    ids=["number", "name", "negation"],
)
async def test_a_differing_detail_is_another_fact(services: Services, tenant: str, first: str, second: str) -> None:
    """However near two sentences are, another number, name or a negation makes them two events."""
    for user, batches in (("later", [[first], [second]]), ("at once", [[first, second]])):
        for contents in batches:
            added = await services.memories.add(tenant, user, facts(*contents, kind=MemoryType.HISTORY))
            assert (added.deduplicated, added.superseded) == (0, ())
        assert len(await rows_of(services, tenant, user)) == 2


@pytest.mark.parametrize(
    ("kind", "old", "new", "query"),
    [
        (MemoryType.PROFILE, "I live in Paris", "I live in Berlin", "where do I live"),
        (MemoryType.PREFERENCE, "My editor is Vim", "My editor is Emacs", "which editor"),
        (MemoryType.PREFERENCE, "I like spicy food", "I don't like spicy food", "spicy food"),
        (MemoryType.CONSTRAINT, "My budget is 300 euros", "My budget is 500 euros", "budget"),
    ],
)
async def test_a_contradiction_supersedes_and_the_old_one_stays_readable(
    services: Services,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    kind: MemoryType,
    old: str,
    new: str,
    query: str,
) -> None:
    """A search finds the new one only, `as_of` before finds the old one only, and the log says so without
    the user's words."""
    log = CapturingLogger()
    monkeypatch.setattr(memories_module, "log", log)
    first = await services.memories.add(tenant, "u", [Draft(kind, old, valid_from=days_ago(30))])
    second = await services.memories.add(tenant, "u", [Draft(kind, new, valid_from=days_ago(10))])
    assert second.superseded == first.ids
    assert await found(services, tenant, "u", query) == [new]
    assert await found(services, tenant, "u", query, days_ago(20)) == [old]
    assert await found(services, tenant, "u", query, days_ago(40)) == []
    replaced = await services.memories.get(tenant, first.ids[0])
    assert (replaced.superseded_by, replaced.valid_to) == (second.ids[0], days_ago(10))
    assert replaced.updated_at >= NOW
    assert [memory.content for memory in await services.memories.history(tenant, second.ids[0])] == [old, new]
    events = [call.kwargs for call in log.calls if call.args == ("memory_conflict_resolved",)]
    assert [(event["memory_id"], event["action"], event["others"]) for event in events] == [
        (str(second.ids[0]), "supersede", [str(first.ids[0])])
    ]
    assert new not in str(log.calls)


async def test_a_contradiction_within_one_call_is_resolved_too(services: Services, tenant: str) -> None:
    """The later of two contradicting drafts replaces the earlier, and what had ended before stays as it was."""
    added = await services.memories.add(
        tenant,
        "u",
        [
            Draft(MemoryType.PROFILE, "I live in Rome", valid_from=days_ago(90), valid_to=days_ago(60)),
            Draft(MemoryType.PROFILE, "I live in Paris", valid_from=days_ago(30)),
            Draft(MemoryType.PROFILE, "I live in Berlin", valid_from=days_ago(10)),
        ],
    )
    assert added.superseded == (added.ids[1],)
    assert await found(services, tenant, "u", "where do I live") == ["I live in Berlin"]
    assert await found(services, tenant, "u", "where do I live", days_ago(20)) == ["I live in Paris"]
    assert await found(services, tenant, "u", "where do I live", days_ago(50)) == []
    assert await found(services, tenant, "u", "where do I live", days_ago(70)) == ["I live in Rome"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2)])
@pytest.mark.parametrize("is_at_once", [False, True], ids=["one by one", "at once"])
async def test_facts_may_arrive_in_any_order(
    services: Services, tenant: str, order: tuple[int, ...], is_at_once: bool
) -> None:
    """Whatever the order in which three cities are told, each moment has exactly the city of that time."""
    cities = [("Paris", 90), ("Tokyo", 60), ("Berlin", 30)]
    drafts = [Draft(MemoryType.PROFILE, f"I live in {cities[i][0]}", valid_from=days_ago(cities[i][1])) for i in order]
    for batch in [drafts] if is_at_once else [[draft] for draft in drafts]:
        await services.memories.add(tenant, "u", batch)
    for city, since in cities:
        assert await found(services, tenant, "u", "where do I live", days_ago(since - 15)) == [f"I live in {city}"]
    assert await found(services, tenant, "u", "where do I live") == ["I live in Berlin"]
    assert await found(services, tenant, "u", "where do I live", days_ago(100)) == []


@pytest.mark.parametrize("way", ["one by one", "at once", "side by side"])
async def test_away_and_back_in_any_order(services: Services, tenant: str, way: str) -> None:
    """A city one lived in twice is told three times, in every order: each moment has the city of that time."""
    told = [("Paris", 90), ("Tokyo", 60), ("Paris", 30)]
    for number, order in enumerate(permutations(told)):
        user = f"u{number}"
        drafts = [Draft(MemoryType.PROFILE, f"I live in {city}", valid_from=days_ago(days)) for city, days in order]
        if way == "side by side":
            await asyncio.gather(*(services.memories.add(tenant, user, [draft]) for draft in drafts))
        else:
            for batch in [drafts] if way == "at once" else [[draft] for draft in drafts]:
                await services.memories.add(tenant, user, batch)
        for city, days in told:
            assert await found(services, tenant, user, "where do I live", days_ago(days - 5)) == [f"I live in {city}"]
        assert await found(services, tenant, user, "where do I live") == ["I live in Paris"]
        assert await found(services, tenant, user, "where do I live", days_ago(100)) == []


async def test_a_period_of_its_own_is_not_swallowed(services: Services, tenant: str) -> None:
    """A stay that was over before the one that holds stays a stay of its own, told before it or after; of moments in
    between nothing is known."""
    early = Draft(MemoryType.PROFILE, "I live in Paris", valid_from=days_ago(90), valid_to=days_ago(60))
    late = Draft(MemoryType.PROFILE, "I live in Paris", valid_from=days_ago(30))
    for user, drafts in (("u", [late, early]), ("v", [early, late])):
        for draft in drafts:
            assert (await services.memories.add(tenant, user, [draft])).deduplicated == 0
        await services.memories.add(tenant, user, [replace(early, valid_from=days_ago(80))])
        for days, known in ((10, 1), (45, 0), (70, 1), (95, 0)):
            assert len(await found(services, tenant, user, "where do I live", days_ago(days))) == known


async def test_a_change_keeps_the_old_version(services: Services, tenant: str) -> None:
    """After a new wording the old one is in the history and `as_of` finds it for its own time; a change of
    tags alone adds to the history and not to the past."""
    (added,) = (
        await services.memories.add(tenant, "u", [Draft(MemoryType.GOAL, "Run a 5K", valid_from=days_ago(9))])
    ).ids
    await services.memories.update(tenant, added, {"tags": ["sport"]})
    changed = await services.memories.update(tenant, added, {"content": "Run a marathon", "confidence": 0.9})
    assert (changed.memory_id, changed.content, changed.confidence, changed.tags) == (
        added,
        "Run a marathon",
        0.9,
        ("sport",),
    )
    versions = await services.memories.history(tenant, added)
    assert [(version.content, version.tags) for version in versions] == [
        ("Run a 5K", ()),
        ("Run a 5K", ("sport",)),
        ("Run a marathon", ("sport",)),
    ]
    assert await found(services, tenant, "u", "running") == ["Run a marathon"]
    assert await found(services, tenant, "u", "running", days_ago(5)) == ["Run a 5K"]
    with pytest.raises(InvalidInput):
        await services.memories.update(tenant, versions[0].memory_id, {"content": "Run backwards"})
    with pytest.raises(InvalidInput):
        await services.memories.update(tenant, added, {"valid_to": days_ago(30)})
    with pytest.raises(NotFound):
        await services.memories.update(tenant, uuid4(), {"content": "Run"})
    assert len(await services.memories.history(tenant, added)) == 3


async def test_a_change_of_the_past_leaves_no_overlap_and_no_gap(services: Services, tenant: str) -> None:
    """A wording that holds since a given moment ends the old one there; an old one that had ended stays so."""
    (goal,) = (
        await services.memories.add(tenant, "u", [Draft(MemoryType.GOAL, "Run a 5K", valid_from=days_ago(9))])
    ).ids
    await services.memories.update(tenant, goal, {"content": "Run a marathon", "valid_from": days_ago(4)})
    assert await found(services, tenant, "u", "running", days_ago(5)) == ["Run a 5K"]
    assert await found(services, tenant, "u", "running", days_ago(3)) == ["Run a marathon"]
    await services.memories.update(tenant, goal, {"content": "Run a triathlon", "valid_from": NOW + timedelta(days=1)})
    assert await found(services, tenant, "u", "running") == ["Run a marathon"]
    assert await found(services, tenant, "u", "running", NOW + timedelta(days=2)) == ["Run a triathlon"]
    draft = Draft(MemoryType.GOAL, "Learn Greek", valid_from=days_ago(9), valid_to=days_ago(6))
    (ended,) = (await services.memories.add(tenant, "u", [draft])).ids
    await services.memories.update(tenant, ended, {"content": "Learn Greek well", "valid_to": None})
    assert "Learn Greek" not in await found(services, tenant, "u", "Greek", days_ago(3))
    assert "Learn Greek" in await found(services, tenant, "u", "Greek", days_ago(7))


async def test_changes_at_the_same_time_all_leave_a_version(services: Services, tenant: str) -> None:
    """Ten changes at once give ten versions, each true for a while."""
    (memory,) = (await services.memories.add(tenant, "u", facts("Version 0", kind=MemoryType.ARTIFACT))).ids
    await asyncio.gather(
        *(services.memories.update(tenant, memory, {"content": f"Version {number}"}) for number in range(1, 11))
    )
    versions = await services.memories.history(tenant, memory)
    assert sorted(version.content for version in versions) == sorted(f"Version {number}" for number in range(11))
    for earlier, later in pairwise(versions):
        assert earlier.valid_to == later.valid_from


async def test_deleting_by_id_type_and_user(services: Services, tenant: str, other_tenant: str) -> None:
    """Versions go with their memory, other types and users stay, and another tenant has nothing to delete."""
    goal, like = (
        await services.memories.add(
            tenant, "u", [*facts("Learn Dutch", kind=MemoryType.GOAL), *facts("I like mornings")]
        )
    ).ids
    (other,) = (await services.memories.add(tenant, "v", facts("I like evenings"))).ids
    await services.memories.update(tenant, goal, {"content": "Learn Danish"})
    with pytest.raises(NotFound):
        await services.memories.delete_one(other_tenant, goal)
    assert await services.memories.delete_one(tenant, goal) == 2
    with pytest.raises(NotFound):
        await services.memories.get(tenant, goal)
    await services.memories.add(tenant, "u", facts("Learn Finnish", kind=MemoryType.GOAL))
    assert await services.memories.delete(tenant, "u", MemoryType.GOAL) == 1
    assert (await services.memories.get(tenant, like)).content == "I like mornings"
    assert await services.memories.delete(tenant, "u") == 1
    assert await services.memories.delete(tenant, "u") == 0
    assert (await services.memories.get(tenant, other)).content == "I like evenings"
    with pytest.raises(NotFound):
        await services.memories.delete(tenant, "unknown")


async def test_a_search_respects_expiry_and_validity(services: Services, tenant: str) -> None:
    """What has expired, has ended or has not begun is not found now, and is found for the moment it held."""
    await services.memories.add(
        tenant,
        "u",
        [
            Draft(MemoryType.HISTORY, "Coffee machine rented", valid_from=days_ago(9), expires_at=days_ago(2)),
            Draft(MemoryType.HISTORY, "Coffee beans ordered", valid_from=days_ago(9), valid_to=days_ago(2)),
            Draft(MemoryType.HISTORY, "Coffee course booked", valid_from=days_ago(-3)),
            Draft(MemoryType.HISTORY, "Coffee cup broken", valid_from=days_ago(5)),
        ],
    )
    assert await found(services, tenant, "u", "coffee") == ["Coffee cup broken"]
    assert await found(services, tenant, "u", "coffee", days_ago(3)) == [
        "Coffee beans ordered",
        "Coffee cup broken",
        "Coffee machine rented",
    ]
    assert await found(services, tenant, "u", "coffee", days_ago(-4)) == ["Coffee course booked", "Coffee cup broken"]
