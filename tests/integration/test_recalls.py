"""Recalls: written down after the answer, looked at, judged, done again, and forgotten."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import Draft, MemoryType
from app.domain.relevance import ARMS
from app.services.choices import ExecuteRequest
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.store.recalls import RecallStore
from app.wiring import build_services

USER = "ada"
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


async def remembered(services: Services, tenant: str) -> None:
    """A user who told a few things."""
    await services.memories.add(
        tenant,
        USER,
        [
            Draft(MemoryType.PROFILE, "I live in Paris", valid_from=LONG_AGO, quote="we live in Paris, you know"),
            Draft(MemoryType.PREFERENCE, "I like long walks along the river", valid_from=LONG_AGO),
            Draft(MemoryType.HISTORY, "Bought a bicycle helmet", valid_from=LONG_AGO),
        ],
    )


async def test_a_recall_has_a_receipt(services: Services, tenant: str) -> None:
    """It is there at once, and after it was written down: each memory shown with what it was ranked by."""
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 2))
    assert found.recall_id is not None
    at_once = await services.recalls.receipt(tenant, found.recall_id)
    await services.recalls.log.aclose()
    written = await services.recalls.receipt(tenant, found.recall_id)
    assert written.memories == at_once.memories == [item.memory for item in found.ranked]
    assert written.recall.shown == at_once.recall.shown
    first, best = written.recall.shown[0], found.ranked[0]
    assert first["score"] == pytest.approx(best.score, abs=1e-6)
    assert first["cosine"] == pytest.approx(best.cosine, abs=1e-6)
    assert len(first["arms"]) == len(ARMS)
    assert written.memories[0] is not None
    assert written.memories[0].quote == "we live in Paris, you know"
    assert [each.recall_id for each in await services.recalls.page(tenant, USER)] == [found.recall_id]
    with pytest.raises(NotFound):
        await services.recalls.receipt(f"{tenant}-other", found.recall_id)


async def test_a_recall_is_done_again(services: Services, tenant: str) -> None:
    """By what was known then it gives the same, whatever was learned, changed or told since; now it gives what is true
    now."""
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 3))
    assert found.recall_id is not None
    await services.memories.add(tenant, USER, [Draft(MemoryType.PROFILE, "I live in Lyon")])
    helmet = next(item.memory for item in found.ranked if "helmet" in item.memory.content)
    await services.memories.update(tenant, helmet.memory_id, {"content": "Lives with a helmet on"})
    replay = await services.recalls.replay(tenant, found.recall_id)
    assert [item.memory.content for item in replay.then.ranked] == [item.memory.content for item in found.ranked]
    assert replay.is_same, "a memory whose wording was changed is told by an earlier version of it"
    assert replay.now.ranked[0].memory.content == "I live in Lyon"
    page = await services.recalls.page(tenant, USER)
    assert len(page) <= 1, "a replay is written down"


async def test_a_recall_of_what_was_known_earlier_is_done_again(services: Services, tenant: str) -> None:
    """By what was known at the moment that was asked for, not by what was known when it was asked."""
    await remembered(services, tenant)
    before = datetime.now(UTC)
    moved_at = before - timedelta(days=30)
    await services.memories.add(tenant, USER, [Draft(MemoryType.PROFILE, "I live in Lyon", valid_from=moved_at)])
    request = SearchRequest("Where do I live?", 3, known_at=before)
    found = await services.ranking.search(tenant, USER, request)
    assert "I live in Paris" in [item.memory.content for item in found.ranked]
    assert found.recall_id is not None
    await services.recalls.log.aclose()
    replay = await services.recalls.replay(tenant, found.recall_id)
    assert [item.memory.content for item in replay.then.ranked] == [item.memory.content for item in found.ranked]
    assert replay.is_same
    assert replay.now.ranked[0].memory.content == "I live in Lyon"


async def test_a_recall_within_a_budget_is_done_again_within_it(services: Services, tenant: str) -> None:
    await remembered(services, tenant)
    whole = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 3))
    budget = services.ranking.tokenizer.count(whole.ranked[0].memory.content)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 3, token_budget=budget))
    assert [item.memory for item in found.ranked] == [whole.ranked[0].memory]
    assert (whole.left_out, found.left_out) == (0, 2)
    assert found.recall_id is not None
    replay = await services.recalls.replay(tenant, found.recall_id)
    assert replay.is_same
    assert len(replay.now.ranked) == 1


async def test_a_receipt_shows_what_was_shown(services: Services, tenant: str) -> None:
    """After a change of wording and a replacement: each memory as it was known at that moment, and as it is now."""
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 3))
    assert found.recall_id is not None
    shown = {item.memory.memory_id: item.memory for item in found.ranked}
    helmet, home = (next(m for m in shown.values() if word in m.content) for word in ("helmet", "Paris"))
    await services.memories.update(tenant, helmet.memory_id, {"content": "Sold the helmet", "quote": None})
    await services.memories.update(tenant, helmet.memory_id, {"tags": ["sport"]})
    await services.memories.add(tenant, USER, [Draft(MemoryType.PROFILE, "I live in Lyon")])
    receipt = await services.recalls.receipt(tenant, found.recall_id)
    known = dict(zip(receipt.recall.memory_ids, zip(receipt.memories, receipt.current, strict=True), strict=True))
    then, now = known[helmet.memory_id]
    assert then is not None
    assert now is not None
    assert (then.content, then.version_of, then.tags) == ("Bought a bicycle helmet", helmet.memory_id, ())
    assert (now.memory_id, now.content, now.tags) == (helmet.memory_id, "Sold the helmet", ("sport",))
    then, now = known[home.memory_id]
    assert then is not None
    assert now is not None
    assert replace(then, updated_at=home.updated_at) == home, "nobody knew yet that it would end"
    assert now.superseded_by is not None
    await services.memories.delete_one(tenant, helmet.memory_id)
    receipt = await services.recalls.receipt(tenant, found.recall_id)
    at = receipt.recall.memory_ids.index(helmet.memory_id)
    assert (receipt.memories[at], receipt.current[at]) == (None, None)


async def test_a_recall_that_cannot_be_done_again_says_so(services: Services, tenant: str) -> None:
    """What was deleted is gone, from what was known before too."""
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 1))
    assert found.recall_id is not None
    assert (await services.recalls.replay(tenant, found.recall_id)).is_same
    await services.memories.delete_one(tenant, found.ranked[0].memory.memory_id)
    assert (await services.recalls.receipt(tenant, found.recall_id)).memories == [None]
    assert not (await services.recalls.replay(tenant, found.recall_id)).is_same


async def test_a_prompt_has_a_receipt_under_its_own_id(services: Services, tenant: str) -> None:
    await remembered(services, tenant)
    execution = await services.context.execute(tenant, USER, ExecuteRequest("plan a walk along the river"))
    await services.recalls.log.aclose()
    receipt = await services.recalls.receipt(tenant, execution.execution_id)
    assert receipt.recall.kind == "execute"
    used = {use.memory_id for use in execution.prompt.uses}
    assert set(receipt.recall.memory_ids) == used
    assert used
    assert (await services.recalls.replay(tenant, execution.execution_id)).is_same


async def test_what_was_helpful(services: Services, tenant: str) -> None:
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?", 2))
    assert found.recall_id is not None
    await services.recalls.log.aclose()
    best = found.ranked[0].memory.memory_id
    await services.recalls.judge(tenant, found.recall_id, [best])
    assert (await services.recalls.receipt(tenant, found.recall_id)).recall.helpful == [str(best)]
    with pytest.raises(InvalidInput, match="did not show"):
        await services.recalls.judge(tenant, found.recall_id, [uuid4()])
    with pytest.raises(NotFound):
        await services.recalls.judge(tenant, uuid4(), [])
    async with services.database.begin(tenant) as connection:
        (judged,) = await RecallStore().judged(connection, tenant, 10)
        assert judged.recall_id == found.recall_id
        await services.recalls.ranking.users.set_consent(connection, tenant, USER, has_consent=False)
        assert await RecallStore().judged(connection, tenant, 10) == []


async def test_old_recalls_go_and_an_erased_user_leaves_none(services: Services, tenant: str) -> None:
    await remembered(services, tenant)
    for _ in range(3):
        await services.ranking.search(tenant, USER, SearchRequest("Where do I live?"))
    await services.recalls.log.aclose()
    now = datetime.now(UTC)
    async with services.database.begin(tenant) as connection:
        assert await RecallStore().delete_old(connection, tenant, now - timedelta(days=1), 10) == 0
        assert await RecallStore().delete_old(connection, tenant, now + timedelta(days=1), 2) == 2
    await services.ranking.search(tenant, USER, SearchRequest("Where do I live?"))
    erased = (await services.transfer.erase(tenant, USER)).erased
    await services.recalls.log.aclose()
    async with services.database.begin(tenant) as connection:
        assert await RecallStore().page(connection, tenant, USER, after=None, limit=10) == []
    assert erased["recalls"] <= 2


async def test_where_none_are_to_be_kept_none_is(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str
) -> None:
    services = build_services(settings.model_copy(update={"recalls_kept_days": 0}), database, embedder)
    await remembered(services, tenant)
    found = await services.ranking.search(tenant, USER, SearchRequest("Where do I live?"))
    assert found.ranked
    assert found.recall_id is None
    assert await services.recalls.page(tenant, USER) == []
