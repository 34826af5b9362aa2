"""What remembering a batch of drafts does to what is known: decided draft by draft, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from uuid import UUID, uuid4

import numpy as np

from app.domain.embeddings import Vector, Vectors
from app.domain.memory import (
    STATES,
    Draft,
    Memory,
    Neighbour,
    Resolution,
    next_of,
    parted,
    replaced_by,
    resolve,
    told_again,
)
from app.domain.places import Place
from app.domain.statements import RELATED_COSINE, Statement
from app.store.memories import NEIGHBOURS


@dataclass
class Plan:
    """What a batch will write, as the drafts so far have left it."""

    ids: list[UUID] = field(default_factory=list[UUID])
    """Of each draft the memory that holds it."""
    new: dict[UUID, tuple[Memory, int]] = field(default_factory=dict[UUID, tuple[Memory, int]])
    """Each with the index of the draft whose words it has."""
    held: dict[UUID, tuple[Memory, Memory]] = field(default_factory=dict[UUID, tuple[Memory, Memory]])
    """What was held and changes: before, and now."""
    parts: dict[UUID, tuple[Memory, UUID]] = field(default_factory=dict[UUID, tuple[Memory, UUID]])
    """The parts of held memories before they were interrupted, each with the memory that goes on."""
    replaced: dict[UUID, None] = field(default_factory=dict[UUID, None])
    """Those that another one replaces, in order."""
    deduplicated: int = 0
    decisions: list[tuple[UUID, Resolution]] = field(default_factory=list[tuple[UUID, Resolution]])
    of_draft: dict[int, list[UUID]] = field(default_factory=dict[int, list[UUID]])
    """The new memories that have a draft's words."""
    ended: set[int] = field(default_factory=set[int])
    """Drafts of which one has an end."""

    def add(self, memory: Memory, index: int) -> None:
        """A new memory, in the words of a draft."""
        self.new[memory.memory_id] = memory, index
        self.of_draft.setdefault(index, []).append(memory.memory_id)
        if memory.valid_to is not None:
            self.ended.add(index)

    def put(self, memory: Memory, before: Memory) -> None:
        """What a memory is now, and was until now."""
        memory_id = memory.memory_id
        if memory_id in self.new:
            self.new[memory_id] = memory, self.new[memory_id][1]
            if memory.valid_to is not None:
                self.ended.add(self.new[memory_id][1])
        elif memory_id in self.parts:
            self.parts[memory_id] = memory, self.parts[memory_id][1]
        else:
            self.held[memory_id] = self.held.get(memory_id, (before,))[0], memory

    def as_left(self, memory: Memory) -> list[Memory]:
        """A memory that was held, with the parts before it was interrupted."""
        now = self.held.get(memory.memory_id, (memory, memory))[1]
        return [now, *(part for part, whole in self.parts.values() if whole == memory.memory_id)]


def plan_of(
    user_id: str,
    drafts: Sequence[Draft],
    vectors: Vectors,
    held: Sequence[Sequence[Neighbour]],
    over: Mapping[int, Sequence[Neighbour]],
    places: Sequence[Place | None],
    now: datetime,
) -> Plan:
    """Decide about each draft in order, each seeing what the ones before it did. `held`: the live memories near each;
    `over`: of some drafts, by index, those near that are over."""
    plan = Plan()
    parse = cache(Statement)
    within = vectors @ vectors.T if len(drafts) > 1 else np.zeros((1, 1), dtype=np.float32)
    for index, draft in enumerate(drafts):
        valid_from = draft.valid_from or now
        known = [
            Neighbour(memory, each.cosine)
            for each in (*held[index], *over.get(index, ()))
            for memory in plan.as_left(each.memory)
        ]
        near = _near(plan, drafts, within[index], index, known, now)
        resolution = resolve(draft, valid_from, near, parse)
        rivals = resolution.rivals
        if resolution.action == "merge":
            target = next(each.memory for each in near if each.memory.memory_id == resolution.targets[0])
            _merge(plan, draft, target, rivals, now)
            plan.ids.append(target.memory_id)
            plan.deduplicated += 1
            continue
        if resolution.action == "overruled":
            plan.ids += resolution.targets
            plan.deduplicated += 1
            plan.decisions.append((resolution.targets[0], resolution))
            continue
        memory = _memory_of(user_id, draft, valid_from, places[index], now)
        plan.add(memory, index)
        plan.put(_until_next(memory, valid_from, rivals), memory)
        _interrupt(plan, rivals, valid_from, memory)
        plan.ids.append(memory.memory_id)
        plan.decisions.append((memory.memory_id, resolution))
    return plan


