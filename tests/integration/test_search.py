"""Search on the real database and model: what is found, in which order, at what cost, and with a part missing."""

import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import InvalidInput, ModelUnavailable, NotFound
from app.domain.memory import Draft, MemoryType
from app.domain.ranking import MOST_LOST, REPEATED, Weights
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.wiring import build_services
from tests.integration.conftest import FaultyEmbedder, create_tenant, facts

NOW = datetime.now(UTC)
TENANT = "tenant-of-searches"
USER = "searcher"


@pytest.fixture(scope="module")
async def searched(services: Services) -> Services:
    """Services with a user who has told a few things; the tests only read."""
    await create_tenant(services.database, TENANT)
    old, new = NOW - timedelta(days=400), NOW - timedelta(days=1)
    await services.memories.add(
        TENANT,
        USER,
        [
            Draft(MemoryType.HISTORY, "Repaired the bicycle chain", 0.9, ("bike", "repair"), valid_from=old),
            Draft(MemoryType.HISTORY, "Bought a bicycle helmet", 0.3, ("bike",), valid_from=new),
            Draft(MemoryType.GOAL, "I want to cycle to Lisbon", 0.8, ("bike", "trip"), valid_from=new),
            Draft(MemoryType.PREFERENCE, "I like green tea", 0.8, ("drink",), valid_from=new),
            Draft(MemoryType.ARTIFACT, "Invoice ZX-4711 of the plumber", 0.8, (), valid_from=old),
            Draft(MemoryType.PROFILE, "My cat is called Mitzi", 0.8, (), valid_from=old, expires_at=new),
            Draft(MemoryType.PROFILE, "I live in Paris", 0.8, (), valid_from=old),
            Draft(MemoryType.PROFILE, "I live in Berlin", 0.8, (), valid_from=new),
        ],
    )
    await services.memories.add(TENANT, "someone else", facts("The bicycle of another user is blue"))
    return services


async def search(services: Services, query: str, **options: Any) -> list[str]:
    found = await services.ranking.search(TENANT, USER, SearchRequest(query, **options))
    assert not found.is_degraded
    return [item.memory.content for item in found.ranked]


async def test_meaning_and_words_both_find(searched: Services) -> None:
    """A paraphrase is found by vector, a code by its letters, and another user's memory by neither."""
    by_meaning = Weights(1, 0, 0)
    assert (await search(searched, "fixing my two-wheeler", limit=1, weights=by_meaning)) == [
        "Repaired the bicycle chain"
    ]
    assert (await search(searched, "ZX-4711", limit=1)) == ["Invoice ZX-4711 of the plumber"]
    everything = await search(searched, "bicycle", limit=100)
    assert "The bicycle of another user is blue" not in everything
    assert len(everything) == 6
    with pytest.raises(NotFound):
        await searched.ranking.search(TENANT, "unknown", SearchRequest("bicycle"))


async def test_what_is_over_never_appears(searched: Services) -> None:
    """Neither a superseded nor an expired memory is found, even by its own words; `as_of` finds them."""
    for query in ("I live in Paris", "My cat is called Mitzi", "Paris", "Mitzi"):
        assert not {"I live in Paris", "My cat is called Mitzi"} & set(await search(searched, query, limit=100))
    before = NOW - timedelta(days=30)
    assert (await search(searched, "where do I live", as_of=before, limit=1)) == ["I live in Paris"]
    assert (await search(searched, "the name of my cat", as_of=before, limit=1)) == ["My cat is called Mitzi"]


async def test_types_and_tags_filter(searched: Services) -> None:
    """Any of the types, all of the tags; a filter nothing meets gives an empty answer, not an error."""
    assert await search(searched, "bicycle", types=[MemoryType.GOAL]) == ["I want to cycle to Lisbon"]
    assert set(await search(searched, "bicycle", types=[MemoryType.GOAL, MemoryType.PREFERENCE])) == {
        "I want to cycle to Lisbon",
        "I like green tea",
    }
    assert len(await search(searched, "bicycle", tags=["bike"])) == 3
    assert await search(searched, "bicycle", tags=["bike", "repair"]) == ["Repaired the bicycle chain"]
    assert await search(searched, "bicycle", tags=["bike"], types=[MemoryType.GOAL]) == ["I want to cycle to Lisbon"]
    assert await search(searched, "bicycle", tags=["nothing has this"]) == []


