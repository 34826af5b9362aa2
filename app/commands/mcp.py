"""`embed-service mcp`: the tools over standard input and output, for an assistant on this machine."""

import asyncio
from typing import Annotated
from uuid import uuid4

import structlog
import typer

from app.api.deps import Caller, Services
from app.commands.terminal import Tenant, expect_tenant, quiet_settings
from app.domain.users import check_user_id
from app.request import set_tenant
from app.services.keys import DEFAULT_TENANT
from app.settings import Settings
from app.wiring_shards import open_every_shard


def mcp(
    user: Annotated[str, typer.Option(help="Whose memory it is: the only user the assistant can reach.")],
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """Serve the Model Context Protocol to the program that started this one, on the service's own database."""
    check_user_id(user)
    asyncio.run(_serve(quiet_settings(), tenant, user))


async def _serve(settings: Settings, tenant: str, user: str) -> None:
    """Answer until the input ends. The greeting does not wait for the database and the model; the first tool does."""
    opened: asyncio.Future[Services] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()
    set_tenant(tenant)
    holding = asyncio.create_task(_hold(settings, tenant, user, opened, over))
    answering = asyncio.create_task(_answer(opened, Caller(tenant, frozenset({"user"}), user)))
    await asyncio.wait((holding, answering), return_when=asyncio.FIRST_COMPLETED)
    over.set()
    if not answering.done():
        answering.cancel()  # nothing could be opened: `holding` says why
    await asyncio.gather(holding, *((answering,) if not answering.cancelling() else ()))


async def _hold(
    settings: Settings, tenant: str, user: str, opened: asyncio.Future[Services], over: asyncio.Event
) -> None:
    async with open_every_shard(settings) as shards:
        await expect_tenant(shards, tenant)
        opened.set_result(await shards.of_user(tenant, user))
        await over.wait()


async def _answer(opened: asyncio.Future[Services], caller: Caller) -> None:
    from mcp.server.stdio import stdio_server  # noqa: PLC0415 - the SDK takes a second, and only this needs it

    from app.api.mcp.server import build_server  # noqa: PLC0415
    from app.api.mcp.tools import Visit  # noqa: PLC0415

    async def find_visit() -> Visit:
        structlog.contextvars.bind_contextvars(request_id=uuid4().hex)
        return Visit(await asyncio.shield(opened), caller)

    server = build_server(find_visit)
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    except* BrokenPipeError:
        pass  # the assistant left without waiting for the last answer
