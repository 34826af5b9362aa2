"""Changing the embedding space of a tenant while it is served: plan, create, fill, verify, switch, drop.

create   the new space's tables; from now on triggers note what is written
fill     note what was there before, and embed what is noted, by any number of processes; when next to nothing is
         left it is `filled`, and writers embed in both spaces, else new notes would come for ever
verify   nothing lacks, and the new space finds what comparing with every vector finds
switch   in one transaction, while writers wait: nothing is noted, so the roles are swapped
drop     the old space is not kept up any more; its vectors are deleted, part by part
"""

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import AS_TOLD, EmbeddingSpace, Labels
from app.domain.errors import InvalidInput, ModelUnavailable, NotFound, NotReady, Overloaded, StaleSpace
from app.domain.spaces import WRITTEN, Role, StoredSpace, TenantSpaces, storage_of
from app.services.space_check import SpaceCheck, Verified
from app.services.space_drop import OnDropped, SpaceDrop
from app.services.space_filler import BATCH, OnFilled, Pause, SpaceFiller
from app.services.space_throttle import Throttle
from app.services.spaces import Spaces
from app.store.brief import briefly
from app.store.engine import MIGRATIONS, Database
from app.store.space_drops import DropStore
from app.store.space_fills import FillStore
from app.store.space_revision_files import write_revisions
from app.store.space_revisions import SpaceRow, row_of
from app.store.spaces import SpaceStore
from app.store.tenants import every_tenant

log = structlog.get_logger(__name__)

SAMPLE = 64
"""Texts that the rate of an endpoint is measured with."""

SETTLE_S = 20.0
"""How long a filling goes on after writers have begun to embed in both spaces; what they note still, they note because
the new model is late, and the switch sees to it."""

TRIES = 20
"""How often a switch looks for a moment in which nothing is lacking."""


_BYTES = {"halfvec": 2, "vector": 4}
_ROW_BYTES = 150
"""A row beside its vector, and its entry in the key."""


@dataclass(frozen=True)
class SpacePlan:
    """What a change of space would be: how much there is to embed, how long that takes, and how much disk."""

    tenant_id: str
    serving: EmbeddingSpace
    to: EmbeddingSpace
    endpoint: str
    memories: int
    inputs: int
    texts_per_s: float
    seconds: float
    bytes: int


