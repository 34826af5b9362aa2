"""Looking at a new embedding space before it serves: is it whole, does search find what it should, has it drifted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.domain.embeddings import Vector, Vectors
from app.domain.spaces import StoredSpace
from app.services.spaces import Spaces
from app.store.engine import Database
from app.store.space_fills import FillStore
from app.store.spaces import SpaceStore

TEN = 10

ROUNDED = 1e-4
"""By how much half precision may move a cosine."""

SAME_COSINE = 0.999
"""A text that is embedded again has its vector within this, whatever is rounded on the way. Below it the model behind
the endpoint is another one by now, or its vectors depend on what else is in a batch: either way they do not belong to
one space."""


@dataclass(frozen=True)
class Drift:
    """Memories that were embedded again: how many, how many of them got another vector than is stored, and the lowest
    cosine of both."""

    sampled: int
    changed: int
    lowest_cosine: float


@dataclass(frozen=True)
class Found:
    """What sampled queries find in a space: recall@10 of its search against comparing with every vector, and the mean
    cosine of a query and its ten; None where there is no query to try."""

    recall: float | None
    cosine: float | None


@dataclass(frozen=True)
class Verified:
    """A new space beside the one that serves. `missing`: items without a vector in it, of a filled one those that are
    not noted either: what is written at this moment may be. `overlap`: how many of the ten
    that the serving space finds the new one finds too, the share that users will go on seeing."""

    missing: int
    queries: int
    new: Found
    serving: Found
    overlap: float | None
    new_drift: Drift
    serving_drift: Drift

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against a switch."""
        return not self.missing and not self.new_drift.changed


class SpaceCheck:
    """Compares a tenant's new space with the one that serves."""

    def __init__(self, database: Database, spaces: Spaces, store: SpaceStore, fills: FillStore) -> None:
        self._database = database
        self._spaces = spaces
        self._store = store
        self._fills = fills

    async def verify(
        self, tenant_id: str, space: StoredSpace, serving: StoredSpace, queries: int, *, is_filled: bool
    ) -> Verified:
        """With the tenant's latest inputs as queries, and as many memories by chance. Raises ModelUnavailable."""
        async with self._database.begin(tenant_id) as connection:
            missing = await self._fills.missing(connection, tenant_id, space, but_noted=is_filled)
            sample = await self._fills.sample(connection, tenant_id, queries)
        drifts = [await self._drift(tenant_id, each, queries) for each in (space, serving)]
        (new, ours), (old, theirs) = [await self._find(tenant_id, each, sample) for each in (space, serving)]
        overlaps = [_share(one, other) for one, other in zip(ours, theirs, strict=True)]
        return Verified(missing, len(sample), new, old, _mean(overlaps), *drifts)

    async def _find(
        self, tenant_id: str, space: StoredSpace, sample: list[tuple[str, str]]
    ) -> tuple[Found, list[list[Any]]]:
        """How good its searches are, and what each of them finds."""
        if not sample:
            return Found(None, None), []
        embedded = await self._spaces.embed_in(space, [text for _, text in sample])
        recalls: list[float] = []
        cosines: list[float] = []
        found: list[list[Any]] = []
        for (user_id, _), vector in zip(sample, embedded.vectors, strict=True):
            async with self._database.begin(tenant_id) as connection:
                searched = await self._store.nearest(connection, tenant_id, space, user_id, vector, TEN)
                items, vectors = await self._store.vectors_of(connection, tenant_id, space, user_id)
            of_all = _cosines(vectors, vector).tolist()
            nearest = sorted(of_all, reverse=True)[:TEN]
            recalls.append(_recall(searched, dict(zip(items, of_all, strict=True)), nearest))
            cosines += nearest
            found.append(searched)
        return Found(_mean(recalls), _mean(cosines)), found

    async def _drift(self, tenant_id: str, space: StoredSpace, count: int) -> Drift:
        async with self._database.begin(tenant_id) as connection:
            texts, held = await self._fills.sample_filled(connection, tenant_id, space, count)
        if not texts:
            return Drift(0, 0, 1.0)
        again = (await self._spaces.embed_in(space, texts)).vectors
        cosines = [float(_cosines(one[None], other)[0]) for one, other in zip(again, held, strict=True)]
        return Drift(len(texts), sum(cosine < SAME_COSINE for cosine in cosines), min(cosines))


def _cosines(vectors: Vectors, vector: Vector) -> Vector:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    return np.asarray(vectors @ vector / np.where(norms == 0, 1, norms), np.float32)


def _share(found: list[Any], wanted: list[Any]) -> float:
    return len(set(found) & set(wanted)) / len(wanted) if wanted else 1.0


def _recall(found: list[Any], cosines: Mapping[Any, float], nearest: list[float]) -> float:
    """The share of the nearest that were found; one as near as the last of them, but for what storage rounds away,
    stands for it."""
    if not nearest:
        return 1.0
    return min(1.0, sum(cosines[item] >= nearest[-1] - ROUNDED for item in found if item in cosines) / len(nearest))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
