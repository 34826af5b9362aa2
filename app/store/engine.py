"""The connection to PostgreSQL, the same for the embedded server and an outside one.

Tenants are kept apart by row-level security, so no connection here may be able to bypass it: one that logs in
as a superuser runs everything, migrations included, as the powerless role `embed_service`.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asyncpg
import orjson
import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.domain.errors import NotFilled, StaleSpace, StoreUnavailable
from app.settings import Settings
from app.store.embedded import EmbeddedServer, connect_driver, start_embedded

log = structlog.get_logger(__name__)

SERVICE_ROLE = "embed_service"
OLDEST_POSTGRES = 15
OLDEST_PGVECTOR = (0, 8)
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
NEWEST = "heads"
"""Every newest revision: beside the service's own there may be a change of embedding space that somebody wrote."""

_PREPARATION_LOCK = 0x656D626564  # "embed" in ASCII: nobody else's advisory lock by chance
_MIGRATION_LOCK = _PREPARATION_LOCK + 1
_CONNECT_TIMEOUT_S = 10.0
_CHECKOUT_TIMEOUT_S = 10.0
_PING_TIMEOUT_S = 2.0
_RESTART_PATIENCE_S = 5.0  # an embedded server that was killed answers again after 0.1 to 0.4 s
_ADMIN_CONNECTIONS = 20  # beyond the pool: the command line, a person with psql, the migrations
_TENANT = re.compile(r"[a-z0-9_-]+")
_STALE = ("ES001", "42P01")  # of `in_space`, and of a table that was dropped: a space was switched meanwhile
_LOST = ("08", "57P")  # SQLSTATEs of a broken connection and of a server that starts, stops or crashed
_BROKEN = (asyncpg.InternalClientError,)  # of a connection whose server died between two messages


class DatabaseUnsuitable(StoreUnavailable):
    """The database answers and lacks something; the message says what its admin has to do."""


@dataclass(frozen=True, slots=True)
class PreparedDatabase:
    """A database that was found fit: how to connect, and as which role to work (None: as who logs in)."""

    url: str
    role: str | None
    server_version: int
    pgvector_version: str


async def prepare_database(url: str, *, is_embedded: bool = False) -> PreparedDatabase:
    """Check the versions, make sure of pgvector and of a role that cannot bypass row-level security.

    On the embedded server that role logs in itself, which the private socket allows: no statement could take
    such a connection back to the superuser. An outside superuser's connections are only set to the role.

    Changes the database only where something is missing and the login may add it. Raises StoreUnavailable
    when it cannot be reached, DatabaseUnsuitable when it has to be changed by someone else.
    """
    connection = await _connect(url, role=None)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _PREPARATION_LOCK)
        version = connection.get_server_version()
        if version.major < OLDEST_POSTGRES:
            raise DatabaseUnsuitable(
                f"{describe(url)} is PostgreSQL {version.major}.{version.minor}: "
                f"version {OLDEST_POSTGRES} or newer is needed"
            )
        pgvector = await _ensure_pgvector(connection)
        role = await _ensure_service_role(connection)
        if is_embedded and role is not None:
            url, role = await _allow_login(connection, url, role), None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(f"{describe(url)} could not be prepared: {error}") from error
    finally:
        await connection.close()
    prepared = PreparedDatabase(url, role, version.major, pgvector)
    await check_confined(prepared)
    return prepared


def describe(url: str) -> str:
    """The URL without its password, for messages."""
    return re.sub(r"(://[^:/@?]*):[^/?]*@", r"\1@", url)


def _dsn(url: str) -> str:
    """The form the driver reads, libpq's: `sslmode` and the other parameters keep their libpq meaning."""
    return re.sub(r"^[a-z+]+://", "postgresql://", url)