@dataclass(frozen=True)
class SpaceStatus:
    """A space of a tenant: its role, and how many of how many items have no vector in it yet. `rate`: how many a second
    got one while it was watched; None where it was not, or nothing lacks. One that is dropped has to have nothing."""

    space: StoredSpace
    role: Role
    lacking: int
    items: int
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until it is filled at that rate; None where nothing goes on."""
        return self.lacking / self.rate if self.rate else None


class SpaceSwitch:
    """The use cases about a tenant's change of space."""

    def __init__(
        self, database: Database, spaces: Spaces, store: SpaceStore, fills: FillStore, drops: DropStore
    ) -> None:
        self.database = database
        self._spaces = spaces
        self._store = store
        self._fills = fills
        self._filler = SpaceFiller(database, spaces, store, fills)
        self._check = SpaceCheck(database, spaces, store, fills)
        self._drop = SpaceDrop(database, store, drops)

    async def plan(self, tenant_id: str, endpoint: str, labels: Labels = AS_TOLD) -> SpacePlan:
        """What a change to the space of `endpoint` would be; nothing is changed. Raises InvalidInput where that space
        serves already, ModelUnavailable."""
        spaces = await self._spaces.of(tenant_id)
        async with self.database.begin(tenant_id) as connection:
            memories, inputs = await self._fills.counts(connection, tenant_id)
            texts = [text for _, text in await self._fills.sample(connection, tenant_id, SAMPLE)] or ["a text"]
        to = await self._spaces.look_at(endpoint, labels)
        embedder = self._spaces.embedder_at(endpoint)
        started = time.monotonic()
        await embedder.embed([to.prefix + each for each in texts])
        rate = len(texts) / (time.monotonic() - started)
        if to.id == spaces.serving.id:
            raise InvalidInput(f"{endpoint} has the space that serves already: {spaces.serving.id}.", "endpoint")
        items = memories + inputs
        return SpacePlan(
            tenant_id,
            spaces.serving.space,
            to,
            endpoint,
            memories,
            inputs,
            rate,
            items / rate,
            items * (_BYTES[storage_of(to)] * to.dimension + _ROW_BYTES),
        )

    async def create(self, tenant_id: str, endpoint: str, labels: Labels = AS_TOLD) -> SpaceStatus:
        """Make the space of an endpoint for the tenant: from now on the database notes what is written; what is there
        is noted when it is filled, for writers wait for this moment. One that is there is left as it is.

        Raises InvalidInput (it serves, is on trial), ModelUnavailable, NotReady where something of it is still being
        deleted, or writers leave no moment.
        """
        serving = (await self._spaces.of(tenant_id)).serving
        space = await self._spaces.register(endpoint, labels)

        async def give_role(connection: AsyncConnection) -> None:
            await self._store.lock_roles(connection, tenant_id)
            spaces = await self._store.of_tenant(connection, tenant_id)
            if spaces is None:
                spaces = TenantSpaces(serving)
                await self._store.begin_to_serve(connection, tenant_id, serving)
            if spaces.serving.number == space.number:
                raise InvalidInput(f"{endpoint} has the space that serves already: {space.id}.", "endpoint")
            role = spaces.role_of(space)
            if role == "trial":
                raise InvalidInput(f"{space.id} is on trial: stop that first (`embed-service space trial stop`).")
            if role is None:
                await self._store.set_role(connection, tenant_id, space.number, "filling")
                log.info("space_created", space=space.id, number=space.number)

        await briefly(self.database, tenant_id, give_role)
        self._spaces.forget(tenant_id)
        return await self._status_of(tenant_id, space)

    async def status(self, tenant_id: str) -> list[SpaceStatus]:
        """The tenant's spaces, the serving one first, those last of which something is left to delete."""
        self._spaces.forget(tenant_id)
        spaces = await self._spaces.of(tenant_id)
        return [await self._status_of(tenant_id, space) for space in (*spaces.every, *await self._dropped(tenant_id))]

    async def watched_status(self, tenant_id: str, seconds: float) -> list[SpaceStatus]:
        """As `status`, with the rate over some seconds where something is lacking; 0.0: without."""
        before, began = await self.status(tenant_id), time.monotonic()
        if not seconds or not any(one.lacking for one in before):
            return before
        await asyncio.sleep(seconds)
        earlier = {one.space.number: one.lacking for one in before}
        now = await self.status(tenant_id)
        took = time.monotonic() - began
        return [
            replace(one, rate=max(0.0, (earlier.get(one.space.number, 0) - one.lacking) / took)) if one.lacking else one
            for one in now
        ]

    async def fill(self, tenant_id: str, on_filled: OnFilled | None = None, pause: Pause | None = None) -> SpaceStatus:
        """Embed what the tenant's new space lacks, until nothing does; any number of processes may do so at once, and
        each may end at any moment. Raises NotFound where there is none, ModelUnavailable."""
        space = await self.to_fill(tenant_id)
        await self._filler.note(tenant_id, space, pause)
        while True:
            await self._filler.fill(tenant_id, space, on_filled, pause, enough=BATCH)
            if not await self._filler.note(tenant_id, space, pause):
                break
        await self._call_filled(tenant_id, space)
        await self._filler.fill(tenant_id, space, on_filled, pause, seconds=SETTLE_S)
        return await self._status_of(tenant_id, space)

    async def fill_gently(self, tenant_id: str, on_filled: OnFilled | None, slowdown: float) -> SpaceStatus:
        """As `fill`, held back while searches in the serving space take more than `slowdown` times as long as
        before; 0: not held back."""
        return await self.fill(tenant_id, on_filled, await self.throttle(tenant_id, slowdown))

    async def throttle(self, tenant_id: str, slowdown: float, usual_s: float = 0.0) -> Throttle | None:
        """What holds a filling back, by searches for something that a user said lately: embedded in the space that
        serves, as a user's is, and looked for; None where nobody said anything, or `slowdown` is 0."""
        if not slowdown:
            return None
        serving = (await self._spaces.of(tenant_id)).serving
        async with self.database.begin(tenant_id) as connection:
            sample = await self._fills.sample(connection, tenant_id, 1)
        if not sample:
            return None
        user_id, said = sample[0]

        async def search() -> None:
            try:
                vectors = (await self._spaces.embed_in(serving, [said])).vectors
            except (ModelUnavailable, Overloaded):  # what it took until then tells enough
                return
            async with self.database.begin(tenant_id) as connection:
                await self._store.nearest(connection, tenant_id, serving, user_id, vectors[0], 10)

        return Throttle(search, slowdown, usual_s)

    async def fill_slice(
        self, tenant_id: str, number: int, seconds: float, pause: Pause | None, *, is_noted: bool
    ) -> bool:
        """Fill a space of the tenant for at most some `seconds`; whether nothing is left to do, also because it is not
        used any more. `is_noted`: this was begun before, and noted what there is. Raises ModelUnavailable."""
        async with self.database.begin(tenant_id) as connection:
            spaces = await self._store.of_tenant(connection, tenant_id)
        if spaces is None:
            return True
        used = spaces.of_role("serving", "filling", "filled", "kept")
        space = next((each for each in used if each.number == number), None)
        if space is None:
            return True
        is_new = spaces.role_of(space) == "filling"
        try:
            if is_new and not is_noted:
                await self._filler.note(tenant_id, space, pause)
            if is_new:
                is_near = await self._filler.fill(tenant_id, space, pause=pause, seconds=seconds, enough=BATCH)
                if not is_near or await self._filler.note(tenant_id, space, pause):
                    return False
                await self._call_filled(tenant_id, space)
            return await self._filler.fill(tenant_id, space, pause=pause, seconds=seconds)
        except StaleSpace:  # it was dropped
            return True

    async def to_fill(self, tenant_id: str) -> StoredSpace:
        """The tenant's new space. Raises NotFound where there is none."""
        return await self._new(tenant_id, "filling", "filled", "kept")

    async def lacking(self, tenant_id: str) -> list[StoredSpace]:
        """The tenant's spaces that are to have everything and do not: after an outage of what embeds in them, or where
        a migration found vectors of several spaces."""
        async with self.database.begin(tenant_id) as connection:
            spaces = await self._store.of_tenant(connection, tenant_id)
            whole = () if spaces is None else spaces.of_role(*WRITTEN)
            return [each for each in whole if await self._store.lacking(connection, tenant_id, each.number)]

    async def tenants(self) -> list[str]:
        """Every tenant there is."""
        async with self.database.transact_jobs() as statements:
            return await every_tenant(statements)

    async def revisions(
        self,
        tenant_id: str,
        endpoint: str | None,
        labels: Labels = AS_TOLD,
        *,
        is_contract: bool,
        migrations: Path = MIGRATIONS,
    ) -> list[Path]:
        """Write the change to the space of `endpoint` as Alembic revisions, or with `is_contract` the one that gives
        up the space from before. The files. Raises InvalidInput, NotFound."""
        serving = (await self._spaces.of(tenant_id)).serving
        if is_contract:
            old = await self._new(tenant_id, "kept")
            return write_revisions(_row(old), _row(serving), contract=True, migrations=migrations)
        if endpoint is None:
            raise InvalidInput("--revisions needs --endpoint, or --contract.", "endpoint")
        to = (await self.plan(tenant_id, endpoint, labels)).to
        return write_revisions(_row(serving), row_of(to, storage_of(to), endpoint), migrations=migrations)

    async def verify(self, tenant_id: str, queries: int = 50) -> Verified:
        """Look at the new space before it serves. Raises NotFound, ModelUnavailable."""
        space = await self._new(tenant_id, "filled", "filling", "kept")
        spaces = await self._spaces.of(tenant_id)
        is_filled = spaces.role_of(space) != "filling"
        return await self._check.verify(tenant_id, space, spaces.serving, queries, is_filled=is_filled)

    async def switch(self, tenant_id: str) -> SpaceStatus:
        """Have the filled (or kept) space serve, and keep the one that served, up to date. Writers wait for the moment
        of it. Raises NotFound, NotReady where something goes on being lacking."""
        space = await self._new(tenant_id, "filled", "kept")

        async def swap(connection: AsyncConnection) -> tuple[int, StoredSpace]:
            """How many items are lacking, for which nothing is changed, and what served until now."""
            await self._store.lock_roles(connection, tenant_id)
            spaces = await self._store.of_tenant(connection, tenant_id)
            if spaces is None or spaces.role_of(space) not in {"filled", "kept"}:
                raise NotReady(f"{space.id} was switched or dropped by somebody else at this moment.")
            lacking = await self._store.lacking(connection, tenant_id, space.number)
            if not lacking:
                await self._store.swap_roles(connection, tenant_id, space.number, spaces.serving.number)
            return lacking, spaces.serving

        lacking = 0
        for attempt in range(TRIES):
            lacking, before = await briefly(self.database, tenant_id, swap)
            if not lacking:
                self._spaces.forget(tenant_id)
                log.info("space_switched", space=space.id, before=before.id)
                return await self._status_of(tenant_id, space)
            while await self._filler.fill_some(tenant_id, space):
                pass
            await asyncio.sleep(0.05 * attempt)
        raise NotReady(f"{lacking} items have no vector in {space.id} yet: embed-service space fill")

    async def drop(self, tenant_id: str, on_dropped: OnDropped | None = None) -> StoredSpace:
        """Give up the space that does not serve, and its vectors; its tables, where no other tenant uses them. Broken
        off, the same call finishes that one, and no other. Raises NotFound."""
        begun = await self._dropped(tenant_id)
        space = begun[0] if begun else await self._new(tenant_id, "kept", "filled", "filling")
        await self._drop.begin(tenant_id, space)
        self._spaces.forget(tenant_id)
        await self._drop.finish(tenant_id, space, on_dropped)
        return space

    async def _dropped(self, tenant_id: str) -> list[StoredSpace]:
        async with self.database.begin(tenant_id) as connection:
            return await self._store.dropped(connection, tenant_id)

    async def _new(self, tenant_id: str, *roles: Role) -> StoredSpace:
        """The tenant's space in one of the roles, the first that has any."""
        self._spaces.forget(tenant_id)
        spaces = await self._spaces.of(tenant_id)
        for role in roles:
            for space in spaces.of_role(role):
                return space
        raise NotFound(f"no embedding space is {' or '.join(roles)}: `embed-service space create` makes one")

    async def _call_filled(self, tenant_id: str, space: StoredSpace) -> None:
        """Have writers embed in it too, from now on."""

        async def give_role(connection: AsyncConnection) -> bool:
            await self._store.lock_roles(connection, tenant_id)
            is_filling = await self._store.role(connection, tenant_id, space.number) == "filling"
            if is_filling:
                await self._store.set_role(connection, tenant_id, space.number, "filled")
            return is_filling

        if await briefly(self.database, tenant_id, give_role):
            log.info("space_filled", space=space.id)
        self._spaces.forget(tenant_id)

    async def _status_of(self, tenant_id: str, space: StoredSpace) -> SpaceStatus:
        async with self.database.begin(tenant_id) as connection:
            role = await self._store.role(connection, tenant_id, space.number) or "serving"
            if role == "dropped":  # its tables may be gone
                return SpaceStatus(space, role, 0, 0)
            if role in {"filling", "trial"}:  # not all of it may be noted
                lacking = await self._fills.missing(connection, tenant_id, space)
            else:
                lacking = await self._store.lacking(connection, tenant_id, space.number)
            items = sum(await self._fills.counts(connection, tenant_id))
        return SpaceStatus(space, role, lacking, items)


def _row(space: StoredSpace) -> SpaceRow:
    return row_of(space.space, space.storage, space.endpoint)
