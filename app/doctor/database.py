"""The database: what it says of itself, and the verdicts on that. Changes nothing in it.

Some of its parts (the extension, the role, the tables) are made by the service's first start; they are fine as long
as that start may make them.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
from alembic.script import ScriptDirectory

from app import VERSION
from app.doctor.check import Check, Unfit, counted
from app.doctor.machine import is_loopback
from app.domain.errors import StoreUnavailable
from app.services.keys import DEFAULT_TENANT
from app.settings import Settings
from app.store import tables
from app.store.embedded import connect_driver, start_embedded
from app.store.engine import OLDEST_PGVECTOR, OLDEST_POSTGRES, SERVICE_ROLE, alembic_config, describe

LOOK_LIMIT_S = 5.0
START_LIMIT_S = 60.0
"""The embedded one: initdb takes seconds, recovery after a crash may take longer."""

SLOW_ROUND_TRIP_MS = 20.0
"""A request makes several round trips."""

_ABOUT = f"""
    SELECT current_database() AS database, split_part(current_setting('server_version'), ' ', 1) AS version,
           rolname AS login, rolsuper AS is_superuser,
           rolsuper OR rolbypassrls AS can_bypass, rolsuper OR rolcreaterole AS may_create_role,
           has_schema_privilege('public', 'CREATE') AS may_create_tables,
           rolsuper OR has_database_privilege(current_database(), 'CREATE') AND EXISTS (
               SELECT FROM pg_available_extension_versions WHERE name = 'vector' AND trusted
           ) AS may_create_extension,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
           (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS pgvector_offered,
           (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = '{SERVICE_ROLE}') AS service_can_bypass,
           (SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = '{SERVICE_ROLE}') AS is_member,
           to_regclass('alembic_version') IS NOT NULL AS has_revision
    FROM pg_roles WHERE rolname = current_user
"""  # noqa: S608 - a constant of ours
_UNCONFINED = """
    SELECT oid::regclass::text FROM pg_class
    WHERE oid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
      AND NOT (relrowsecurity AND relforcerowsecurity)
    ORDER BY 1
"""
_KEYS = "SELECT count(*) AS made, count(*) FILTER (WHERE revoked_at IS NULL) AS live FROM api_keys"
_SPACES = """
SELECT space_id, count(*) AS memories
FROM tenant_spaces JOIN embedding_spaces USING (number) JOIN memories USING (tenant_id)
WHERE role = 'serving' GROUP BY space_id ORDER BY 2 DESC
"""


class KeyCount(NamedTuple):
    """API keys of every tenant: ever made, and not revoked."""

    made: int
    live: int


@dataclass(frozen=True)
class Revisions:
    """Migrations: the newest, and every one."""

    newest: tuple[str, ...]
    every: frozenset[str]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a database says of itself. None: it could not be read, or is not there."""

    address: str
    version: str
    round_trip_ms: float
    database: str
    login: str
    is_superuser: bool
    can_bypass: bool
    may_create_role: bool
    may_create_tables: bool
    may_create_extension: bool
    pgvector: str | None
    pgvector_offered: str | None
    service_can_bypass: bool | None
    is_member: bool | None
    has_revision: bool
    revisions: tuple[str, ...]
    """More than one where somebody's change of embedding space is beside the service's own tables."""
    unconfined: tuple[str, ...]
    """Tables without row-level security."""
    keys: KeyCount | None
    spaces: Mapping[str, int] | None
    """Memories by embedding space: of every tenant where the login sees them, else of `default`."""


async def look_at_database(settings: Settings) -> DatabaseFacts:
    """The facts of the settings' database; the embedded one is started for it where it does not run."""
    if settings.database_url is not None:
        return await _look_at(settings.database_url, f"{describe(settings.database_url)},")
    try:
        async with asyncio.timeout(START_LIMIT_S):
            server = await start_embedded(settings.data_dir)
    except StoreUnavailable as error:
        raise Unfit(*_found_and_mend(str(error))) from error
    except TimeoutError as error:
        raise Unfit(
            f"the embedded database did not start within {START_LIMIT_S:g} s",
            f"see {settings.data_dir / 'postgres/server.log'}",
        ) from error
    try:
        how = "started for this check" if server.is_owner else "beside the running service"
        return await _look_at(server.url, f"embedded in {settings.data_dir / 'postgres'} ({how}),")
    finally:
        await server.stop()


def _found_and_mend(message: str) -> tuple[str, str]:
    """The two halves of a line of the store, which says what is wrong and then what to do."""
    found, separator, log = message.partition("; see ")
    if separator:
        return found, f"see {log}"
    found, _, mend = message.partition(": ")
    return found, mend


async def _look_at(url: str, address: str) -> DatabaseFacts:
    dsn = re.sub(r"^[a-z+]+://", "postgresql://", url)
    where = describe(url)
    try:
        async with asyncio.timeout(LOOK_LIMIT_S):
            connection = await connect_driver(dsn, timeout=LOOK_LIMIT_S, command_timeout=LOOK_LIMIT_S)
            try:
                return await _read_facts(connection, address)
            finally:
                with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=1)
    except asyncpg.InvalidAuthorizationSpecificationError as error:  # a wrong password is one, too
        raise Unfit(f"{where} refuses the login: {error}", "check user and password in DATABASE_URL") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise Unfit(f"{where}: {error}", "create it there (createdb), or name another in DATABASE_URL") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        reason = str(error) or f"no answer within {LOOK_LIMIT_S:g} s"
        raise Unfit(
            f"cannot connect to {where}: {reason}",
            "start that server, check DATABASE_URL, or unset it for the embedded database",
        ) from error


