"""The protocol's server on services that are not there: what it lists, and what it says when something goes wrong."""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from mcp.client.client import Client
from mcp_types import Tool as ListedTool

from app.api.deps import Caller, Services
from app.api.mcp.arguments import schema_of
from app.api.mcp.server import FAILED, build_server
from app.api.mcp.tools import TOOLS, Visit
from app.domain import errors

USER = Caller("a", frozenset({"user"}), "ada")


class FakeMemories:
    """One memory of somebody else's, and a service that can fail."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.deleted = 0

    async def get(self, tenant_id: str, memory_id: object, owner: str | None = None) -> Any:
        if self.error is not None:
            raise self.error
        if owner not in {None, "bob"}:
            raise errors.NotFound("no such memory")
        return SimpleNamespace(user_id="bob")

    async def delete_one(self, tenant_id: str, memory_id: object) -> int:
        self.deleted += 1
        return 1


@pytest.fixture
def held() -> FakeMemories:
    return FakeMemories()


@asynccontextmanager
async def connected(held: FakeMemories) -> AsyncIterator[Client]:
    """A client beside the server, with no wire between them."""

    async def find_visit() -> Visit:
        return Visit(cast(Services, SimpleNamespace(memories=held)), USER)

    async with Client(build_server(find_visit)) as opened:
        yield opened


@pytest.fixture
async def listed(held: FakeMemories) -> Mapping[str, ListedTool]:
    """The tools as clients see them."""
    async with connected(held) as client:
        return {tool.name: tool for tool in (await client.list_tools()).tools}


async def said(held: FakeMemories, tool: str, **arguments: Any) -> str:
    """The line that a call is refused with."""
    async with connected(held) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    (content,) = result.content
    return content.text  # pyright: ignore[reportAttributeAccessIssue]


async def test_no_tool_takes_a_user(listed: Mapping[str, ListedTool]) -> None:
    """Nor a tenant, nor anything it does not list."""
    assert set(listed) == {
        "remember",
        "recall",
        "forget",
        "hypothesize",
        "execute",
        "feedback",
        "persona",
        "correct_persona",
    }
    for tool in listed.values():
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert not {name for name in tool.input_schema["properties"] if "user" in name or "tenant" in name}


async def test_annotations_say_what_a_tool_does(listed: Mapping[str, ListedTool]) -> None:
    """Clients ask people before what destroys, and not before what reads."""
    hints = {name: tool.annotations for name, tool in listed.items()}
    assert {name for name, hint in hints.items() if hint and hint.read_only_hint} == {"recall", "persona"}
    assert {name for name, hint in hints.items() if hint and hint.destructive_hint} == {"forget", "correct_persona"}
    assert not any(hint is None or hint.open_world_hint for hint in hints.values())


async def test_every_argument_is_explained(listed: Mapping[str, ListedTool]) -> None:
    """A model has nothing else to go by."""
    for tool in listed.values():
        assert len(tool.description or "") > 80
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), (tool.name, name)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_schemas_stand_by_themselves(tool: Any) -> None:
    """Not every client follows references."""
    for schema in (schema_of(tool.takes), schema_of(tool.gives, is_output=True)):
        assert "$ref" not in str(schema)
        assert "$defs" not in schema
        assert schema["type"] == "object"


async def test_only_one_s_own_memory_is_forgotten(held: FakeMemories) -> None:
    """Another user's is as unknown as one that never was."""
    assert (await said(held, "forget", memory_id=str(uuid4()))).startswith("no such memory: use an id")
    assert held.deleted == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (errors.Overloaded("the queue is full"), "the queue is full: wait a few seconds, then try again"),
        (errors.StoreUnavailable("password=hunter2"), "the database does not answer; try again in a minute"),
        (errors.Forbidden("this key is bound to another user"), "this key is bound to another user"),
        (ZeroDivisionError("secret"), FAILED),
    ],
)
async def test_failures_are_one_line(held: FakeMemories, error: Exception, line: str) -> None:
    """What to do, and nothing of what only the log may know."""
    held.error = error
    assert await said(held, "forget", memory_id=str(uuid4())) == line


def test_loading_the_service_loads_no_sdk() -> None:
    """The SDK costs a second: who does not speak the protocol does not pay for it."""
    code = (
        "import sys, app.main, app.cli; print([name for name in sys.modules if name.split('.')[0].startswith('mcp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
