"""Queries about tenants and their API keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.engine import Statements
from app.store.tables import AnyRow, api_keys, tenants


@dataclass(frozen=True)
class KeyHolder:
    """Whom an API key stands for."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]
    user_id: str | None = None


async def every_tenant(statements: Statements) -> list[str]:
    """The names of all tenants; inside a transaction for jobs (`Database.transact_jobs`)."""
    return [row["tenant_id"] for row in await statements.fetch("SELECT tenant_id FROM tenants ORDER BY tenant_id")]


class TenantStore:
    """What is asked and written about tenants."""

    async def ensure(self, connection: AsyncConnection, tenant_id: str) -> None:
        """Create the tenant unless it exists."""
        await connection.execute(upsert(tenants).values(tenant_id=tenant_id).on_conflict_do_nothing())

    async def settings(self, connection: AsyncConnection, tenant_id: str) -> Mapping[str, Any]:
        """The tenant's own settings; empty where it has none."""
        query = select(tenants.c.settings).where(tenants.c.tenant_id == tenant_id)
        return (await connection.execute(query)).scalar_one_or_none() or {}

    async def save_settings(self, connection: AsyncConnection, tenant_id: str, settings: Mapping[str, Any]) -> None:
        """Replace the tenant's own settings."""
        await connection.execute(
            update(tenants).where(tenants.c.tenant_id == tenant_id).values(settings=dict(settings))
        )


class KeyStore:
    """What is asked and written about API keys. Only hashes are ever stored."""

    async def insert(
        self,
        connection: AsyncConnection,
        *,
        tenant_id: str,
        key_id: str,
        name: str,
        key_hash: str,
        scopes: Sequence[str],
        user_id: str | None,
        now: datetime,
    ) -> None:
        """Write a key's hash."""
        await connection.execute(
            insert(api_keys).values(
                tenant_id=tenant_id,
                key_id=key_id,
                name=name,
                key_hash=key_hash,
                scopes=list(scopes),
                user_id=user_id,
                created_at=now,
            )
        )

    async def list(self, connection: AsyncConnection, tenant_id: str) -> Sequence[AnyRow]:
        """The tenant's keys, oldest first, revoked ones included."""
        shown = ("key_id", "name", "scopes", "user_id", "created_at", "revoked_at")
        query = (
            select(*(api_keys.c[name] for name in shown))
            .where(api_keys.c.tenant_id == tenant_id)
            .order_by(api_keys.c.created_at, api_keys.c.key_id)
        )
        return (await connection.execute(query)).all()

    async def revoke(self, connection: AsyncConnection, tenant_id: str, key_id: str, now: datetime) -> bool:
        """Revoke a key; whether there was a live one."""
        query = (
            update(api_keys)
            .where(api_keys.c.tenant_id == tenant_id, api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        return (await connection.execute(query)).rowcount == 1

    async def find(self, connection: AsyncConnection, key_hash: str) -> KeyHolder | None:
        """Whom the live key with this hash stands for; inside an authentication transaction."""
        held = (api_keys.c.tenant_id, api_keys.c.key_id, api_keys.c.scopes, api_keys.c.user_id)
        query = select(*held).where(api_keys.c.key_hash == key_hash, api_keys.c.revoked_at.is_(None))
        row = (await connection.execute(query)).first()
        return KeyHolder(row.tenant_id, row.key_id, frozenset(row.scopes), row.user_id) if row else None

    async def has_any(self, connection: AsyncConnection) -> bool:
        """Whether any key was ever made in any tenant; inside an authentication transaction.

        Revoked ones count: taking the last key away closes the service, it does not open it.
        """
        return (await connection.execute(select(api_keys.c.key_id).limit(1))).first() is not None