async def _read_facts(connection: Any, address: str) -> DatabaseFacts:
    about = dict(await connection.fetchrow(_ABOUT))
    started = time.perf_counter()
    await connection.fetchval("SELECT 1")
    round_trip_ms = (time.perf_counter() - started) * 1000
    revisions = await _rows_or_none(connection, "SELECT version_num FROM alembic_version ORDER BY 1")
    named = [name for name in tables.metadata.tables if name != "alembic_version"]
    unconfined = await connection.fetch(_UNCONFINED, named)
    keys = await _rows_or_none(connection, _KEYS, "app.purpose", "authenticate")
    spaces = await _rows_or_none(connection, _SPACES, "app.tenant_id", DEFAULT_TENANT)
    return DatabaseFacts(
        address=address,
        round_trip_ms=round_trip_ms,
        revisions=tuple(row[0] for row in revisions or ()),
        unconfined=tuple(name for (name,) in unconfined),
        keys=KeyCount(*keys[0]) if keys else None,
        spaces=None if spaces is None else {row[0]: row[1] for row in spaces},
        **about,
    )


async def _rows_or_none(connection: Any, query: str, setting: str = "app.purpose", value: str = "") -> list[Any] | None:
    """The rows of a query under a setting; None where the tables are not there, not readable or too large."""
    try:
        async with connection.transaction(readonly=True):
            await connection.execute("SELECT set_config($1, $2, true)", setting, value)
            await connection.execute("SET LOCAL statement_timeout = 3000")
            return await connection.fetch(query)
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError, asyncpg.QueryCanceledError):
        return None


def judge_database(facts: DatabaseFacts) -> Check:
    """Whether it answers soon, in a version that will do."""
    found = f"{facts.address} PostgreSQL {facts.version}, {facts.round_trip_ms:.1f} ms a round trip"
    if _version(facts.version)[0] < OLDEST_POSTGRES:
        mend = f"update that server to PostgreSQL {OLDEST_POSTGRES} or newer, or unset DATABASE_URL"
        return Check("database", "wrong", found, mend)
    if facts.round_trip_ms > SLOW_ROUND_TRIP_MS:
        return Check("database", "warning", f"{found}: slow", "put the service near its database")
    return Check("database", "ok", found)


def find_revisions() -> Revisions:
    """The migrations of this release, and those that were written beside them."""
    script = ScriptDirectory.from_config(alembic_config())
    steps = list(script.walk_revisions())
    return Revisions(tuple(sorted(script.get_heads())), frozenset(step.revision for step in steps))


