"""Memories by page: each once, in order, whatever their times and whatever is added meanwhile."""

from datetime import UTC, datetime, timedelta

import pytest

from app.api.deps import Services
from app.api.params import cursor_of, place_of
from app.domain.errors import NotFound
from app.domain.memory import Draft, Memory, MemoryType

NOW = datetime.now(UTC)


async def pages(services: Services, tenant: str, user: str, limit: int) -> list[list[Memory]]:
    """All pages, each asked for with the cursor that the one before ended with."""
    found: list[list[Memory]] = []
    cursor = None
    while True:
        page = await services.memories.page(tenant, user, after=place_of(cursor), limit=limit)
        found.append(page)
        if len(page) < limit:
            return found
        cursor = cursor_of(page[-1])


@pytest.mark.parametrize("limit", [1, 4, 11, 12, 100])
async def test_pages_hold_every_memory_once_newest_first(services: Services, tenant: str, limit: int) -> None:
    """Eleven memories of three moments, so that ties cross the ends of pages."""
    drafts = [
        Draft(MemoryType.HISTORY, f"Event {word}", valid_from=NOW - timedelta(days=index % 3))
        for index, word in enumerate("apple bear cedar dune elk fern gate hill iris jade kite".split())
    ]
    added = await services.memories.add(tenant, "ada", drafts)
    found = [memory for page in await pages(services, tenant, "ada", limit) for memory in page]
    assert {memory.memory_id for memory in found} == set(added.ids)
    assert len(found) == len(drafts)
    assert [memory.valid_from for memory in found] == sorted((each.valid_from for each in found), reverse=True)


async def test_only_what_holds_now_and_is_asked_for(services: Services, tenant: str) -> None:
    """Nothing superseded, expired, earlier or of the future; one type, one tag."""
    add = services.memories.add
    await add(tenant, "ada", [Draft(MemoryType.PROFILE, "I live in Lyon", valid_from=NOW - timedelta(days=9))])
    await add(tenant, "ada", [Draft(MemoryType.PROFILE, "I live in Paris", tags=("home", "law"))])
    await add(tenant, "ada", [Draft(MemoryType.GOAL, "I want to run", expires_at=NOW - timedelta(days=1))])
    await add(tenant, "ada", [Draft(MemoryType.HISTORY, "We will meet", valid_from=NOW + timedelta(days=1))])
    event = (await add(tenant, "ada", [Draft(MemoryType.HISTORY, "We met")])).ids[0]
    await services.memories.update(tenant, event, {"content": "We met in May"})

    async def contents(kind: MemoryType | None = None, tag: str | None = None) -> list[str]:
        return [each.content for each in await services.memories.page(tenant, "ada", kind=kind, tag=tag)]

    assert sorted(await contents()) == ["I live in Paris", "We met in May"]
    assert await contents(MemoryType.HISTORY) == ["We met in May"]
    assert await contents(tag="law") == ["I live in Paris"]
    assert await contents(MemoryType.HISTORY, "law") == []


async def test_what_is_added_meanwhile_moves_nothing(services: Services, tenant: str) -> None:
    """The rest of the list is the same, though there is something newer now."""
    drafts = [Draft(MemoryType.HISTORY, f"Event {word}") for word in ("apple", "bear", "cedar")]
    ids = set((await services.memories.add(tenant, "ada", drafts)).ids)
    first = await services.memories.page(tenant, "ada", limit=2)
    await services.memories.add(tenant, "ada", [Draft(MemoryType.HISTORY, "Event dune")])
    rest = await services.memories.page(tenant, "ada", after=place_of(cursor_of(first[-1])), limit=9)
    assert len(first + rest) == 3
    assert {memory.memory_id for memory in first + rest} == ids


async def test_users_of_others_are_unknown(services: Services, tenant: str, other_tenant: str) -> None:
    """No page of a user whom this tenant does not know, with whatever cursor."""
    added = await services.memories.add(other_tenant, "ada", [Draft(MemoryType.HISTORY, "We met")])
    held = await services.memories.get(other_tenant, added.ids[0])
    for after in (None, (held.valid_from + timedelta(days=1), held.memory_id)):
        with pytest.raises(NotFound):
            await services.memories.page(tenant, "ada", after=after)


def test_every_cursor_is_some_place() -> None:
    """Any 32 characters of the alphabet: a caller may send what it likes."""
    for cursor in ("A" * 32, "_" * 32, "-" * 32, "f" + "_" * 31, "gAAAAAAA" + "x" * 24):
        assert place_of(cursor) is not None
