"""The exact search against what comparing everything in Python finds, on random users."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from app.domain.embeddings import EmbeddingSpace, Vector
from app.domain.memory import Memory, MemoryType
from app.domain.spaces import StoredSpace
from app.services.space_making import make_space
from app.store.engine import Database
from app.store.memories import MemoryStore, SearchFilter
from app.store.spaces import SpaceStore
from app.store.users import UserStore

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SPACE = EmbeddingSpace("random directions", "0", 24)
ARM = 5
USER = "u"
WORDS = [f"w{number}" for number in range(25)]
"""Each its own stem."""
TYPES = (MemoryType.PROFILE, MemoryType.GOAL, MemoryType.HISTORY)


@dataclass(frozen=True)
class Kept:
    """A memory, the slots it names a value for, and its vector as it is stored; None where it has none yet."""

    memory: Memory
    slots: Sequence[str]
    vector: Vector | None


def unit(dice: np.random.Generator) -> Vector:
    vector = dice.standard_normal(SPACE.dimension, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def made(random: Random, dice: np.random.Generator) -> Kept:
    """A memory of any kind: some are over, some not true yet, some lack their vector."""
    since = NOW + timedelta(days=random.choice((-300, -30, -1, 5)), seconds=random.randrange(9))
    until = since + timedelta(days=40) if random.random() < 0.3 else None
    expires = since + timedelta(days=20) if random.random() < 0.2 else None
    memory = Memory(
        UUID(int=random.getrandbits(128), version=4),
        USER,
        random.choice(TYPES),
        " ".join(random.choices(WORDS, k=random.randrange(1, 6))),
        0.5,
        tuple(random.sample(("a", "b"), random.randrange(3))),
        "test",
        since,
        since,
        since,
        until,
        expires,
    )
    slots = random.sample(("language", "deadline"), random.randrange(2))
    vector = unit(dice).astype(np.float16).astype(np.float32) if random.random() < 0.9 else None
    return Kept(memory, slots, vector)


def wanted(
    kept: Sequence[Kept], vector: Vector | None, words: Sequence[str], where: SearchFilter, slots: Sequence[str]
) -> dict[UUID, tuple[float, float]]:
    """Cosine and lexical score of what has to be found, by id."""
    mine = [
        one
        for one in kept
        if one.memory.valid_from <= where.at
        and (one.memory.valid_to is None or one.memory.valid_to > where.at)
        and (one.memory.expires_at is None or one.memory.expires_at > where.at)
        and (not where.types or one.memory.type in where.types)
        and set(where.tags or ()) <= set(one.memory.tags)
    ]
    said = {one.memory.memory_id: set(one.memory.content.split()) for one in mine}
    weights = {}
    for word in set(words):
        found = sum(word in each for each in said.values())
        weights[word] = math.log(1 + (len(mine) - found + 0.5) / (found + 0.5))
    scores: dict[UUID, tuple[float, float]] = {}
    for one in mine:
        cosine = 0.0
        if vector is not None and one.vector is not None:
            cosine = float(vector @ one.vector / np.linalg.norm(one.vector) / np.linalg.norm(vector))
        hit = sum(weights[word] for word in set(words) & said[one.memory.memory_id])
        scores[one.memory.memory_id] = (cosine, hit / sum(weights.values()) if weights else 0.0)
    near = [one for one in mine if vector is not None and one.vector is not None]
    near.sort(key=lambda one: (-scores[one.memory.memory_id][0], one.memory.memory_id))
    worded = [one for one in mine if scores[one.memory.memory_id][1] > 0]
    worded.sort(key=lambda one: (-round(scores[one.memory.memory_id][1], 9), one.memory.memory_id))
    slotted = [one for one in mine if set(slots) & set(one.slots) and one.memory.type is not MemoryType.HISTORY]
    slotted.sort(key=lambda one: (-one.memory.valid_from.timestamp(), one.memory.memory_id))
    return {one.memory.memory_id: scores[one.memory.memory_id] for arm in (near, worded, slotted) for one in arm[:ARM]}


@pytest.fixture(scope="module")
async def space(database: Database) -> StoredSpace:
    return await make_space(database, SpaceStore(), SPACE, None)


async def tell(database: Database, tenant: str, space: StoredSpace, kept: Sequence[Kept]) -> None:
    """Write memories as they are."""
    async with database.begin(tenant) as connection:
        await UserStore().ensure_locked(connection, tenant, USER, NOW)
        await SpaceStore().begin_to_serve(connection, tenant, space)
        await MemoryStore().insert(connection, tenant, [(one.memory, one.slots) for one in kept])
        with_vector = [one for one in kept if one.vector is not None]
        vectors = np.array([one.vector for one in with_vector])
        items = [(USER, one.memory.memory_id) for one in with_vector]
        await SpaceStore().write(connection, tenant, space, "memory", items, vectors)


def filters(random: Random) -> SearchFilter:
    types = random.sample(TYPES, random.randrange(1, 3)) if random.random() < 0.4 else None
    tags = [random.choice("ab")] if random.random() < 0.3 else None
    return SearchFilter(random.choice((NOW, NOW - timedelta(days=20))), types, tags)


@pytest.mark.parametrize("memories", [0, 1, 4, 30, 120])
async def test_it_finds_what_comparing_everything_finds(
    database: Database, tenant: str, space: StoredSpace, memories: int
) -> None:
    """The same memories with the same scores, whatever the filters; also of memories that have no vector yet, and of
    queries that have none."""
    random, dice = Random(memories), np.random.default_rng(memories)
    kept = [made(random, dice) for _ in range(memories)]
    await tell(database, tenant, space, kept)
    for _ in range(25):
        vector = None if random.random() < 0.2 else unit(dice).astype(np.float16).astype(np.float32)
        words = random.choices(WORDS, k=random.randrange(4))
        slots = random.sample(("language", "deadline"), random.randrange(3))
        where = filters(random)
        asked: dict[str, Any] = {"vector": vector, "space": space, "words": " ".join(words), "arm": ARM}
        async with database.transact(tenant) as statements:
            found = await MemoryStore().candidates(statements, tenant, USER, where=where, slots=slots, **asked)
        expected = wanted(kept, vector, words, where, slots)
        assert {one.memory.memory_id for one in found} == set(expected)
        assert len(found) == len(expected)
        for one in found:
            assert (one.cosine, one.lexical) == pytest.approx(expected[one.memory.memory_id], abs=2e-3)
