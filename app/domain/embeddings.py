"""Embedding spaces: which vectors can be compared with which."""

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import InvalidInput

Vectors = NDArray[np.float32]
"""Shape (texts, dimension), float32; unit length where the space is normalised."""

Vector = NDArray[np.float32]
"""Shape (dimension,), float32."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """A model, revision, dimension, pooling, normalisation and prefix under which vectors can be compared. `prefix` is
    put before each text by whoever embeds it."""

    model: str
    revision: str
    dimension: int
    pooling: str = "mean"
    is_normalised: bool = True
    prefix: str = ""

    @property
    def id(self) -> str:
        """A stable name stored beside every vector, e.g. `all-MiniLM-L6-v2@53aa5117:384:mean:l2`."""
        norm = "l2" if self.is_normalised else "raw"
        prefix = f":{sha256(self.prefix.encode()).hexdigest()[:8]}" if self.prefix else ""
        return f"{self.model}@{self.revision}:{self.dimension}:{self.pooling}:{norm}{prefix}"


LABEL = r"[^@:\s]{1,64}"
"""What a revision and a pooling may be: they are parts of a space's name."""


@dataclass(frozen=True)
class Labels:
    """What a person says of the model at an endpoint; None: as its answers have it. `prefix` is put before each text.
    Raises InvalidInput for what a space's name cannot hold."""

    revision: str | None = None
    pooling: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        for name, value in (("revision", self.revision), ("pooling", self.pooling)):
            if value is not None and not re.fullmatch(LABEL, value):
                raise InvalidInput(f"{name} is 1 to 64 characters without spaces, @ and :", name)

    def of(self, told: EmbeddingSpace) -> EmbeddingSpace:
        """The space of what is embedded so by a model that calls its own space `told`."""
        return replace(
            told,
            revision=self.revision or told.revision,
            pooling=self.pooling or told.pooling,
            prefix=self.prefix or told.prefix,
        )


AS_TOLD = Labels()
"""Nothing is said of it: the space is what the model's answers tell."""


def address_of(endpoint: str) -> str:
    """An endpoint as it may be shown and stored: no password, no query."""
    parts = urlsplit(endpoint)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def cosine(one: Vector, other: Vector) -> float:
    """Of two vectors of one dimension; 0 where one has no direction."""
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else 0.0
