"""Giving an embedding space up while others write, in steps that each may be the last for now: the same call goes on.

1. The tenant does not use it any more (`dropped`): one row, and writers wait for that moment.
2. What was noted as lacking in it is forgotten, part by part.
3. Where no other tenant uses it, nobody may begin to, and its tables go whole. Else the tenant's vectors are deleted,
   part by part.
"""

from collections.abc import Callable
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import NotReady
from app.domain.spaces import StoredSpace
from app.store.brief import briefly
from app.store.engine import Database
from app.store.space_drops import DropStore
from app.store.spaces import KINDS, Kind, SpaceStore

log = structlog.get_logger(__name__)

FIRST = ("", UUID(int=0))
"""Before every (user, item)."""

OnDropped = Callable[[int, int], None]
"""Hears how many of how many vectors are deleted; nothing where the tables go whole."""


class SpaceDrop:
    """Takes away what a tenant has in a space."""

    def __init__(self, database: Database, store: SpaceStore, drops: DropStore) -> None:
        self._database = database
        self._store = store
        self._drops = drops

    async def begin(self, tenant_id: str, space: StoredSpace) -> None:
        """Have the tenant use the space no more. Raises NotReady where it serves by now."""

        async def take_role(connection: AsyncConnection) -> None:
            await self._store.lock_roles(connection, tenant_id)
            role = await self._store.role(connection, tenant_id, space.number)
            if role == "serving":
                raise NotReady(f"{space.id} was switched to by somebody else at this moment.")
            if role not in {None, "dropped"}:
                await self._store.set_role(connection, tenant_id, space.number, "dropped")

        await briefly(self._database, tenant_id, take_role)

    async def finish(self, tenant_id: str, space: StoredSpace, on_dropped: OnDropped | None = None) -> None:
        """Delete what the tenant has in a space that it uses no more, and its tables where nobody else does."""
        while await self._forget_notes(tenant_id, space):
            pass
        is_retired = await self._retire(tenant_id, space)
        if not is_retired:
            await self._delete_vectors(tenant_id, space, on_dropped)
            is_retired = await self._retire(tenant_id, space)  # the others may have dropped it meanwhile
        if is_retired:
            for kind in KINDS:
                await self._drop_tables(tenant_id, space, kind)
        async with self._database.begin(tenant_id) as connection:
            await self._drops.end_use(connection, tenant_id, space)
        log.info("space_dropped", space=space.id, tables_dropped=is_retired)

    async def _forget_notes(self, tenant_id: str, space: StoredSpace) -> int:
        async with self._database.begin(tenant_id) as connection:
            return await self._drops.forget_notes(connection, tenant_id, space)

    async def _delete_vectors(self, tenant_id: str, space: StoredSpace, on_dropped: OnDropped | None) -> None:
        async with self._database.begin(tenant_id) as connection:
            done, total = 0, await self._drops.vectors(connection, tenant_id, space)
        for kind in KINDS:
            after: tuple[str, UUID] | None = FIRST
            while after is not None:
                async with self._database.begin(tenant_id) as connection:
                    deleted, after = await self._drops.delete_part(connection, tenant_id, space, kind, after)
                done += deleted
                if on_dropped is not None:
                    on_dropped(done, total)

    async def _retire(self, tenant_id: str, space: StoredSpace) -> bool:
        return await briefly(
            self._database, tenant_id, lambda connection: self._drops.retire(connection, tenant_id, space)
        )

    async def _drop_tables(self, tenant_id: str, space: StoredSpace, kind: Kind) -> None:
        async with self._database.begin(tenant_id) as connection:
            await self._drops.drop_partitions(connection, space, kind)
        await briefly(self._database, tenant_id, lambda connection: self._drops.drop_table(connection, space, kind))
