"""Pairs out of what the real service logs, and the erasure that reaches them."""

import asyncio
import json
from pathlib import Path

from app.api.deps import Services
from app.services.choices import ExecuteRequest
from app.services.training.pairs import Exported, PairExport
from tests.integration.conftest import facts


def text_of(made: Exported) -> str:
    return Path(made.file).read_text()


async def export(services: Services, tenant: str) -> Exported:
    return await asyncio.to_thread(PairExport(services.trainer).export, tenant)


async def test_what_an_execution_used_becomes_pairs_until_the_user_leaves(services: Services, tenant: str) -> None:
    """Ann and Bob each execute; Ann opts out, Bob is erased: each is gone from the file at once."""
    for user, tool in (("ann", "Docker"), ("bob", "Ansible")):
        await services.memories.add(tenant, user, facts(f"I deploy with {tool}", "My cat is called Tom"))
        await services.context.execute(tenant, user, ExecuteRequest("how do I deploy my app?"))
    made = await export(services, tenant)

    rows = [json.loads(line) for line in text_of(made).splitlines()]
    assert {row["text_b"]: row["negative"] for row in rows} == {
        "I deploy with Docker": [],
        "I deploy with Ansible": [],
    }
    assert {row["text_a"] for row in rows} == {"how do I deploy my app?"}
    assert made.rows_dropped == {"standing": 2}, "a cat is in every prompt and is no answer to this"
    _, left = await services.consent.set(tenant, "ann", has_consent=False)
    assert left.erased["pairs/pairs.jsonl"] == 1
    assert "Docker" not in text_of(made)
    gone = await services.transfer.erase(tenant, "bob")
    assert gone.erased["pairs/pairs.jsonl"] == 1
    assert text_of(made) == ""
