"""Consolidation: what a user's memories say twice becomes one, and what a newer one contradicts ends.

The same is decided when a memory is added. What was imported, embedded in another space by then, or written by two
processes at one moment was not compared with everything; this is done for it later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import numpy as np

from app.domain.embeddings import Vectors
from app.domain.memory import STATES, Draft, Memory, Neighbour, next_of, replaced_by, resolve, told_again
from app.domain.statements import RELATED_COSINE, Statement


@dataclass(frozen=True)
class Consolidated:
    """What changes: memories as they are after others were merged into them, which ones were (each into which), and
    those that end, as they are then."""

    merged: Sequence[Memory]
    repeats: Sequence[tuple[Memory, Memory]]
    ended: Sequence[Memory]

    @property
    def is_nothing(self) -> bool:
        """Whether nothing changes."""
        return not self.repeats and not self.ended


def consolidate(memories: Sequence[Memory], vectors: Vectors, now: datetime) -> Consolidated:
    """What to change about live memories of one user, with a vector (n, d) each: taken in the order in which they
    became true, each is compared with those before it, as if it were added now."""
    order = sorted(range(len(memories)), key=lambda at: (memories[at].valid_from, memories[at].memory_id.int))
    cosines = vectors @ vectors.T if len(memories) else np.zeros((0, 0))
    parse = cache(Statement)
    live: dict[int, Memory] = {}
    merged: dict[int, Memory] = {}
    repeats: list[tuple[Memory, Memory]] = []
    ended: list[Memory] = []
    for at in order:
        memory = memories[at]
        if memory.type not in STATES:
            continue
        near = [
            Neighbour(held, float(cosines[at, other]))
            for other, held in live.items()
            if held.type is memory.type and cosines[at, other] >= RELATED_COSINE
        ]
        near.sort(key=lambda each: -each.cosine)
        draft = _draft_of(memory)
        decision = resolve(draft, memory.valid_from, near, parse)
        place_of = {held.memory_id: other for other, held in live.items()}
        if decision.action == "merge":
            other = place_of[decision.targets[0]]
            live[other] = merged[other] = told_again(
                live[other], draft, now, memory.proof_count, memory.told_at, memory.evidence
            )
            repeats.append((memory, live[other]))
            continue
        if decision.action == "outdated":
            # Among what is live that is a memory that was told again since: it goes on.
            by = live[place_of[decision.targets[0]]]
            after = next_of([by], memory.valid_from)
            ended.append(replaced_by(memory, by, after[0] if after else None))
            continue
        for target in decision.targets if decision.action == "supersede" else ():
            other = place_of[target]
            old = live.pop(other)
            merged.pop(other, None)
            ended.append(replaced_by(old, memory))
        live[at] = memory
    return Consolidated(list(merged.values()), repeats, ended)


def _draft_of(memory: Memory) -> Draft:
    """A memory as it would arrive now."""
    return Draft(
        memory.type,
        memory.content,
        memory.confidence,
        memory.tags,
        memory.source,
        memory.valid_from,
        memory.valid_to,
        memory.expires_at,
        quote=memory.quote,
    )
