"""Memories: add, get, update, delete; one decision per draft about what it does to what is known."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import STATES, Draft, Memory, MemoryType, Neighbour, earlier
from app.domain.places import placed, unnumbered
from app.domain.spaces import Embedded, StoredSpace
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.services.jobs.graphs import GraphService
from app.services.memory_plan import Plan, plan_of
from app.services.spaces import Spaces, follows_switch
from app.services.trial_spaces import TrialSpaces
from app.store.engine import Database, Statements
from app.store.memories import MemoryStore, SearchFilter, later_evidence
from app.store.spaces import SpaceStore
from app.store.users import UserStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Added:
    """What became of the drafts: one id each, in order (of the memory that holds it now)."""

    ids: tuple[UUID, ...]
    deduplicated: int
    superseded: tuple[UUID, ...]


Within = Callable[[AsyncConnection, Added], Awaitable[None]]
"""What else is written in the transaction that remembers something."""


@dataclass(frozen=True)
class MemoryService:
    """The use cases about single memories."""

    database: Database
    spaces: Spaces
    catalogues: CatalogueService
    clock: Clock
    memories: MemoryStore
    vectors: SpaceStore
    users: UserStore
    trials: TrialSpaces
    graphs: GraphService

    @follows_switch
    async def add(
        self,
        tenant_id: str,
        user_id: str,
        drafts: Sequence[Draft],
        *,
        known_since: datetime | None = None,
        within: Within | None = None,
    ) -> Added:
        """Remember `drafts` in one transaction, and do what else belongs in it: duplicates merge, contradictions
        supersede.

        Creates the user at first contact; what is learned about a user `known_since` a moment is not kept for
        another of the same id (UserErased). Raises ModelUnavailable when no vector can be had: nothing is
        written then.
        """
        asked_at = self.clock.now()
        for draft in drafts:
            check_period(draft.valid_from or asked_at, draft.valid_to)
        contents = [draft.content for draft in drafts]
        embedded, *also = await self._embedded(tenant_id, contents)
        slots = await self.catalogues.slots_in(tenant_id, contents)
        async with self.database.begin(tenant_id) as connection:
            locked = await self.users.ensure_locked(connection, tenant_id, user_id, asked_at, known_since=known_since)
            now = self.clock.now()  # behind the lock: what is told now comes after what other writers told
            live = await self.spaces.hold(connection, tenant_id, embedded.space)
            statements = await Statements.of(connection)
            held = await self.memories.neighbours(
                statements,
                tenant_id,
                user_id,
                types=[draft.type.value for draft in drafts],
                embedded=embedded,
                at=now,
                graph=locked.graph,
            )
            over = await self._over_near(statements, tenant_id, user_id, drafts, embedded, held, now)
            numbers = unnumbered(drafts, now)
            last = await self.memories.last_turns(statements, tenant_id, user_id, list(numbers)) if numbers else {}
            places = placed(drafts, last, now)
            plan = plan_of(user_id, drafts, embedded.vectors, held, over, places, now)
            new = [(memory, slots[index]) for memory, index in plan.new.values()]
            await self.memories.insert(connection, tenant_id, new)
            for each in (embedded, *also):
                items = [(user_id, memory_id) for memory_id in plan.new]
                role = "serving" if each is embedded else None
                of_new = each.vectors[[index for _, index in plan.new.values()]]
                await self.vectors.write(connection, tenant_id, each.space, "memory", items, of_new, role)
            if locked.memories <= self.graphs.limit < locked.memories + len(new):
                await self.graphs.want(connection, tenant_id, user_id)
            await self._change(connection, tenant_id, plan, live, now)
            added = Added(tuple(plan.ids), plan.deduplicated, tuple(plan.replaced))
            if within is not None:
                await within(connection, added)
        for memory_id, resolution in plan.decisions:
            if resolution.action in {"supersede", "outdated", "overruled"}:
                log.info(
                    "memory_conflict_resolved",
                    memory_id=str(memory_id),
                    action=resolution.action,
                    reason=resolution.reason,
                    others=[str(target) for target in resolution.targets],
                )
        log.info("memories_added", added=len(plan.new), deduplicated=plan.deduplicated)
        await self.trials.keep_up(tenant_id, user_id)
        return added

    async def _embedded(self, tenant_id: str, contents: Sequence[str]) -> tuple[Embedded, ...]:
        """Vectors in the serving space, then in the others that are to have what is written, as far as they can be
        had."""
        embedded, also = await asyncio.gather(
            self.spaces.embed(tenant_id, contents), self.spaces.embed_also(tenant_id, contents)
        )
        return (embedded, *also)

    async def _over_near(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        drafts: Sequence[Draft],
        embedded: Embedded,
        held: Sequence[Sequence[Neighbour]],
        now: datetime,
    ) -> Mapping[int, Sequence[Neighbour]]:
        """For each draft (by index) that tells of the past, the nearest memories that are over. `now` is the past where
        another writer was quicker."""
        of_the_past = [
            index
            for index, draft in enumerate(drafts)
            if draft.type in STATES
            and (
                (draft.valid_from is not None and draft.valid_from < now)
                or any(each.memory.valid_from > (draft.valid_from or now) for each in held[index])
            )
        ]
        if not of_the_past:
            return {}
        near = await self.memories.neighbours(
            statements,
            tenant_id,
            user_id,
            types=[drafts[index].type.value for index in of_the_past],
            embedded=embedded[of_the_past],
            at=now,
            is_over=True,
        )
        return dict(zip(of_the_past, near, strict=True))

    async def _change(
        self, connection: AsyncConnection, tenant_id: str, plan: Plan, live: Sequence[StoredSpace], now: datetime
    ) -> None:
        """Write what changes of held memories. Of one that holds from another moment on, a version keeps what was
        believed until now, and the part before it was interrupted becomes a memory of its own."""
        copies: list[tuple[UUID, dict[str, Any]]] = []
        for memory_id, (before, memory) in plan.held.items():
            if memory.valid_from != before.valid_from:
                version_id = uuid4()
                await self.memories.copy_as_version(
                    connection, tenant_id, memory_id, version_id, before.valid_from, now
                )
                copies.append((memory_id, {"memory_id": version_id}))
        for part, whole in plan.parts.values():
            values = {**merge_values(part), **end_values(part, now), "memory_id": part.memory_id, **begun(now)}
            await self.memories.copy(connection, tenant_id, whole, values)
            copies.append((whole, values))
        for memory_id, values in copies:
            for space in live:
                await self.vectors.copy(connection, tenant_id, space, memory_id, values["memory_id"])
        for memory_id, (before, memory) in plan.held.items():
            values = {**merge_values(memory), **end_values(memory, now)}
            is_moved = memory.valid_from != before.valid_from
            values |= begun(now) if is_moved else {}
            await self.memories.update(connection, tenant_id, memory_id, values, None if is_moved else now)

    async def get(self, tenant_id: str, memory_id: UUID, owner: str | None = None) -> Memory:
        """One memory. Raises NotFound, also where there is an `owner` whose it is not."""
        async with self.database.begin(tenant_id) as connection:
            memory = _found(await self.memories.get(connection, tenant_id, memory_id))
        if owner not in {None, memory.user_id}:
            raise NotFound("no such memory")
        return memory

    async def page(
        self,
        tenant_id: str,
        user_id: str,
        *,
        kind: MemoryType | None = None,
        tag: str | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int = 100,
    ) -> list[Memory]:
        """Up to `limit` memories that hold now, newest first by when they became true; those behind `after`, the
        `valid_from` and id of the last one that was seen. Raises NotFound for an unknown user."""
        where = SearchFilter(self.clock.now(), [kind] if kind else None, [tag] if tag else None)
        async with self.database.begin(tenant_id) as connection:
            found = await self.memories.page(connection, tenant_id, user_id, where=where, after=after, limit=limit)
            if not found and not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")
        return found

    async def history(self, tenant_id: str, memory_id: UUID) -> list[Memory]:
        """The earlier versions of a memory and what it superseded, oldest first, then itself."""
        async with self.database.begin(tenant_id) as connection:
            memory = _found(await self.memories.get(connection, tenant_id, memory_id))
            earlier = await self.memories.history(connection, tenant_id, memory.user_id, memory_id)
        return [*earlier, memory]

    @follows_switch
    async def update(self, tenant_id: str, memory_id: UUID, changes: Mapping[str, Any]) -> Memory:
        """Change fields of a memory; what it said before stays readable as an earlier version."""
        now = self.clock.now()
        values = dict(changes)
        embedded: Sequence[Embedded] = ()
        if "content" in values:
            embedded = await self._embedded(tenant_id, [values["content"]])
            values["slots"] = (await self.catalogues.slots_in(tenant_id, [values["content"]]))[0]
        async with self.database.begin(tenant_id) as connection:
            owner = _found(await self.memories.get(connection, tenant_id, memory_id)).user_id
            await self.users.lock(connection, tenant_id, owner)
            live = await self.spaces.hold(connection, tenant_id, embedded[0].space if embedded else None)
            memory = _found(await self.memories.get(connection, tenant_id, memory_id, lock=True))
            if memory.version_of is not None or memory.superseded_by is not None:
                raise InvalidInput("this is an earlier version or a superseded memory: change the current one")
            until = memory.valid_from
            if {"content", "type"} & set(values):
                # The new wording holds from now or as told; the old one held until then.
                values.setdefault("valid_from", max(now, memory.valid_from + timedelta(microseconds=1)))
                until = earlier(memory.valid_to, max(until, values["valid_from"]))
            if values:
                version_id = uuid4()
                await self.memories.copy_as_version(connection, tenant_id, memory_id, version_id, until, now)
                for space in live:
                    await self.vectors.copy(connection, tenant_id, space, memory_id, version_id)
            check_period(values.get("valid_from", memory.valid_from), values.get("valid_to", memory.valid_to))
            if values:
                values |= begun(now)
            if "content" in values:
                values |= {"told_at": [], "is_set_right": True}
            await self.memories.update(connection, tenant_id, memory_id, {**values, "updated_at": now})
            if embedded:
                await self._revector(connection, tenant_id, owner, memory_id, live, embedded)
            changed = _found(await self.memories.get(connection, tenant_id, memory_id))
        log.info("memory_updated", memory_id=str(memory_id), fields=sorted(changes))
        await self.trials.keep_up(tenant_id, owner)
        return changed

    async def _revector(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        memory_id: UUID,
        live: Sequence[StoredSpace],
        embedded: Sequence[Embedded],
    ) -> None:
        """Give a memory that says something else its new vectors; where one is not at hand, the old one goes."""
        for space in live:
            await self.vectors.forget(connection, tenant_id, space, memory_id)
        for index, each in enumerate(embedded):
            role = None if index else "serving"
            item = [(user_id, memory_id)]
            await self.vectors.write(connection, tenant_id, each.space, "memory", item, each.vectors, role)

    async def delete_one(self, tenant_id: str, memory_id: UUID) -> int:
        """Delete a memory and its old versions; how many rows went. Raises NotFound."""
        async with self.database.begin(tenant_id) as connection:
            owner = _found(await self.memories.get(connection, tenant_id, memory_id)).user_id
            await self.users.lock(connection, tenant_id, owner)
            deleted = await self.memories.delete_one(connection, tenant_id, owner, memory_id)
        if deleted == 0:
            raise NotFound("no such memory")
        log.info("memories_deleted", deleted=deleted)
        return deleted

    async def delete(self, tenant_id: str, user_id: str, kind: MemoryType | None = None) -> int:
        """Delete a user's memories, of one type or all; how many rows went. Raises NotFound for no such user."""
        async with self.database.begin(tenant_id) as connection:
            if await self.users.lock(connection, tenant_id, user_id) is None:
                raise NotFound("no such user")
            deleted = await self.memories.delete(connection, tenant_id, user_id, kind=kind)
        log.info("memories_deleted", deleted=deleted)
        return deleted


def check_period(valid_from: datetime, valid_to: datetime | None) -> None:
    """Raise InvalidInput unless the period has a length."""
    if valid_to is not None and valid_to <= valid_from:
        raise InvalidInput("valid_to has to be later than valid_from", "valid_to")


def _found(memory: Memory | None) -> Memory:
    if memory is None:
        raise NotFound("no such memory")
    return memory


def merge_values(memory: Memory) -> dict[str, Any]:
    """What is written of a memory that was told again."""
    return {
        "confidence": memory.confidence,
        "proof_count": memory.proof_count,
        **later_evidence(memory),
        "tags": list(memory.tags),
        "expires_at": memory.expires_at,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "is_set_right": memory.is_set_right,
        "told_at": list(memory.told_at),
        "updated_at": memory.updated_at,
    }


def end_values(memory: Memory, now: datetime) -> dict[str, Any]:
    """What is written of a memory that was replaced."""
    return {"superseded_by": memory.superseded_by, "valid_to": memory.valid_to, "updated_at": now}


def begun(now: datetime) -> dict[str, Any]:
    """What is written of a memory that is known as it is from a moment on."""
    return {"known_from": now, "ended_at": [], "told_to": []}
