"""Several databases, each with its own users: which is which, and the few things that concern more than one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, StoreUnavailable
from app.domain.shards import Place, shard_of
from app.domain.telemetry import Shown
from app.ports import Clock
from app.services.telemetry import TelemetryReports
from app.services.training.erasure import Erasure, TrainingErasure
from app.services.transfer import TransferService
from app.store.engine import Database
from app.store.shards import ShardStore
from app.store.tenants import TenantStore, every_tenant
from app.store.users import UserStore

KNOWN = timedelta(seconds=5)
"""How long a shard may act on what a tenant has set for itself before the home is asked again."""

MAX_CACHED = 4096


OnDeleted = Callable[[int, int], None]
"""Is told how many copies of users are deleted, and how many there are to delete."""


@dataclass(frozen=True)
class ShardStatus:
    """A shard: its place, how many users it has, and how many copies of users that are another shard's."""

    place: Place
    users: int
    strays: int


@dataclass(frozen=True)
class ShardService:
    """The databases in the order of their places."""

    databases: Sequence[Database]
    store: ShardStore
    users: UserStore

    @property
    def database(self) -> Database:
        """The first one, the home."""
        return self.databases[0]

    async def take_places(self) -> None:
        """Have each database know which shard it is. Where there were fewer before, each new one has to be a copy of
        the one it is split from: raises StoreUnavailable, and changes nothing, where a user would be lost."""
        places = [Place(index, len(self.databases)) for index in range(len(self.databases))]
        before = [await self._place(database) for database in self.databases]
        if before == places:
            return
        for held, place in zip(before, places, strict=True):
            if not held.may_become(place):
                raise StoreUnavailable(
                    f"a database that is {held} is listed as {place}: put DATABASE_URL (the first one) and "
                    "DATABASE_SHARD_URLS in order, all of them"
                )
        for place in places:
            lost = await self._lost(place.index)
            if lost:
                raise StoreUnavailable(
                    f"{lost} users who are in {place} now belong to others and are not in them: a new shard begins as "
                    "a copy of the one that is split (docs/shards.md)"
                )
        for database, place in zip(self.databases, places, strict=True):
            async with database.begin("default") as connection:
                await self.store.take_place(connection, place)

    async def status(self) -> list[ShardStatus]:
        """Each shard. Raises StoreUnavailable."""
        found: list[ShardStatus] = []
        for index in range(len(self.databases)):
            users = strays = 0
            async for _, own, others in self._users(index):
                users, strays = users + len(own), strays + len(others)
            found.append(ShardStatus(Place(index, len(self.databases)), users, strays))
        return found

    async def tidy(self, on_deleted: OnDeleted | None = None) -> list[int]:
        """Delete in each shard the copies of users who are another shard's; how many there were. Raises
        StoreUnavailable where the places are not taken."""
        await self.take_places()
        total = sum(each.strays for each in await self.status())
        deleted: list[int] = []
        for index, database in enumerate(self.databases):
            count = 0
            async for tenant_id, _, strays in self._users(index):
                for user_id in strays:
                    async with database.begin(tenant_id) as connection:
                        if await self.users.hold_alone(connection, tenant_id, user_id):
                            await self.users.erase(connection, tenant_id, user_id)
                            count += 1
                    if on_deleted is not None:
                        on_deleted(sum(deleted) + count, total)
            deleted.append(count)
        return deleted

    async def _place(self, database: Database) -> Place:
        async with database.begin("default") as connection:
            return await self.store.place(connection)

    async def _users(self, index: int) -> AsyncIterator[tuple[str, list[str], list[str]]]:
        """For each tenant, the users in a database that are its own, and those who are not."""
        database, count = self.databases[index], len(self.databases)
        async with database.transact_jobs() as statements:
            tenants = await every_tenant(statements)
        for tenant_id in tenants:
            async with database.begin(tenant_id) as connection:
                users = await self.store.users(connection, tenant_id)
            own = [user_id for user_id in users if shard_of(tenant_id, user_id, count) == index]
            yield tenant_id, own, sorted(set(users) - set(own))

    async def _lost(self, index: int) -> int:
        """How many users who are in a database and belong to another one are not in that."""
        lost = 0
        async for tenant_id, _, strays in self._users(index):
            by_place: dict[int, list[str]] = {}
            for user_id in strays:
                by_place.setdefault(shard_of(tenant_id, user_id, len(self.databases)), []).append(user_id)
            for place, users in by_place.items():
                async with self.databases[place].begin(tenant_id) as connection:
                    lost += len(users) - len(await self.store.known(connection, tenant_id, users))
        return lost


