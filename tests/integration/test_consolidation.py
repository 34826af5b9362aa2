"""Consolidation on the real database: what was never compared with everything is, once, and stays readable."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.api.deps import Services
from app.domain.memory import Draft, MemoryType
from app.ports import SystemClock
from app.services.jobs.consolidation import ConsolidationService
from app.services.ranking import SearchRequest
from app.store.consolidation import ConsolidationStore
from app.store.memories import MemoryStore
from app.store.users import UserStore

USER = "ada"
NOW = datetime.now(UTC)


@pytest.fixture
def consolidation(services: Services) -> ConsolidationService:
    return ConsolidationService(
        services.database, services.spaces, ConsolidationStore(), MemoryStore(), UserStore(), SystemClock()
    )


async def put_beside(services: Services, tenant: str, content: str, kind: MemoryType, days_ago: float) -> None:
    """A memory that was compared with nothing, as an import brings it."""
    added = await services.memories.add(tenant, f"elsewhere, {days_ago}", [Draft(kind, content)])
    at = NOW - timedelta(days=days_ago)
    async with services.database.begin(tenant) as connection:
        store, spaces = MemoryStore(), services.spaces
        memory = await store.get(connection, tenant, added.ids[0])
        assert memory is not None
        own = replace(memory, memory_id=uuid4(), user_id=USER, created_at=at, updated_at=at, valid_from=at)
        await services.memories.users.ensure(connection, tenant, USER, NOW)
        await store.insert(connection, tenant, [(own, ())])
        embedded = await spaces.embed(tenant, [content])
        await services.memories.vectors.write(
            connection, tenant, embedded.space, "memory", [(USER, own.memory_id)], embedded.vectors, "serving"
        )


async def changed(services: Services, tenant: str) -> list[str]:
    async with services.database.begin(tenant) as connection:
        return await ConsolidationStore().changed_users(connection, tenant, 10)


async def test_what_was_not_compared_is_compared_once(
    services: Services, consolidation: ConsolidationService, tenant: str
) -> None:
    await put_beside(services, tenant, "I live in Paris", MemoryType.PROFILE, 90)
    await put_beside(services, tenant, "I live in Lyon", MemoryType.PROFILE, 30)
    await put_beside(services, tenant, "I like green tea", MemoryType.PREFERENCE, 60)
    await put_beside(services, tenant, "I like green tea.", MemoryType.PREFERENCE, 20)
    assert USER in await changed(services, tenant)

    found = await consolidation.consolidate(tenant, USER)
    assert (len(found.repeats), len(found.ended)) == (1, 1)
    held = {each.content: each for each in await services.memories.page(tenant, USER)}
    assert set(held) == {"I live in Lyon", "I like green tea"}
    assert held["I like green tea"].proof_count == 2
    history = await services.memories.history(tenant, held["I live in Lyon"].memory_id)
    assert [each.content for each in history] == ["I live in Paris", "I live in Lyon"]
    told = await services.memories.history(tenant, held["I like green tea"].memory_id)
    assert [each.content for each in told] == ["I like green tea.", "I like green tea"]
    request = SearchRequest("Where do I live?", 1, as_of=NOW - timedelta(days=40))
    as_of = await services.ranking.search(tenant, USER, request)
    assert as_of.ranked[0].memory.content == "I live in Paris"

    assert USER not in await changed(services, tenant)
    assert (await consolidation.consolidate(tenant, USER)).is_nothing
    await services.memories.add(tenant, USER, [Draft(MemoryType.HISTORY, "Went by")])
    assert USER in await changed(services, tenant)


async def test_the_job_looks_at_everyone_who_changed(
    services: Services, consolidation: ConsolidationService, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More users than are looked up at a time."""
    from app.services.jobs import consolidation as module

    monkeypatch.setattr(module, "USERS", 2)
    for number in range(5):
        await services.memories.add(tenant, f"user-{number}", [Draft(MemoryType.HISTORY, "Went by")])
    await consolidation.handle(module.JobPayload(tenant_id=tenant), run=None)  # type: ignore[arg-type]
    assert await changed(services, tenant) == []
