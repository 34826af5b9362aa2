"""Embedding spaces: which vectors can be compared with which."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

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
