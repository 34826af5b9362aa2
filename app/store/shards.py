"""Queries about shards: which one a database is, and who is in it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.shards import WHOLE, Place
from app.store.tables import tenants, users

_NOTED = re.compile(r"shard (\d+) of (\d+)")
_NOTE = """
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint
WHERE conrelid = 'users'::regclass AND conname = 'pk_users'
"""


class ShardStore:
    """What is asked and written about shards."""

    async def place(self, connection: AsyncConnection) -> Place:
        """Which shard this database is; a comment on the key of users says so, which goes with every copy and dump."""
        noted = (await connection.execute(text(_NOTE))).scalar_one()
        found = _NOTED.fullmatch(noted or "")
        return Place(int(found[1]), int(found[2])) if found else WHOLE

    async def take_place(self, connection: AsyncConnection, place: Place) -> None:
        """Say which shard this database is from now on."""
        await connection.execute(text(f"COMMENT ON CONSTRAINT pk_users ON users IS '{place}'"))

    async def users(self, connection: AsyncConnection, tenant_id: str) -> list[str]:
        """The tenant's users here."""
        return list((await connection.execute(select(users.c.user_id).where(users.c.tenant_id == tenant_id))).scalars())

    async def known(self, connection: AsyncConnection, tenant_id: str, user_ids: Sequence[str]) -> set[str]:
        """Those of the users who are here."""
        asked = text("SELECT user_id FROM users WHERE tenant_id = :tenant_id AND user_id = ANY(CAST(:users AS text[]))")
        rows = await connection.execute(asked, {"tenant_id": tenant_id, "users": list(user_ids)})
        return set(rows.scalars())

    async def write_tenant(self, connection: AsyncConnection, tenant_id: str, settings: Mapping[str, Any]) -> None:
        """Have the tenant be here, with these settings."""
        query = upsert(tenants).values(tenant_id=tenant_id, settings=dict(settings))
        await connection.execute(
            query.on_conflict_do_update(
                index_elements=["tenant_id"],
                set_={"settings": query.excluded.settings},
                where=tenants.c.settings != query.excluded.settings,
            )
        )
