"""The Python client against the running service: a whole session, with and without asyncio, streams."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embed_service_client import AsyncEmbedService, EmbedService, InvalidInput, NotFound
from embed_service_client.shapes import MemoryIn
from tests.e2e.running import RunningService

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"
USER = "ünï/cøde ..%2F用户"
SAID: list[MemoryIn] = [
    {"type": "PREFERENCE", "content": "I write my services in Python with FastAPI"},
    {"type": "CONSTRAINT", "content": "Our data has to stay in the EU", "tags": ["law"]},
    {"type": "HISTORY", "content": "We deployed with Docker\u2028on Friday"},
]


@pytest.fixture
def service(running_service: RunningService) -> RunningService:
    return running_service


def test_a_session(service: RunningService) -> None:
    """Remember, ask, execute, react, look, change, forget: every call that is about a user."""
    with EmbedService(service.base_url) as client:
        added = client.add_memories(USER, SAID)
        assert len(set(added.ids)) == 3
        found = client.search_memories(user_id=USER, query="where does the data have to stay", types=["CONSTRAINT"])
        assert [result.memory.content for result in found.results] == [SAID[1]["content"]]
        assert {memory.id for memory in client.list_memories(USER, limit=2)} == set(added.ids)
        assert [memory.id for memory in client.list_memories(USER, mtype="CONSTRAINT", tag="law")] == [added.ids[1]]
        assert client.get_memory(added.ids[1]) == found.results[0].memory
        assert client.change_memory(added.ids[1], content="Our data has to stay in France").tags == ["law"]
        assert [memory.content[-2:] for memory in client.get_memory_history(added.ids[1]).versions] == ["EU", "ce"]

        shown = client.hypothesize(user_id=USER, input_text="build api", count=2)
        executed = client.execute(
            user_id=USER, input_text="build api", hypothesis_set_id=shown.hypothesis_set_id, hypothesis_id="h1"
        )
        assert "build api" in executed.enriched_prompt
        assert client.give_feedback(user_id=USER, execution_id=executed.execution_id, comment="too long").facet_deltas
        assert client.prefer(user_id=USER, hypothesis_a="a", hypothesis_b="b", preferred="tie").accepted
        assert client.followups(user_id=USER, conversation_context="We plan an API", count=1).questions
        assert client.enrich(user_id=USER, input_text="build api").enrichment.inferred_expertise_level

        assert client.get_persona(USER).facets["concise"].value > 0.5
        corrected = client.correct_persona(USER, facets={"formal": 0.9})
        assert corrected.facets["formal"].value == pytest.approx(0.9, abs=0.05)
        assert corrected.facets["formal"].told_at
        assert {change.facet for change in client.get_persona_history(USER).changes} >= {"concise", "formal"}
        assert client.put_consent(USER, training=False).training is client.get_consent(USER).training is False

        assert client.delete_memory(added.ids[0]).deleted == 1
        assert client.delete_memories(USER, "HISTORY").deleted == 1
        assert client.erase_user(USER).erased["memories"] >= 1
        with pytest.raises(NotFound, match="no such user"):
            client.erase_user(USER)


def test_what_is_about_nobody(service: RunningService) -> None:
    """Vectors, relevance, telemetry, state."""
    with EmbedService(service.base_url) as client:
        vectors = client.embed(inputs=["a", "b"])
        assert (vectors.count, len(vectors.embeddings[0])) == (2, vectors.dim)
        assert client.create_embeddings(input="a").data[0].embedding == pytest.approx(vectors.embeddings[0], abs=1e-5)
        ranked = client.rerank(query="python", documents=["tea", {"text": "python code"}], return_documents=True)
        assert ranked.results[0].index == 1
        assert client.telemetry(since=client.telemetry().since).sets >= 0
        assert client.readyz().status == "ready"
        assert client.info().dim == vectors.dim


def test_an_export_is_imported_byte_by_byte(service: RunningService, tmp_path: Path) -> None:
    """Out with one client, in with the other, and out again the same; streams on both sides."""
    file = tmp_path / "user.ndjson"

    async def play() -> None:
        async with AsyncEmbedService(service.base_url) as client:
            await client.add_memories(USER, SAID)
            with EmbedService(service.base_url) as plain, file.open("wb") as out:
                out.writelines(plain.export_user(USER))
            await client.erase_user(USER)
            assert (await client.import_user(file)).imported["memories"] == 3
            lines = [line async for line in client.export_user(USER)]
            assert b"".join(lines) == file.read_bytes()
            assert sum("\u2028".encode() in line for line in lines) == 1
            await client.erase_user(USER)
            assert (await client.import_user(_later(lines))).imported["memories"] == 3
            await client.erase_user(USER)

    asyncio.run(play())


async def _later(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


def test_many_at_once_without_threads(service: RunningService) -> None:
    """Sixteen searches on one loop."""

    async def play() -> None:
        async with AsyncEmbedService(service.base_url) as client:
            await client.add_memories("many", SAID)
            searches = (client.search_memories(user_id="many", query=f"Python {number}") for number in range(16))
            found = await asyncio.gather(*searches)
            assert all(each.results for each in found)
            await client.erase_user("many")

    asyncio.run(play())


def test_refusals_say_what_to_do(service: RunningService) -> None:
    """The field, the id in the service's log."""
    with EmbedService(service.base_url) as client:
        with pytest.raises(InvalidInput) as refused:
            client.add_memories("", [{"type": "GOAL", "content": "x"}])
        assert [error.field for error in refused.value.errors] == ["user_id"]
        with pytest.raises(NotFound) as unknown:
            list(client.export_user("nobody"))
    logged = {event["request_id"] for event in service.log_events("request_answered")}
    assert {refused.value.request_id, unknown.value.request_id} <= logged


def test_the_examples_run(service: RunningService, tmp_path: Path) -> None:
    """Every Python block of the client's README, one after the other, as it stands."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block.replace("http://127.0.0.1:8080", service.base_url)],
            env={**os.environ, "PYTHONPATH": str(README.parent)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
