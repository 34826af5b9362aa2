"""What the stream shows: searches compared with brute force, writes looked for, latencies by phase."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy import text

from app.domain.embeddings import Vectors
from app.domain.spaces import StoredSpace
from app.services.keys import DEFAULT_TENANT
from app.store.engine import Database
from app.store.spaces import SpaceStore
from benchmarks.space_switch.stream import Request

TEN = 10
TIE = 1e-4
"""A memory whose cosine is this near to the tenth's counts as one of the ten."""
SAME = 2e-3
"""How near a stated cosine has to be to the one in the space that answered, which may keep 16 bits."""


@dataclass(frozen=True)
class Searched:
    """One search: when it was due, its recall@10 against brute force, and whether a result was scored in another space
    than the one that answered."""

    at: float
    recall: float
    is_mixed: bool
    is_degraded: bool


@dataclass(frozen=True)
class Brute:
    """All that searches could find: vectors in every space, by user, and since when memories are there."""

    items: Mapping[tuple[str, str], tuple[Sequence[str], Vectors]]
    """By (space, user)."""
    questions: Mapping[tuple[str, str], Vectors]
    """Unit vectors by (space, question)."""
    known: Mapping[str, tuple[float, float]]
    """When the writing of a memory began and was acknowledged; memories from before are not in it."""

    def judged(self, request: Request) -> Searched:
        """A search beside brute force over what was acknowledged before it, and what it found besides. The ten of the
        largest cosine are compared: a search puts back what is much like a better result, and brings more than ten."""
        answer = request.answer
        ids, vectors = self.items[answer["space"], request.user_id]
        cosines = dict(zip(ids, vectors @ self.questions[answer["space"], request.said], strict=True))
        found = {each["memory"]["id"]: each["parts"]["cosine"] for each in answer["results"]}
        there = [
            cosine
            for item, cosine in cosines.items()
            if item in found or self.known.get(item, (0, 0))[1] < request.due_at
        ]
        tenth = sorted(there, reverse=True)[:TEN][-1]
        best = sorted(found, key=lambda item: -found[item])[:TEN]
        hits = sum(cosines.get(item, -1) >= tenth - TIE for item in best)
        is_mixed = any(abs(cosines.get(item, -1) - stated) > SAME for item, stated in found.items())
        return Searched(request.due_at, hits / min(TEN, len(there)), is_mixed, answer["degraded"])


async def brute_force(
    database: Database,
    spaces: Sequence[StoredSpace],
    users: Sequence[str],
    questions: Mapping[tuple[str, str], Vectors],
    requests: Sequence[Request],
) -> Brute:
    """Everything that the users who were searched have now, in both spaces."""
    items: dict[tuple[str, str], tuple[Sequence[str], Vectors]] = {}
    for space in spaces:
        for user_id in users:
            async with database.begin(DEFAULT_TENANT) as connection:
                ids, vectors = await SpaceStore().vectors_of(connection, DEFAULT_TENANT, space, user_id)
            items[space.id, user_id] = (
                [str(each) for each in ids],
                vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            )
    known = {
        item: (each.due_at, each.ended_at)
        for each in requests
        if each.kind == "add" and each.status == 200
        for item in each.answer["ids"]
    }
    return Brute(items, questions, known)


async def lost_writes(database: Database, spaces: Sequence[StoredSpace], requests: Sequence[Request]) -> int:
    """How many acknowledged writes are not there with their words, or have no vector in one of the spaces. Inputs that
    were answered without the model (`degraded`) never had one in the space that served."""
    memories: dict[str, str] = {}
    sets: list[str] = []
    for each in sorted(requests, key=lambda request: request.ended_at):
        if each.status != 200 or each.answer is None:
            continue
        if each.kind == "add" and not each.answer["deduplicated"]:
            memories.setdefault(each.answer["ids"][0], each.said)
        elif each.kind == "change":
            memories[each.answer["id"]] = each.said
        elif each.kind == "hypothesize" and not each.answer["degraded"]:
            sets.append(each.answer["hypothesis_set_id"])
    lost: set[str] = set()
    async with database.begin(DEFAULT_TENANT) as connection:
        for space in spaces:
            rows = await connection.execute(
                text(
                    f"SELECT memory_id, content FROM memories JOIN {space.memory_table} "  # noqa: S608
                    "USING (tenant_id, user_id, memory_id) WHERE memory_id = ANY(CAST(:ids AS uuid[]))"
                ),
                {"ids": [UUID(each) for each in memories]},
            )
            held = {str(row[0]): row[1] for row in rows}
            lost |= {each for each, said in memories.items() if held.get(each) != said}
            rows = await connection.execute(
                text(f"SELECT set_id FROM {space.input_table} WHERE set_id = ANY(CAST(:ids AS uuid[]))"),  # noqa: S608
                {"ids": [UUID(each) for each in sets]},
            )
            lost |= set(sets) - {str(row[0]) for row in rows}
    return len(lost)


def per_second(searches: Sequence[Searched]) -> list[tuple[float, float]]:
    """(second, mean recall of the searches due in it)."""
    seconds: dict[int, list[float]] = defaultdict(list)
    for each in searches:
        seconds[int(each.at)].append(each.recall)
    return [(float(second), float(np.mean(recalls))) for second, recalls in sorted(seconds.items())]