def judge_migrations(facts: DatabaseFacts, known: Revisions) -> Check:
    """Whether the tables are those of this release. `known`: its revisions."""
    part, newest = "migrations", " and ".join(known.newest)
    found = " and ".join(facts.revisions)
    if set(facts.revisions) == set(known.newest):
        return Check(part, "ok", f"at {found}, the newest")
    if not facts.revisions and facts.has_revision and not facts.can_bypass and not facts.may_create_tables:
        return Check(part, "warning", f'role "{facts.login}" may not read alembic_version', _grant(facts))
    if not facts.revisions:
        if not facts.can_bypass and not facts.may_create_tables:
            return Check(part, "wrong", f'no tables, and role "{facts.login}" may not create them', _grant(facts))
        return Check(part, "ok", "no tables yet: the first start makes them")
    if set(facts.revisions) <= known.every:
        waits = f"at {found}, the newest is {newest}: the next start brings it there"
        return Check(part, "warning", waits, ".venv/bin/alembic upgrade heads")
    unknown = f"at {found}, which this release ({VERSION}) does not know: a newer one made it"
    return Check(part, "wrong", unknown, "run that newer release, or restore a backup of before")


def _grant(facts: DatabaseFacts) -> str:
    return f'as the database\'s owner: GRANT CREATE, USAGE ON SCHEMA public TO "{facts.login}";'


def judge_tenancy(facts: DatabaseFacts) -> Check:
    """Whether tenants are kept apart: the service's role is bound by row-level security, on every table."""
    part = "row-level security"
    if facts.unconfined:
        statements = " ".join(
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;" for name in facts.unconfined
        )
        return Check(part, "wrong", f"switched off on {', '.join(facts.unconfined)}", f"as their owner: {statements}")
    if not facts.can_bypass:
        return Check(part, "ok", f'effective: works as "{facts.login}", who cannot bypass it')
    if facts.service_can_bypass:
        mend = f"as a superuser: ALTER ROLE {SERVICE_ROLE} NOSUPERUSER NOBYPASSRLS;"
        return Check(part, "wrong", f'role "{SERVICE_ROLE}" can bypass it', mend)
    if facts.is_member or facts.may_create_role:
        made = "" if facts.service_can_bypass is not None else ", made at the first start"
        return Check(part, "ok", f'effective: logs in as "{facts.login}", works as "{SERVICE_ROLE}"{made}')
    create = "" if facts.service_can_bypass is not None else f"CREATE ROLE {SERVICE_ROLE} NOLOGIN; "
    found = f'role "{facts.login}" can bypass it and may not become one that cannot'
    return Check(part, "wrong", found, f'as a superuser: {create}GRANT {SERVICE_ROLE} TO "{facts.login}";')


def judge_pgvector(facts: DatabaseFacts) -> Check:
    """Whether the extension is there, in a version that will do."""
    part, oldest = "pgvector", ".".join(map(str, OLDEST_PGVECTOR))
    if facts.pgvector and _version(facts.pgvector) >= OLDEST_PGVECTOR:
        return Check(part, "ok", f"{facts.pgvector} (at least {oldest} is needed)")
    is_offered = facts.pgvector_offered and _version(facts.pgvector_offered) >= OLDEST_PGVECTOR
    statement = "ALTER EXTENSION vector UPDATE" if facts.pgvector else "CREATE EXTENSION vector"
    command = f'as a superuser: psql {facts.database} -c "{statement}"'
    found = f"{facts.pgvector or 'not enabled'}; the server offers {facts.pgvector_offered or 'none'}"
    if not is_offered:
        mend = f"install pgvector {oldest} or newer on the database server, then {command}"
        return Check(part, "wrong", f"{found}; {oldest} or newer is needed", mend)
    if facts.may_create_extension and (facts.is_superuser or not facts.pgvector):
        return Check(part, "ok", f"{found}: the first start enables it")
    return Check(part, "wrong", f"{found}; {oldest} or newer is needed", command)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def judge_keys(keys: KeyCount | None, host: str) -> Check:
    """Who may call: everyone with a key, or this machine only."""
    part = "keys"
    if keys is None or not keys.made:
        if is_loopback(host):
            return Check(part, "ok", "none: serves this machine only")
        found = f"none, and HOST={host} listens beyond this machine: callers from there are refused"
        return Check(part, "warning", found, "embed-service keys create")
    if not keys.live:
        return Check(part, "warning", "every key is revoked: nobody is served", "embed-service keys create")
    return Check(part, "ok", f"{counted(keys.live, 'key')} in use, {keys.made - keys.live} revoked")
