"""Other assistants' exports on the real database: found by search, there once however often they are imported."""

import io
import json
from datetime import UTC, datetime

import pytest

from app.api.deps import Services
from app.domain.errors import InvalidInput
from app.domain.imports import Format
from app.domain.memory import MemoryType
from app.services.imports import Report
from app.services.ranking import SearchRequest
from app.wiring import build_imports
from tests.unit.test_imports import CHATGPT, CLAUDE, MEM0


async def bring(services: Services, tenant: str, form: Format, file: bytes) -> Report:
    return await build_imports(services).bring(tenant, "ada", form, io.BytesIO(file), lambda _: None)


async def test_what_is_imported_is_found_and_imported_once(services: Services, tenant: str) -> None:
    """All three formats into one user, twice: the second time writes nothing and changes nothing."""
    files = {
        Format.MEM0: MEM0.read_bytes(),
        Format.CHATGPT: json.dumps([CHATGPT]).encode(),
        Format.CLAUDE: json.dumps([CLAUDE, {}]).encode(),
    }
    written = {form: (await bring(services, tenant, form, file)).written for form, file in files.items()}
    assert written == {Format.MEM0: 3, Format.CHATGPT: 2, Format.CLAUDE: 2}
    before = [line async for line in services.transfer.export(tenant, "ada")]
    for form, file in files.items():
        again = await bring(services, tenant, form, file)
        assert (again.written, again.by_type.total()) == (0, written[form])
    assert [line async for line in services.transfer.export(tenant, "ada")] == before

    found = (await services.ranking.search(tenant, "ada", SearchRequest("where do I live?"))).ranked
    assert "I live in Lyon" in [item.memory.content for item in found]
    said = await services.memories.page(tenant, "ada", kind=MemoryType.HISTORY)
    assert datetime(2026, 1, 31, 12, 0, 0, 123456, UTC) in [memory.valid_from for memory in said]


async def test_a_file_that_ends_in_the_middle_gives_what_came_before(services: Services, tenant: str) -> None:
    """Batches that were whole stay, the error is raised, and the whole file adds the rest."""
    said = [{"chat_messages": [{"uuid": f"m{n}", "sender": "human", "text": f"Event {n}"}]} for n in range(450)]
    whole = json.dumps(said).encode()
    with pytest.raises(InvalidInput, match="broken after item"):
        await bring(services, tenant, Format.CLAUDE, whole[:-30])
    held = len(await services.memories.page(tenant, "ada", limit=1000))
    assert held == 400
    assert (await bring(services, tenant, Format.CLAUDE, whole)).written == 450 - held
