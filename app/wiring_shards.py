"""Plugs the shards together: the same use cases once for each database, on the same models."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields, replace
from typing import Any

from app.api.deps import Services
from app.api.shards import Shards
from app.ports import SystemClock
from app.services.shards import HomeErasure, ShardedTelemetry, ShardedTransfer, ShardService, ShardTenants
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.shards import ShardStore
from app.store.tenants import TenantStore
from app.store.users import UserStore
from app.wiring import build_services, open_services
from app.wiring_jobs import running_worker


@asynccontextmanager
async def open_shards(settings: Settings, home: Services, urls: Sequence[str]) -> AsyncGenerator[Shards]:
    """`home` and the databases at `urls`, each with its users, its jobs and its embedding spaces. Without `urls` all
    users are at home. Raises StoreUnavailable where one cannot be reached, or is not what it is listed as."""
    async with AsyncExitStack() as stack:
        databases = [home.database]
        for url in urls:
            databases.append(await _open(stack, settings, url))
        await ShardService(databases, ShardStore(), UserStore()).take_places()
        others = [await _open_services(stack, settings, home, database) for database in databases[1:]]
        stacks = [home, *others]
        tenants = ShardTenants(databases, ShardStore(), TenantStore(), SystemClock())
        of_all = replace(
            home,
            telemetry=ShardedTelemetry(**_parts(home.telemetry), shards=[each.telemetry for each in stacks]),
            transfer=ShardedTransfer(
                **_parts(home.transfer), shards=[each.transfer for each in stacks], tenants=tenants
            ),
        )
        yield Shards([of_all, *others], tenants)


@asynccontextmanager
async def open_every_shard(settings: Settings) -> AsyncGenerator[Shards]:
    """The databases that `settings` name with the services on each, for a command: it runs no background jobs. Raises
    as `open_shards`."""
    own = settings.model_copy(update={"worker_inside": False})
    async with (
        open_services(own) as home,
        open_shards(own, home, own.database_shard_urls or ()) as shards,
    ):
        yield shards


@asynccontextmanager
async def open_shard_service(settings: Settings, urls: Sequence[str]) -> AsyncGenerator[ShardService]:
    """The databases alone, the one of `settings` first. Raises StoreUnavailable."""
    async with AsyncExitStack() as stack:
        databases = [await _open(stack, settings, url) for url in (settings.database_url, *urls)]
        yield ShardService(databases, ShardStore(), UserStore())


async def _open(stack: AsyncExitStack, settings: Settings, url: str | None) -> Database:
    database = await open_database(settings.model_copy(update={"database_url": url}))
    stack.push_async_callback(database.aclose)
    return database


async def _open_services(stack: AsyncExitStack, settings: Settings, home: Services, database: Database) -> Services:
    """The use cases of a shard; replicas, training runs and adapters are the home's alone."""
    own = settings.model_copy(update={"database_replica_url": None})
    services = build_services(
        own,
        database,
        home.embedder,
        home.slm,
        home.ranking.reranker,
        adapters=None,
        models=home.models,
        upstream=home.chat.upstream,
    )
    stack.push_async_callback(asyncio.to_thread, services.collector.close)
    for part in (services.spaces, services.ranking.reads, services.afterwards, services.preparations):
        stack.push_async_callback(part.aclose)
    await services.catalogues.warm()
    await stack.enter_async_context(running_worker(own, services))
    training = HomeErasure(**_parts(home.transfer.training), home=home.database)
    return replace(
        services,
        transfer=replace(services.transfer, training=training),
        consent=replace(services.consent, training=training),
    )


def _parts(service: Any) -> dict[str, Any]:
    """What a use case stands on, for one that does a little more."""
    return {each.name: getattr(service, each.name) for each in fields(service)}
