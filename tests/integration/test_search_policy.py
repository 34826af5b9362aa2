"""The weights of a tenant's searches: fitted to judged recalls, promoted, used, and taken back."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
import pytest

from app.api.deps import Services
from app.domain.errors import NotFound, NotReady
from app.domain.memory import Draft, MemoryType
from app.domain.relevance import ARMS, DEFAULT_FUSION, fusion_of, weights_of
from app.services.ranking import SearchRequest
from app.services.search_policy import SearchPolicy
from app.store.recalls import Recall, RecallStore

HELD = weights_of(DEFAULT_FUSION)
AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def policy(services: Services) -> SearchPolicy:
    return SearchPolicy(services.database, services.catalogues, RecallStore(), services.memories.clock)


async def judge_some(services: Services, tenant: str, users: int, each: int) -> None:
    """Recalls in which the memory with the nearest vector was the helpful one, whatever the words say."""
    random, store = np.random.default_rng(3), RecallStore()
    for user in range(users):
        await services.memories.add(tenant, f"user-{user}", [Draft(MemoryType.HISTORY, "Went by")])
        made: list[tuple[Recall, str]] = []
        for _ in range(each):
            arms = random.random((8, len(ARMS)))
            arms = arms[np.argsort(-(arms @ HELD))]
            ids = [str(uuid4()) for _ in arms]
            shown = [
                {"id": name, "score": 0.5, "arms": arm.tolist(), "log_odds": float(arm @ HELD)}
                for name, arm in zip(ids, arms, strict=True)
            ]
            asked = {"limit": 8, "fusion": HELD.tolist()}
            recall = Recall(uuid4(), f"user-{user}", "search", "?", AT, AT, asked, "s", False, shown)
            made.append((recall, ids[int(np.argmax(arms[:, ARMS.index("cosine")]))]))
        async with services.database.begin(tenant) as connection:
            await store.put(connection, tenant, [recall for recall, _ in made])
            for recall, best in made:
                await store.judge(connection, tenant, recall.recall_id, [UUID(best)])


async def test_weights_are_learned_used_and_taken_back(services: Services, policy: SearchPolicy, tenant: str) -> None:
    await judge_some(services, tenant, users=15, each=6)
    before = await policy.status(tenant)
    assert (before["judged_recalls"], before["since"]) == (90, None)
    assert (await policy.fit(tenant)).estimate.is_gain
    assert (await policy.status(tenant))["weights"] == before["weights"]
    learned = await policy.promote(tenant)
    assert learned.learned["cosine"] > before["weights"]["cosine"]
    held = await policy.status(tenant)
    assert held["weights"] == learned.learned
    assert held["since"] is not None
    assert "gain" in held["reason"]

    found = await services.ranking.search(tenant, "user-0", SearchRequest("who went?"))
    assert found.recall_id is not None
    receipt = await services.recalls.receipt(tenant, found.recall_id)
    assert receipt.recall.asked["fusion"] == pytest.approx([learned.learned[name] for name in ARMS])
    arm, odds = receipt.recall.shown[0]["arms"], receipt.recall.shown[0]["log_odds"]
    fusion = fusion_of([learned.learned[name] for name in ARMS])
    assert odds == pytest.approx(fusion.offset + np.dot(arm, weights_of(fusion)), abs=1e-3)

    assert (await policy.rollback(tenant))["weights"] == before["weights"]
    with pytest.raises(NotFound):
        await policy.rollback(tenant)


async def test_too_little_is_no_reason(services: Services, policy: SearchPolicy, tenant: str) -> None:
    await judge_some(services, tenant, users=3, each=2)
    with pytest.raises(NotReady, match="6 judged recalls of 3 users"):
        await policy.promote(tenant)
    assert (await policy.status(tenant))["since"] is None