def _merge(plan: Plan, draft: Draft, target: Memory, rivals: Sequence[Memory], now: datetime) -> None:
    """Have a memory told again. From an earlier moment on it replaces what was taken to hold then."""
    at = draft.valid_from or now
    merged = told_again(target, draft, now, also_at=draft.also_at)
    if merged.valid_to != target.valid_to:
        merged = _until_next(merged, at, rivals)
    plan.put(merged, target)
    if merged.valid_from < target.valid_from:
        _interrupt(plan, rivals, at, merged)


def _until_next(memory: Memory, at: datetime, rivals: Sequence[Memory]) -> Memory:
    """A memory, true until the first moment after one at which a rival begins to hold or was told again."""
    after = next_of(rivals, at)
    return memory if after is None else replaced_by(memory, after[1], after[0])


def _interrupt(plan: Plan, rivals: Sequence[Memory], at: datetime, by: Memory) -> None:
    """End the rivals that hold at a moment there; what was told again of a later one goes on from that."""
    for rival in rivals:
        if not rival.holds_at(at):
            continue
        cut = parted(rival, at, by, uuid4())
        if cut is None:
            plan.put(replaced_by(rival, by, at), rival)
            plan.replaced[rival.memory_id] = None
            continue
        rest, before = cut
        plan.put(rest, rival)
        if rival.memory_id in plan.new:
            plan.add(before, plan.new[rival.memory_id][1])
        else:
            whole = plan.parts[rival.memory_id][1] if rival.memory_id in plan.parts else rival.memory_id
            plan.parts[before.memory_id] = before, whole


def _near(
    plan: Plan, drafts: Sequence[Draft], cosines: Vector, index: int, known: Sequence[Neighbour], now: datetime
) -> list[Neighbour]:
    """What a draft is compared with, nearest first: the nearest that are live, of what was held and of what the batch
    has made of earlier drafts; for a state also what is over."""
    earlier = np.flatnonzero(cosines[:index] >= RELATED_COSINE)
    live = [each for each in known if _is_live(each.memory, now)]
    found = len(live)
    for at in earlier[np.argsort(-cosines[earlier], kind="stable")]:
        live += [each for each in _of_draft(plan, drafts, cosines, index, int(at)) if _is_live(each.memory, now)]
        if len(live) - found >= NEIGHBOURS:
            break
    near = sorted(live, key=lambda each: -each.cosine)[:NEIGHBOURS]
    if drafts[index].type in STATES:
        in_batch = [
            each
            for at in sorted(plan.ended & set(earlier.tolist()))
            for each in _of_draft(plan, drafts, cosines, index, at)
        ]
        near += [each for each in (*known, *in_batch) if _is_over(each.memory, now)]
    return sorted(near, key=lambda each: -each.cosine)


def _of_draft(plan: Plan, drafts: Sequence[Draft], cosines: Vector, index: int, at: int) -> list[Neighbour]:
    """What the batch has made of an earlier draft, where it is of the same type."""
    if drafts[at].type is not drafts[index].type:
        return []
    return [Neighbour(plan.new[each][0], float(cosines[at])) for each in plan.of_draft.get(at, ())]


def _is_live(memory: Memory, now: datetime) -> bool:
    """Whether a memory is not replaced and not over."""
    return (
        memory.superseded_by is None
        and (memory.valid_to is None or memory.valid_to > now)
        and not _is_gone(memory, now)
    )


def _is_over(memory: Memory, now: datetime) -> bool:
    """Whether a memory was true and is not any more, by what is known."""
    return not _is_live(memory, now) and not _is_gone(memory, now)


def _is_gone(memory: Memory, now: datetime) -> bool:
    return memory.expires_at is not None and memory.expires_at <= now


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
        is_set_right=draft.replaces is not None,
        told_at=tuple(sorted(at for at in set(draft.also_at) if at > valid_from)),
    )
