"""Memories: add, get, update, delete; one decision per draft about what it does to what is known."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector, Vectors
from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import STATES, Draft, Memory, MemoryType, Neighbour, Resolution, earlier, replaced_by, told_again
from app.domain.memory import resolve as resolve_draft
from app.domain.places import Place, placed, unnumbered
from app.domain.spaces import Embedded, StoredSpace
from app.domain.statements import RELATED_COSINE, Statement, contradiction
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.services.jobs.graphs import GraphService
from app.services.spaces import Spaces, follows_switch
from app.services.trial_spaces import TrialSpaces
from app.store.engine import Database, Statements
from app.store.memories import NEIGHBOURS, MemoryStore, SearchFilter, later_evidence
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


@dataclass
class _Plan:
    """What a batch will write: new memories by id, and held ones as they are after a merge or a replacement."""

    ids: list[UUID] = field(default_factory=list[UUID])
    new: dict[UUID, tuple[Memory, int]] = field(default_factory=dict[UUID, tuple[Memory, int]])
    """Each with its draft's index."""
    merged: dict[UUID, Memory] = field(default_factory=dict[UUID, Memory])
    replaced: dict[UUID, Memory] = field(default_factory=dict[UUID, Memory])
    deduplicated: int = 0


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
        now = self.clock.now()
        for draft in drafts:
            check_period(draft.valid_from or now, draft.valid_to)
        contents = [draft.content for draft in drafts]
        embedded, *also = await self._embedded(tenant_id, contents)
        slots = await self.catalogues.slots_in(tenant_id, contents)
        async with self.database.begin(tenant_id) as connection:
            locked = await self.users.ensure_locked(connection, tenant_id, user_id, now, known_since=known_since)
            await self.spaces.hold(connection, tenant_id, embedded.space)
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
            replaced = await self._replaced_near(statements, tenant_id, user_id, drafts, embedded, now)
            numbers = unnumbered(drafts, now)
            last = await self.memories.last_turns(statements, tenant_id, user_id, list(numbers)) if numbers else {}
            places = placed(drafts, last, now)
            plan, decisions = _plan(user_id, drafts, embedded.vectors, held, replaced, places, now)
            new = [(memory, slots[index]) for memory, index in plan.new.values()]
            await self.memories.insert(connection, tenant_id, new)
            for each in (embedded, *also):
                items = [(user_id, memory_id) for memory_id in plan.new]
                role = "serving" if each is embedded else None
                of_new = each.vectors[[index for _, index in plan.new.values()]]
                await self.vectors.write(connection, tenant_id, each.space, "memory", items, of_new, role)
            if locked.memories <= self.graphs.limit < locked.memories + len(new):
                await self.graphs.want(connection, tenant_id, user_id)
            for memory in plan.merged.values():
                await self.memories.update(connection, tenant_id, memory.memory_id, merge_values(memory), now)
            for memory in plan.replaced.values():
                if memory.memory_id not in plan.new:
                    await self.memories.update(connection, tenant_id, memory.memory_id, end_values(memory, now), now)
            added = Added(tuple(plan.ids), plan.deduplicated, tuple(plan.replaced))
            if within is not None:
                await within(connection, added)
        for memory_id, resolution in decisions:
            if resolution.action in {"supersede", "outdated"}:
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

    async def _replaced_near(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        drafts: Sequence[Draft],
        embedded: Embedded,
        now: datetime,
    ) -> Mapping[int, Sequence[Neighbour]]:
        """For each draft (by index) that tells of the past, the nearest memories that were replaced since."""
        of_the_past = [
            index
            for index, draft in enumerate(drafts)
            if draft.type in STATES and draft.valid_from is not None and draft.valid_from < now
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
            is_replaced=True,
        )
        return dict(zip(of_the_past, near, strict=True))

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
            begun: dict[str, Any] = {"known_from": now, "ended_at": [], "told_to": []} if values else {}
            await self.memories.update(connection, tenant_id, memory_id, {**values, **begun, "updated_at": now})
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
        "valid_to": memory.valid_to,
        "updated_at": memory.updated_at,
    }


def end_values(memory: Memory, now: datetime) -> dict[str, Any]:
    """What is written of a memory that was replaced."""
    return {"superseded_by": memory.superseded_by, "valid_to": memory.valid_to, "updated_at": now}