class ShardTenants:
    """Has every shard know a tenant as the home, the first one, does."""

    def __init__(self, databases: Sequence[Database], store: ShardStore, tenants: TenantStore, clock: Clock) -> None:
        self._databases = databases
        self._store = store
        self._tenants = tenants
        self._clock = clock
        self._brought: dict[tuple[str, int], datetime] = {}

    async def bring(self, tenant_id: str, index: int) -> None:
        """Write the tenant and its settings into a shard, unless that was done just now. Raises StoreUnavailable."""
        now = self._clock.now()
        held = self._brought.get((tenant_id, index))
        if index == 0 or (held is not None and timedelta(0) <= now - held < KNOWN):
            return
        try:
            async with self._databases[0].begin(tenant_id) as connection:
                settings = await self._tenants.settings(connection, tenant_id)
        except StoreUnavailable:
            if held is None:
                raise
            return  # what the shard knows is a little older
        async with self._databases[index].begin(tenant_id) as connection:
            await self._store.write_tenant(connection, tenant_id, settings)
        if len(self._brought) >= MAX_CACHED:
            self._brought.clear()
        self._brought[tenant_id, index] = now


@dataclass(frozen=True)
class ShardedTelemetry(TelemetryReports):
    """The figures of all shards as one; the calibration is the home's."""

    shards: Sequence[TelemetryReports]

    async def shown(self, tenant_id: str, since: datetime) -> Sequence[Shown]:
        """As TelemetryReports has it, of every shard."""
        found = await asyncio.gather(*(each.shown(tenant_id, since) for each in self.shards))
        return [one for each in found for one in each]


@dataclass(frozen=True)
class ShardedTransfer(TransferService):
    """Imports go to the shard of the users they are about."""

    shards: Sequence[TransferService]
    tenants: ShardTenants

    async def import_(self, tenant_id: str, lines: Iterable[bytes], only: str | None = None) -> Mapping[str, int]:
        """As TransferService has it. Raises InvalidInput where the users are of several shards: no transaction is over
        two of them."""
        held = await asyncio.to_thread(list, lines)
        users = await asyncio.to_thread(_users_in, held)
        places = {shard_of(tenant_id, user_id, len(self.shards)) for user_id in users} or {0}
        if len(places) > 1:
            raise InvalidInput("the stream has users of several shards: import the export of one user at a time")
        place = places.pop()
        await self.tenants.bring(tenant_id, place)
        return await self.shards[place].import_(tenant_id, held, only)


@dataclass(frozen=True)
class HomeErasure(TrainingErasure):
    """Takes users of a shard out of what training made of their samples: the runs are registered at home."""

    home: Database

    async def erase_user(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> Erasure:
        """As TrainingErasure has it, in a transaction at home: done when this returns, whatever becomes of
        `connection`, so that the call is to be repeated where that fails."""
        del connection
        async with self.home.begin(tenant_id) as at_home:
            return await super().erase_user(at_home, tenant_id, user_id)


def _users_in(lines: Sequence[bytes]) -> set[str]:
    """The users that lines are about, as far as they can be read."""
    users: set[str] = set()
    for line in lines:
        try:
            document: Any = orjson.loads(line)
            users.add(str(document["user_id"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue  # whoever imports says what is wrong with it
    return users
