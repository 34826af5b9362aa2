"""Token vectors become one vector per text, as sentence-transformers' Pooling does it, in numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""Shape (texts, dimension), float32."""


def pool(hidden: NDArray[np.float32], lengths: NDArray[np.int64], modes: Sequence[str]) -> Vectors:
    """Shape (texts, len(modes) × width) from `hidden` of shape (texts, tokens, width), padded on the right; `lengths`
    are the texts' own tokens, one or more. Raises ValueError for an unknown mode."""
    return np.concatenate([_pool_one(hidden, lengths, mode) for mode in modes], axis=1).astype(np.float32)


def _pool_one(hidden: NDArray[np.float32], lengths: NDArray[np.int64], mode: str) -> Vectors:
    rows = np.arange(len(hidden))
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[rows, lengths - 1]
    places: NDArray[np.int64] = np.arange(hidden.shape[1], dtype=np.int64)
    is_own: NDArray[np.bool_] = places < lengths[:, np.newaxis]
    if mode == "max":
        return np.where(is_own[:, :, np.newaxis], hidden, np.float32(-np.inf)).max(axis=1)
    weights: Vectors = is_own.astype(np.float32)
    if mode == "weightedmean":
        weights = weights * (places + 1).astype(np.float32)
    elif mode not in {"mean", "mean_sqrt_len_tokens"}:
        raise ValueError(f"unknown pooling {mode!r}")
    total = np.matmul(weights[:, np.newaxis, :], hidden)[:, 0]
    divisor: Vectors = weights.sum(axis=1, keepdims=True)
    return total / (np.sqrt(divisor) if mode == "mean_sqrt_len_tokens" else divisor)


def normalised(vectors: Vectors) -> Vectors:
    """The vectors at unit length; one without a direction stays as it is."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