async def _connect(url: str, *, role: str | None) -> Any:
    """A plain driver connection that works as `role`. Raises StoreUnavailable."""
    settings = {"application_name": "embed-service", "plan_cache_mode": "force_generic_plan"}
    settings |= {"role": role} if role else {}
    try:
        return await connect_driver(
            _dsn(url), timeout=_CONNECT_TIMEOUT_S, server_settings=settings, max_cached_statement_lifetime=0
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        reason = str(error) or "no answer in time"
        raise StoreUnavailable(f"cannot connect to {describe(url)}: {reason}") from error


async def _ensure_pgvector(connection: Any) -> str:
    """The version of the installed extension, which is created or updated where that is allowed."""
    installed = await _pgvector_version(connection)
    if installed and _parts(installed) >= OLDEST_PGVECTOR:
        return installed
    database = await connection.fetchval("SELECT current_database()")
    statement = "ALTER EXTENSION vector UPDATE" if installed else "CREATE EXTENSION IF NOT EXISTS vector"
    try:
        await connection.execute(statement)
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as error:
        raise DatabaseUnsuitable(
            "pgvector is not installed on the database server: install its package there (0.8 or newer), "
            f'then run as a superuser in database "{database}": {statement};'
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnsuitable(
            f"pgvector {'is ' + installed if installed else 'is not enabled'} and 0.8 or newer is needed: "
            f'run as a superuser in database "{database}": {statement};'
        ) from error
    installed = await _pgvector_version(connection)
    if _parts(installed) < OLDEST_PGVECTOR:
        raise DatabaseUnsuitable(
            f"the database server offers pgvector {installed} and 0.8 or newer is needed: update its package "
            f'there, then run as a superuser in database "{database}": ALTER EXTENSION vector UPDATE;'
        )
    return installed


async def _pgvector_version(connection: Any) -> str:
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    return version or ""


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


async def _ensure_service_role(connection: Any) -> str | None:
    """The role to work as: None when the login itself cannot bypass row-level security."""
    login, can_bypass = await connection.fetchrow(
        "SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )
    role = SERVICE_ROLE if can_bypass else login
    grant = f'GRANT CREATE, USAGE ON SCHEMA public TO "{role}"'
    if not can_bypass:
        may_create = await connection.fetchval("SELECT has_schema_privilege('public', 'CREATE')")
        if not may_create and await connection.fetchval("SELECT to_regclass('alembic_version') IS NULL"):
            raise DatabaseUnsuitable(f'role "{login}" may not create tables: run as the database owner: {grant};')
        return None
    exists, is_member, is_granted = await connection.fetchrow(
        """
        SELECT role.oid IS NOT NULL,
               pg_has_role(role.oid, 'MEMBER'),
               has_schema_privilege(role.oid, 'public', 'CREATE') AND has_schema_privilege(role.oid, 'public', 'USAGE')
        FROM (SELECT 1) AS one LEFT JOIN pg_roles AS role ON role.rolname = $1
        """,
        SERVICE_ROLE,
    )
    statements: list[str] = []
    if not exists:
        statements.append(f"CREATE ROLE {SERVICE_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS")
    if not is_member or not exists:
        statements.append(f'GRANT {SERVICE_ROLE} TO "{login}"')
    if not is_granted:
        statements.append(grant)
    try:
        for statement in statements:
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnsuitable(
            f'role "{login}" can bypass row-level security and may not create one that cannot: '
            f"run as a superuser: {'; '.join(statements)};"
        ) from error
    return SERVICE_ROLE


async def _allow_login(connection: Any, url: str, role: str) -> str:
    """The URL under which the role itself logs in, without a password, on the embedded server."""
    if not await connection.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f'ALTER ROLE "{role}" LOGIN')
    return re.sub(r"://[^@/]*@", f"://{role}@", url, count=1)


async def check_confined(prepared: PreparedDatabase) -> None:
    """Raise DatabaseUnsuitable unless the service's own connections are bound by row-level security."""
    connection = await _connect(prepared.url, role=prepared.role)
    try:
        user, can_bypass = await connection.fetchrow(
            "SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
    finally:
        await connection.close()
    if can_bypass or (prepared.role and user != prepared.role):
        raise DatabaseUnsuitable(
            f'role "{user}" can bypass row-level security: run as a superuser: '
            f'ALTER ROLE "{prepared.role or user}" NOSUPERUSER NOBYPASSRLS;'
        )


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


class Statements:
    """Statements ($1, $2, …) of one transaction, run by the driver itself.

    For the hottest paths only: SQLAlchemy's share of a small statement is larger than the database's (0.44 ms
    against 0.10), and its rows cost more than finding them.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    @classmethod
    async def of(cls, connection: AsyncConnection) -> Self:
        """Statements inside the transaction that `connection` has begun."""
        return cls((await connection.get_raw_connection()).driver_connection)

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Rows of one statement. Raises StoreUnavailable when the connection is lost."""
        with _noticing_loss():
            return await self._driver.fetch(sql, *arguments)

    async def execute(self, script: str) -> None:
        """Run statements without arguments in one round trip. Raises as `fetch`."""
        with _noticing_loss():
            await self._driver.execute(script)


@contextmanager
def _noticing_loss() -> Generator[None]:
    """Raise StoreUnavailable where it was the driver's connection that failed, and not the statement."""
    try:
        yield
    except (*_BROKEN, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        state = getattr(error, "sqlstate", None)
        if state in _STALE:
            raise StaleSpace(f"another embedding space is used by now: {error}") from error
        if state is not None and not state.startswith(_LOST):
            raise
        raise StoreUnavailable(f"the database was lost in a transaction: {error}") from error


class Database:
    """The service's connections: a pool of transactions, each bound to one tenant from its first statement."""

    def __init__(
        self, prepared: PreparedDatabase, *, pool_size: int = 10, server: EmbeddedServer | None = None
    ) -> None:
        """Connects on first use. A `server` given here is stopped by `aclose`."""
        self.prepared = prepared
        self._server = server
        self._pool_size = pool_size
        self._engine = self._create_engine(pool_size=pool_size, max_overflow=0, pool_timeout=_CHECKOUT_TIMEOUT_S)

    def _create_engine(self, **pool: Any) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            json_serializer=_dumps,
            json_deserializer=orjson.loads,
            **pool,
        )

    async def _connect(self) -> Any:
        """A new connection; one to the embedded server waits for its restart for a few seconds."""
        deadline = time.monotonic() + _RESTART_PATIENCE_S
        while True:
            try:
                return await _connect(self.prepared.url, role=self.prepared.role)
            except StoreUnavailable:
                if self._server is None or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    @property
    def engine(self) -> AsyncEngine:
        """The pool beneath, whose transactions belong to no tenant and see none's rows: for tests and tools."""
        return self._engine

    @property
    def server(self) -> EmbeddedServer | None:
        """The embedded server it runs on, if it does."""
        return self._server

    @asynccontextmanager
    async def begin(self, tenant_id: str) -> AsyncGenerator[AsyncConnection]:
        """One transaction that sees the rows of `tenant_id` only: committed at the end, undone by an exception.

        Raises StoreUnavailable when the database cannot be reached or is lost on the way; when it is lost
        during the commit, what was done may have been kept.
        """
        async with self._transaction("app.tenant_id", tenant_id) as connection:
            yield connection

    @asynccontextmanager
    async def transact(self, tenant_id: str) -> AsyncGenerator[Statements]:
        """As `begin`, on the driver: two round trips of overhead instead of three, and no rows of SQLAlchemy's.

        Raises as `begin`.
        """
        if not _TENANT.fullmatch(tenant_id):
            raise ValueError("a tenant is named in lower-case letters, digits, - and _")
        connection, statements = await self._open_statements(f"BEGIN; SET LOCAL app.tenant_id = '{tenant_id}'")
        try:
            yield statements
            await statements.execute("COMMIT")
        except BaseException:
            # The pool knows nothing of this transaction: a connection in doubt is not given back to it.
            await asyncio.shield(connection.invalidate())
            raise
        finally:
            await _give_back(connection)

    async def _open_statements(self, opening: str) -> tuple[AsyncConnection, Statements]:
        """A connection on which `opening` was run; a second one where the first turns out to be dead."""
        for is_last in (False, True):
            connection = await self._connect_pooled()
            try:
                statements = await Statements.of(connection)
                await statements.execute(opening)
            except BaseException as error:
                await asyncio.shield(connection.invalidate())
                await asyncio.shield(connection.close())
                if isinstance(error, StoreUnavailable) and not is_last:
                    continue
                raise
            return connection, statements
        raise AssertionError("the second try returns or raises")

    @asynccontextmanager
    async def begin_authentication(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction that sees every tenant's API keys and nothing else. Raises as `begin`."""
        async with self._transaction("app.purpose", "authenticate") as connection:
            yield connection

    @asynccontextmanager
    async def begin_pooling(self) -> AsyncGenerator[AsyncConnection]:
        """One transaction that sees every tenant's calibrations, and may write the prior they share; nothing else.

        Raises as `begin`.
        """
        async with self._transaction("app.purpose", "pool") as connection:
            yield connection

    @asynccontextmanager
    async def transact_jobs(self) -> AsyncGenerator[Statements]:
        """One transaction that sees the jobs of every tenant, and which tenants there are; nothing else of theirs.

        Raises as `begin`.
        """
        async with self._transaction("app.purpose", "jobs") as connection:
            yield await Statements.of(connection)

    async def ping(self) -> None:
        """Return when the database answers a query; raise StoreUnavailable when it does not within 2 s."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_S), self._transaction("app.purpose", "ping"):
                pass
        except TimeoutError as error:
            raise StoreUnavailable(f"the database did not answer within {_PING_TIMEOUT_S:.0f} s") from error

    async def aclose(self) -> None:
        """Close the connections, and stop the embedded server if this process owns it."""
        await self._engine.dispose()
        if self._server is not None:
            await self._server.stop()

    @asynccontextmanager
    async def _transaction(self, setting: str, value: str) -> AsyncGenerator[AsyncConnection]:
        connection = await self._checkout(setting, value)
        try:
            yield connection
            await connection.commit()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) in _STALE:
                raise StaleSpace(f"another embedding space is used by now: {error.orig}") from error
            if _is_lost(error):
                raise StoreUnavailable(f"the database was lost in a transaction: {error.orig}") from error
            raise
        finally:
            await _give_back(connection)

    async def _checkout(self, setting: str, value: str) -> AsyncConnection:
        """A connection whose transaction has begun with the setting.

        That first statement is also the test of the pooled connection: after a restart of the server it fails
        once, the pool forgets all connections of before, and the second try gets a new one.
        """
        try:
            return await self._open_transaction(setting, value)
        except DBAPIError as error:
            if not _is_lost(error):
                raise StoreUnavailable(f"the database refused a transaction: {error.orig}") from error
        try:
            return await self._open_transaction(setting, value)
        except DBAPIError as error:
            raise StoreUnavailable(f"the database is lost: {error.orig}") from error

    async def _open_transaction(self, setting: str, value: str) -> AsyncConnection:
        connection = await self._connect_pooled()
        try:
            await connection.exec_driver_sql("SELECT set_config($1, $2, true)", (setting, value))
        except BaseException:
            await _give_back(connection)
            raise
        return connection

    async def _connect_pooled(self) -> AsyncConnection:
        try:
            return await self._engine.connect()
        except PoolTimeoutError as error:
            raise StoreUnavailable(
                f"all {self._pool_size} database connections were busy for {_CHECKOUT_TIMEOUT_S:.0f} s"
            ) from error

    @asynccontextmanager
    async def migrating(self) -> AsyncGenerator[AsyncConnection]:
        """A connection of its own that no other process migrates beside. Raises StoreUnavailable.

        The lock is polled, not waited for: a statement that waits holds a snapshot, for which a
        `CREATE INDEX CONCURRENTLY` of the migration that holds the lock would wait in turn.
        """
        engine = self._create_engine(poolclass=NullPool)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(engine.dispose)
            try:
                connection = await stack.enter_async_context(engine.connect())
                while True:
                    if await _take_lock(connection):
                        break
                    await asyncio.sleep(0.05)
                yield connection  # its end is the lock's end
            except DBAPIError as error:
                if _is_lost(error):
                    raise StoreUnavailable(f"the database was lost while migrating: {error.orig}") from error
                raise


async def _take_lock(connection: AsyncConnection) -> bool:
    result = await connection.exec_driver_sql("SELECT pg_try_advisory_lock($1)", (_MIGRATION_LOCK,))
    is_taken = bool(result.scalar_one())
    await connection.commit()
    return is_taken


async def _give_back(connection: AsyncConnection) -> None:
    """Back to the pool, which drops a connection that is lost. That it cannot undo anything any more is no news: what
    went wrong before is what the caller has to know."""
    with suppress(DBAPIError):
        await asyncio.shield(connection.close())


def _is_lost(error: DBAPIError) -> bool:
    """Whether it was the connection that failed, and not the statement."""
    state = getattr(error.orig, "sqlstate", None) or ""
    is_broken = isinstance(getattr(error.orig, "__cause__", None), _BROKEN)
    return error.connection_invalidated or is_broken or state.startswith(_LOST)


async def run_alembic(database: Database, step: Callable[[Config], None], migrations: Path = MIGRATIONS) -> None:
    """Run a step of Alembic's with the revisions of a folder, one process at a time. Raises StoreUnavailable, and what
    the step raises."""

    def on(connection: Connection) -> None:
        config = alembic_config(migrations)
        config.attributes["connection"] = connection
        step(config)

    async with database.migrating() as connection:
        await connection.run_sync(on)


def alembic_config(migrations: Path = MIGRATIONS) -> Config:
    """Alembic's configuration for the revisions of a folder."""
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


def _upgrade(config: Config, revision: str) -> None:
    try:
        command.upgrade(config, revision)
    except NotFilled:
        steps = list(ScriptDirectory.from_config(config).walk_revisions()) if revision == NEWEST else []
        for step in reversed(steps):
            with suppress(NotFilled):  # of the change, or of what builds on it; the others are not behind it
                command.upgrade(config, step.revision)
        raise


async def migrate(database: Database | str, revision: str = NEWEST, *, migrations: Path = MIGRATIONS) -> None:
    """Bring the tables up to `revision`, one process at a time; a URL is prepared first.

    A change of embedding space that is not filled yet is waited for: it and what builds on it are left for the next
    time. Raises StoreUnavailable; a migration that fails is undone and its error is raised as it is.
    """
    if isinstance(database, str):
        database = Database(await prepare_database(database), pool_size=1)
        try:
            await migrate(database, revision, migrations=migrations)
        finally:
            await database.aclose()
        return
    try:
        await run_alembic(database, lambda config: _upgrade(config, revision), migrations)
    except NotFilled as error:
        log.warning("migration_waits", reason=str(error))


async def open_database(settings: Settings, *, revision: str | None = NEWEST) -> Database:
    """The database that `settings` name, ready for use: the embedded one is started, the tables migrated.

    With `revision` None the tables stay as they are. Raises StoreUnavailable.
    """
    pool_size = settings.database_pool_size
    if settings.database_url is not None:
        return await _open(settings.database_url, pool_size, revision)
    server = await start_embedded(settings.data_dir, max_connections=max(100, pool_size + _ADMIN_CONNECTIONS))
    deadline = time.monotonic() + _RESTART_PATIENCE_S
    try:
        while True:
            try:
                return await _open(server.url, pool_size, revision, server)
            except DatabaseUnsuitable:
                raise
            except StoreUnavailable:  # its owner may just have left; the next one restarts it
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
    except BaseException:
        await server.stop()
        raise


async def _open(url: str, pool_size: int, revision: str | None, server: EmbeddedServer | None = None) -> Database:
    """Prepare and migrate; on failure the pool is closed and the server left as it is."""
    prepared = await prepare_database(url, is_embedded=server is not None)
    database = Database(prepared, pool_size=pool_size, server=server)
    try:
        if revision is not None:
            await migrate(database, revision)
    except BaseException:
        await database.engine.dispose()
        raise
    return database