async def test_weights_of_a_request_and_of_a_tenant(searched: Services) -> None:
    """The request's weights decide, else the tenant's, else the defaults; the score is what is left of the odds."""
    two = {"types": [MemoryType.HISTORY], "limit": 1}
    assert await search(searched, "bicycle", weights=Weights(0, 1, 0), **two) == ["Bought a bicycle helmet"]
    assert await search(searched, "bicycle", weights=Weights(0, 0, 1), **two) == ["Repaired the bicycle chain"]
    found = await searched.ranking.search(TENANT, USER, SearchRequest("bicycle", weights=Weights(2, 1, 1)))
    for item in found.ranked:
        lost = MOST_LOST * (0.25 * (1 - item.recency) + 0.25 * (1 - item.confidence))
        log_odds = 0.5 * (math.log(item.similarity / (1 - item.similarity)) - REPEATED * item.redundancy) - lost
        assert item.score == pytest.approx(1 / (1 + math.exp(-log_odds)))
    with pytest.raises(InvalidInput):
        await search(searched, "bicycle", weights=Weights(0, 0, 0))

    await searched.catalogues.save_document(TENANT, {"weights": {"similarity": 0.0, "recency": 1.0, "confidence": 0.0}})
    try:
        assert await search(searched, "bicycle chain", **two) == ["Bought a bicycle helmet"]
        assert await search(searched, "bicycle chain", weights=Weights(1, 0, 0), **two) == [
            "Repaired the bicycle chain"
        ]
    finally:
        await searched.catalogues.save_document(TENANT, {})
    assert await search(searched, "bicycle chain", **two) == ["Repaired the bicycle chain"]


async def test_reranking_reads_query_and_memory_together(searched: Services) -> None:
    """A reranked search reports each relevance, orders by the blend, and finds the same memories."""
    plain = await searched.ranking.search(TENANT, USER, SearchRequest("repair of the bicycle chain"))
    again = await searched.ranking.search(TENANT, USER, SearchRequest("repair of the bicycle chain", is_reranked=True))
    assert again.ranked[0].memory.content == "Repaired the bicycle chain"
    assert all(item.rerank is not None and 0 <= item.rerank <= 1 for item in again.ranked)
    assert [item.score for item in again.ranked] == sorted((item.score for item in again.ranked), reverse=True)
    assert {item.memory.memory_id for item in again.ranked} == {item.memory.memory_id for item in plain.ranked}
    before = {item.memory.memory_id: item.score for item in plain.ranked}
    for item in again.ranked:
        assert item.score == pytest.approx(0.5 * before[item.memory.memory_id] + 0.5 * (item.rerank or 0.0))


async def test_without_the_model_words_still_find(
    searched: Services, settings: Settings, database: Database, embedder: OnnxEmbedder
) -> None:
    """An embedder that is out of service makes a search degraded, not failed: words find, validity holds,
    and reranking is left out; a write fails whole."""
    faulty = FaultyEmbedder(embedder)
    services = build_services(settings, database, faulty)
    faulty.is_down = True
    found = await services.ranking.search(TENANT, USER, SearchRequest("bicycles", is_reranked=True))
    assert found.is_degraded
    assert [item.memory.content for item in found.ranked][:2] == [
        "Bought a bicycle helmet",
        "Repaired the bicycle chain",
    ]
    assert {item.rerank for item in found.ranked} == {None}
    assert (await services.ranking.search(TENANT, USER, SearchRequest("Paris"))).ranked == []
    with pytest.raises(ModelUnavailable):
        await services.memories.add(TENANT, "newcomer", facts("I like trains"))
    with pytest.raises(NotFound):
        await services.personas.get(TENANT, "newcomer")
    faulty.is_down = False
    assert not (await services.ranking.search(TENANT, USER, SearchRequest("bicycles"))).is_degraded


@pytest.fixture
async def statements(database: Database) -> AsyncIterator[tuple[Database, list[str]]]:
    """A pool of one connection to the session's server, and every statement sent over it."""
    single = Database(database.prepared, pool_size=1)
    sent: list[str] = []

    def note(query: Any) -> None:
        sent.append(query.query)

    @event.listens_for(single.engine.sync_engine, "before_cursor_execute")
    def note_prepared(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    async with single.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_query_logger(note)
    yield single, sent
    await single.aclose()


@pytest.mark.parametrize(("memories", "asked"), [(0, 2), (1, 1), (60, 1), (61, 2)])
async def test_a_search_is_one_statement_or_two(
    statements: tuple[Database, list[str]],
    settings: Settings,
    embedder: OnnxEmbedder,
    tenant: str,
    memories: int,
    asked: int,
) -> None:
    """One statement says what is known of all memories, and brings them along where they are few; else a second one
    reads those that were picked. Beside them there is only the transaction, and for an empty answer the question
    whether the user exists."""
    database, sent = statements
    services = build_services(settings, database, embedder)
    drafts = facts(*(f"Rode tram line {number}" for number in range(memories)), kind=MemoryType.HISTORY)
    await services.memories.add(tenant, "u", drafts)
    await services.ranking.search(tenant, "u", SearchRequest("tram"))
    await services.recalls.log.aclose()
    sent.clear()
    found = await services.ranking.search(tenant, "u", SearchRequest("tram line 7", limit=100))
    assert len(found.ranked) == memories
    await services.recalls.log.aclose()
    sent[:] = [one for one in sent if "INSERT INTO recalls" not in one]  # after the answer, or of the one before
    questions = [one for one in sent if "memories" in one or "users" in one]
    assert len(questions) == asked
    others = [one for one in sent if one not in questions]
    assert len(others) <= (6 if memories else 8)
    assert all(one.startswith(("BEGIN", "COMMIT", "SELECT set_config")) for one in others)
