"""Vectors as the database reads and sends them."""

import numpy as np
import orjson

from app.domain.embeddings import Vector


def vector_literal(vector: Vector) -> str:
    """A vector as the text the database reads: the shortest digits that give every float32 back."""
    return orjson.dumps(np.ascontiguousarray(vector, np.float32), option=orjson.OPT_SERIALIZE_NUMPY).decode()


def vector_from_bytes(data: bytes) -> Vector:
    """The inverse of the database's vector_send: a two-byte dimension, two spare bytes, big-endian floats."""
    return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)
