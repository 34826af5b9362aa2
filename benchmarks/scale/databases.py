"""The databases of the benchmark, on one embedded server."""

from contextlib import AsyncExitStack
from typing import Any

from app.domain.embeddings import EmbeddingSpace
from app.domain.spaces import StoredSpace
from app.services import space_making
from app.store.embedded import EmbeddedServer, connect_driver
from app.store.engine import Database, migrate, prepare_database
from app.store.spaces import SpaceStore
from app.store.tenants import TenantStore
from benchmarks.scale.load import TENANT, read_vectors
from benchmarks.scale.tables import DIMENSION


async def open_database(server: EmbeddedServer, name: str, stack: AsyncExitStack) -> Database:
    """A new database of the service."""
    url = await create_database(server, name, stack)
    database = Database(await prepare_database(url, is_embedded=True), pool_size=5)
    stack.push_async_callback(database.aclose)
    await migrate(database)
    return database


async def make_space(database: Database) -> StoredSpace:
    """The space that serves the benchmark's tenant, of vectors as the built-in model gives them."""
    own = EmbeddingSpace("all-MiniLM-L6-v2", "perturbed", DIMENSION)
    space = await space_making.make_space(database, SpaceStore(), own, None)
    async with database.begin(TENANT) as connection:
        await TenantStore().ensure(connection, TENANT)
        await SpaceStore().begin_to_serve(connection, TENANT, space)
    return space


async def open_others(server: EmbeddedServer, stack: AsyncExitStack) -> Any:
    """A superuser's connection to a database without the service."""
    await prepare_database(await create_database(server, "others", stack))
    return await connect(server, "others", stack)


async def create_database(server: EmbeddedServer, name: str, stack: AsyncExitStack) -> str:
    """The URL of a new database."""
    root = await connect(server, "postgres", stack)
    await root.execute(f'CREATE DATABASE "{name}"')
    return server.url.replace("/postgres?", f"/{name}?")


async def connect(server: EmbeddedServer, name: str, stack: AsyncExitStack) -> Any:
    """A superuser's connection of the driver alone, which keeps its prepared statements and sends arrays as vectors."""
    url = server.url.replace("/postgres?", f"/{name}?").replace("postgresql+asyncpg", "postgresql")
    connection = await connect_driver(url, max_cached_statement_lifetime=0)
    stack.push_async_callback(connection.close)
    if await connection.fetchval("SELECT to_regtype('vector') IS NOT NULL"):
        await read_vectors(connection)
    return connection


async def service_connection(database: Database, stack: AsyncExitStack) -> Any:
    """A connection of the service's own, as its searches have it."""
    connection = await stack.enter_async_context(database.engine.connect())
    return (await connection.get_raw_connection()).driver_connection