def _plan(
    user_id: str,
    drafts: Sequence[Draft],
    vectors: Vectors,
    held: Sequence[Sequence[Neighbour]],
    replaced: Mapping[int, Sequence[Neighbour]],
    places: Sequence[Place | None],
    now: datetime,
) -> tuple[_Plan, list[tuple[UUID, Resolution]]]:
    """Decide about each draft in order, each seeing what the ones before it did."""
    plan = _Plan()
    parse = cache(Statement)
    decisions: list[tuple[UUID, Resolution]] = []
    within = vectors @ vectors.T if len(drafts) > 1 else np.zeros((1, 1), dtype=np.float32)
    owners: list[UUID | None] = []
    for index, draft in enumerate(drafts):
        valid_from = draft.valid_from or now
        near = _near_in_batch(plan, drafts, owners, within[index], index, lambda memory: _is_live(memory, now))
        neighbours = sorted((*_current(plan, held[index]), *near), key=lambda item: -item.cosine)[:NEIGHBOURS]
        resolution = resolve_draft(draft, valid_from, neighbours, parse)
        if resolution.action == "merge":
            target = resolution.targets[0]
            _merge(plan, next(n.memory for n in neighbours if n.memory.memory_id == target), draft, now)
            plan.ids.append(target)
            plan.deduplicated += 1
            owners.append(None)
            continue
        memory = _memory_of(user_id, draft, valid_from, places[index], now)
        if resolution.action == "outdated":
            near = _near_in_batch(plan, drafts, owners, within[index], index, lambda memory: not _is_live(memory, now))
            ended = [*_ended(plan, held[index]), *_ended(plan, replaced.get(index, ())), *near]
            memory = _place_in_past(plan, memory, [*neighbours, *ended], parse)
        for item in neighbours if resolution.action == "supersede" else ():
            if item.memory.memory_id in resolution.targets:
                _end(plan, item.memory, memory)
        plan.new[memory.memory_id] = (memory, index)
        plan.ids.append(memory.memory_id)
        owners.append(memory.memory_id)
        decisions.append((memory.memory_id, resolution))
    return plan, decisions


def _place_in_past(plan: _Plan, memory: Memory, near: Sequence[Neighbour], parse: Callable[[str], Statement]) -> Memory:
    """`memory`, true until the next one that contradicts it began; the one it replaced ends where it begins."""
    said = parse(memory.content)
    rivals = [item.memory for item in near if contradiction(said, parse(item.memory.content), item.cosine) is not None]
    successor = min(
        (rival for rival in rivals if rival.valid_from > memory.valid_from), key=lambda rival: rival.valid_from
    )
    placed = replaced_by(memory, successor)
    for rival in rivals:
        if rival.superseded_by is not None and rival.is_valid_at(memory.valid_from):
            _end(plan, rival, placed)
    return placed


def _end(plan: _Plan, old: Memory, by: Memory) -> None:
    """Let `by` replace `old` from the moment it is true."""
    ended = replaced_by(old, by)
    plan.replaced[old.memory_id] = ended
    if old.memory_id in plan.new:
        plan.new[old.memory_id] = (ended, plan.new[old.memory_id][1])


def _is_live(memory: Memory, now: datetime) -> bool:
    """Whether a memory is not replaced and not over: what the store gives as a neighbour."""
    return (
        memory.superseded_by is None
        and (memory.valid_to is None or memory.valid_to > now)
        and (memory.expires_at is None or memory.expires_at > now)
    )


def _near_in_batch(
    plan: _Plan,
    drafts: Sequence[Draft],
    owners: Sequence[UUID | None],
    cosines: Vector,
    index: int,
    is_wanted: Callable[[Memory], bool],
) -> list[Neighbour]:
    """Earlier drafts of the batch that became memories of the same type and are near, nearest first."""
    near: list[Neighbour] = []
    earlier = np.flatnonzero(cosines[:index] >= RELATED_COSINE)
    for at in earlier[np.argsort(-cosines[earlier], kind="stable")]:
        owner = owners[int(at)]
        if owner is None or drafts[int(at)].type is not drafts[index].type:
            continue
        memory = plan.new[owner][0]
        if is_wanted(memory):
            near.append(Neighbour(memory, float(cosines[at])))
        if len(near) == NEIGHBOURS:
            break
    return near


def _current(plan: _Plan, held: Sequence[Neighbour]) -> list[Neighbour]:
    """Held neighbours as this batch has left them so far."""
    return [
        Neighbour(plan.merged.get(item.memory.memory_id, item.memory), item.cosine)
        for item in held
        if item.memory.memory_id not in plan.replaced
    ]


def _ended(plan: _Plan, held: Sequence[Neighbour]) -> list[Neighbour]:
    """Held neighbours that are replaced, by this batch or before it, as this batch has left them so far."""
    as_left = [Neighbour(plan.replaced.get(item.memory.memory_id, item.memory), item.cosine) for item in held]
    return [item for item in as_left if item.memory.superseded_by is not None]


def _merge(plan: _Plan, held: Memory, draft: Draft, now: datetime) -> None:
    merged = told_again(held, draft, now)
    if held.memory_id in plan.new:
        plan.new[held.memory_id] = (merged, plan.new[held.memory_id][1])
    else:
        plan.merged[held.memory_id] = merged


def _memory_of(user_id: str, draft: Draft, valid_from: datetime, place: Place | None, now: datetime) -> Memory:
    return Memory(
        memory_id=uuid4(),
        user_id=user_id,
        type=draft.type,
        content=draft.content,
        confidence=draft.confidence,
        tags=tuple(dict.fromkeys(draft.tags)),
        source=draft.source,
        created_at=now,
        updated_at=now,
        valid_from=valid_from,
        valid_to=draft.valid_to,
        expires_at=draft.expires_at,
        session=draft.session,
        turn=place.turn if place else draft.turn,
        speaker=draft.speaker,
        place=place.number if place else None,
        quote=draft.quote,
    )
