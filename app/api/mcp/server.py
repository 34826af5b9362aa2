"""The protocol's server: lists the tools, calls them, says in one line what is wrong. Importing it loads the SDK."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
import structlog
from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from app import VERSION
from app.api.errors import faults
from app.api.mcp.arguments import schema_of
from app.api.mcp.tools import TOOLS, Tool, Visit
from app.api.middleware import described
from app.domain import errors
from app.services.telemetry import TOOL_CALLS, TOOL_SECONDS

log = structlog.get_logger(__name__)

NAME = "embed-service"
PERSONA_URI = "embed-service://persona"
PROMPT = "enriched_context"
FAILED = "the service failed; try again later, and tell whoever runs it if it stays so"

INSTRUCTIONS = (
    "A memory of the user you are talking with. `recall` before you answer what depends on them, `remember` what "
    "they tell you for good, `forget` only when they ask for it. Where a request is vague, `hypothesize`, ask or go "
    "ahead as the decision says, `execute`, and answer the enriched prompt; tell by `feedback` how it was received. "
    "Whose memory it is was settled when you were connected: there is no argument for it."
)

FindVisit = Callable[[], Awaitable[Visit]]
"""Whom this connection or request is for. Raises DomainError."""

Context = ServerRequestContext[Any, Any]
Listing = types.PaginatedRequestParams | None

_ADVICE: tuple[tuple[type[errors.DomainError], str], ...] = (
    (errors.NotFound, "use an id that a tool of this server gave you for this user"),
    (errors.Overloaded, "wait a few seconds, then try again"),
    (errors.UserErased, "everything about the user was erased meanwhile, and this was not kept"),
    (errors.ModelUnavailable, "try again in a minute"),
)


def build_server(find_visit: FindVisit) -> Server[Any]:
    """A server for one connection, or one request, of whoever `find_visit` finds."""
    answers = _Answers(find_visit)
    return Server(
        NAME,
        version=VERSION,
        title="Embed Service",
        instructions=INSTRUCTIONS,
        on_list_tools=answers.list_tools,
        on_call_tool=answers.call_tool,
        on_list_resources=answers.list_resources,
        on_list_resource_templates=answers.list_resource_templates,
        on_read_resource=answers.read_resource,
        on_list_prompts=answers.list_prompts,
        on_get_prompt=answers.get_prompt,
    )


class _Answers:
    """What is answered to each request of the protocol."""

    def __init__(self, find_visit: FindVisit) -> None:
        self._find_visit = find_visit

    async def list_tools(self, context: Context, given: Listing) -> types.ListToolsResult:
        """All of them; who asks makes no difference."""
        return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS.values()])

    async def call_tool(self, context: Context, given: types.CallToolRequestParams) -> types.CallToolResult:
        """What the tool gives, or one line that says what to do instead."""
        tool = TOOLS.get(given.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no such tool; there are {', '.join(TOOLS)}")
        result = await self._work(tool, given.arguments or {})
        if isinstance(result, str):
            return types.CallToolResult(content=[types.TextContent(text=result)], is_error=True)
        text = types.TextContent(text=result.model_dump_json())
        return types.CallToolResult(content=[text], structured_content=result.model_dump(mode="json"))

    async def list_resources(self, context: Context, given: Listing) -> types.ListResourcesResult:
        """The persona."""
        persona = types.Resource(
            name="persona",
            title="Persona",
            uri=PERSONA_URI,
            description="How the user likes to be answered: facets with their uncertainty.",
            mime_type="application/json",
        )
        return types.ListResourcesResult(resources=[persona])

    async def list_resource_templates(self, context: Context, given: Listing) -> types.ListResourceTemplatesResult:
        """None."""
        return types.ListResourceTemplatesResult(resource_templates=[])

    async def read_resource(self, context: Context, given: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """The persona, as the tool gives it."""
        if str(given.uri) != PERSONA_URI:
            raise MCPError(types.INVALID_PARAMS, f"there is no such resource; there is {PERSONA_URI}")
        text = (await self._need(TOOLS["persona"], {})).model_dump_json()
        held = types.TextResourceContents(uri=PERSONA_URI, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[held])

    async def list_prompts(self, context: Context, given: Listing) -> types.ListPromptsResult:
        """The enriched context."""
        request = types.PromptArgument(name="input_text", description="The request to answer.", required=True)
        prompt = types.Prompt(
            name=PROMPT,
            title="Enriched context",
            description="A request with what is known about the user and matters for it, ready to be answered.",
            arguments=[request],
        )
        return types.ListPromptsResult(prompts=[prompt])

    async def get_prompt(self, context: Context, given: types.GetPromptRequestParams) -> types.GetPromptResult:
        """The enriched prompt, as the tool `execute` gives it."""
        if given.name != PROMPT:
            raise MCPError(types.INVALID_PARAMS, f"there is no such prompt; there is {PROMPT}")
        made = await self._need(TOOLS["execute"], dict(given.arguments or {}))
        text = types.TextContent(text=str(made.model_dump()["enriched_prompt"]))
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])

    async def _need(self, tool: Tool, given: dict[str, Any]) -> BaseModel:
        """The result of a tool where the protocol has no room for an error in it. Raises MCPError."""
        result = await self._work(tool, given)
        if isinstance(result, str):
            raise MCPError(types.INVALID_PARAMS, result)
        return result

    async def _work(self, tool: Tool, given: dict[str, Any]) -> BaseModel | str:
        """What a tool gives, or what is wrong in one line."""
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            arguments = tool.takes.model_validate(given)
            result = await tool.call(await self._find_visit(), arguments)
            outcome = "done"
        except ValidationError as error:
            outcome, result = "refused", _misread(tool, error)
        except errors.DomainError as error:
            outcome, result = "refused", _refused(error)
        except Exception as error:  # noqa: BLE001 - what an assistant sees is a line, whatever went wrong
            log.error("tool_failed", tool=tool.name, **described(error))
            outcome, result = "failed", FAILED
        finally:
            seconds = time.perf_counter() - started
            TOOL_CALLS.labels(tool.name, outcome).inc()
            TOOL_SECONDS.labels(tool.name).observe(seconds)
            log.info("tool_called", tool=tool.name, outcome=outcome, duration_s=round(seconds, 6))
        return result


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.takes),
        output_schema=schema_of(tool.gives, is_output=True),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.is_read_only,
            destructive_hint=tool.is_destructive,
            idempotent_hint=tool.is_idempotent,
            open_world_hint=False,
        ),
    )


def _misread(tool: Tool, error: ValidationError) -> str:
    """What is wrong with the arguments, without what they were."""
    found = faults(error.errors(include_url=False, include_input=False))
    lines = [f"{fault['field']}: {fault['message']}" for fault in found[:5]]
    known = ", ".join(tool.takes.model_fields) or "none"
    return f"the arguments are not understood ({'; '.join(lines)}); {tool.name} takes: {known}"


def _refused(error: errors.DomainError) -> str:
    if isinstance(error, errors.StoreUnavailable):
        log.warning("store_unavailable", reason=str(error))
        return "the database does not answer; try again in a minute"
    advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), None)
    return f"{error}: {advice}" if advice else str(error)
