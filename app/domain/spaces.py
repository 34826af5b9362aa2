"""Embedding spaces as they are stored: which tables hold their vectors, and what a tenant uses them for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.domain.embeddings import EmbeddingSpace, Vector, Vectors, cosine

Storage = Literal["vector", "halfvec"]
"""pgvector's types: float32, or float16 in half the bytes."""

Role = Literal["serving", "filling", "filled", "kept", "trial", "dropped"]
"""What a tenant uses a space for: it is searched; it gets vectors of what is there; it has them all, and may be
switched to; it was switched from, and may be switched back to; it is on trial for a share of the users; it is used for
nothing any more, and its vectors are being deleted."""

PROBE = "On 14 March the old ferry was late, and nobody on the quay could say why."
"""What every space keeps the vector of, to be recognised by. It never changes: stored vectors are of these words."""

SAME_MODEL = 0.99
"""The least cosine of two vectors of PROBE by one model: what rounding, other hardware and the company in a batch do to
a vector stays above it, another model far below."""

EXACT_LIMIT = 2_000
"""Memories of a user up to which a search compares its query with each of them. Above it the nearest are found in a
graph of the user's own, which is quicker from there on (docs/search.md)."""

GRAPHS = 8
"""Graphs in each partition of a space's tables, one for each large user. Eight empty ones add 0.03 ms to writing a
vector; who finds all taken goes on being searched exactly."""

_INLINE_BYTES = 7_000
"""What a vector may take of a page of 8 kB, beside its key with a user id of 256 characters of 4 bytes."""

_GRAPH_DIMENSIONS: Mapping[Storage, int] = {"halfvec": 4_000, "vector": 2_000}
"""pgvector's limits of an HNSW index."""

_BYTES: Mapping[Storage, int] = {"halfvec": 2, "vector": 4}

WRITTEN: frozenset[Role] = frozenset({"serving", "filled", "kept"})
"""Roles in which a space is to have the vector of whatever is written, at once."""


def storage_of(space: EmbeddingSpace) -> Storage:
    """float16 where it costs no recall: the components of vectors of length 1 are in its range, and what it rounds off
    moves a cosine by less than 0.0001 (measured: docs/decisions/0026-search-that-scales.md). Others stay float32."""
    return "halfvec" if space.is_normalised else "vector"


def is_inline(dimension: int, storage: Storage) -> bool:
    """Whether a vector fits into its row's page (halfvec up to 3,500 dimensions, vector up to 1,750). Outside of it,
    where PostgreSQL puts values above 2 kB by itself, reading one takes several times as long."""
    return dimension * _BYTES[storage] <= _INLINE_BYTES


def has_graphs(dimension: int, storage: Storage) -> bool:
    """Whether vectors of this kind can be searched by graph."""
    return dimension <= _GRAPH_DIMENSIONS[storage]


@dataclass(frozen=True)
class StoredSpace:
    """A space with tables of its own, which its `number` names. `endpoint`: what embeds in it, None for the service's
    own embedder."""

    number: int
    space: EmbeddingSpace
    storage: Storage
    endpoint: str | None = None

    @property
    def id(self) -> str:
        """The space's name."""
        return self.space.id

    @property
    def memory_table(self) -> str:
        """The vectors of memories."""
        return f"memory_vectors_{self.number}"

    @property
    def input_table(self) -> str:
        """The vectors of what users asked."""
        return f"input_vectors_{self.number}"

    @property
    def column_type(self) -> str:
        """The type of a stored vector."""
        return f"{self.storage}({self.space.dimension})"

    @property
    def has_graphs(self) -> bool:
        """Whether large users are searched by graph in it."""
        return has_graphs(self.space.dimension, self.storage)


@dataclass(frozen=True)
class Fingerprint:
    """What a space is recognised by: the name that its model gave its own space when it was first used, and the vector
    of PROBE."""

    told: str
    vector: Vector


def is_told_by(space: EmbeddingSpace, told: EmbeddingSpace) -> bool:
    """Whether vectors of a model that calls its own space `told` can be in this space, by what does not depend on what
    a person says of it."""
    return (space.model, space.dimension, space.is_normalised) == (told.model, told.dimension, told.is_normalised)


def likeness(held: Fingerprint, found: Fingerprint) -> float | None:
    """The cosine of two fingerprints; None where their models do not even have the same name."""
    return cosine(held.vector, found.vector) if held.told == found.told else None


@dataclass(frozen=True)
class TenantSpaces:
    """The spaces that a tenant has, each in one role. One that is dropped is none of them."""

    serving: StoredSpace
    others: tuple[tuple[StoredSpace, Role], ...] = ()

    @property
    def every(self) -> tuple[StoredSpace, ...]:
        """All of them, the serving one first."""
        return (self.serving, *(space for space, _ in self.others))

    def of_role(self, *roles: Role) -> tuple[StoredSpace, ...]:
        """The spaces in any of these roles, the serving one first."""
        own = (self.serving,) if "serving" in roles else ()
        return own + tuple(space for space, role in self.others if role in roles)

    def role_of(self, space: StoredSpace) -> Role | None:
        """What a space is used for; None for nothing."""
        if space.number == self.serving.number:
            return "serving"
        return next((role for each, role in self.others if each.number == space.number), None)


@dataclass(frozen=True)
class Embedded:
    """Vectors of shape (texts, dimension) and the space they are of."""

    space: StoredSpace
    vectors: Vectors

    def __getitem__(self, some: Sequence[int]) -> "Embedded":
        """The vectors of some of the texts."""
        return Embedded(self.space, self.vectors[list(some)])
