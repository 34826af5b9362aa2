"""Pairs that were seen before, exactly or nearly: MinHash signatures (datasketch) in tables of bounded size."""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.pairs import Pair

THRESHOLD = 0.8
"""Pairs are alike where each part, anchor, positive and negatives, has this estimated Jaccard similarity or more."""

_PERMUTATIONS = 64
"""Of each part: an estimate's standard deviation is 0.05 at 0.8."""

_BANDS, _ROWS = 8, 2
"""A pair is compared in full when one of 8 bands of 2 minima of each part agrees: 98.5 % of pairs whose anchor and
positive are alike to 0.8, 99.99 % at 0.9."""

_SHINGLE = 3
_PARTS = 3
_DIGEST = 8
_RECORD = _PARTS * _PERMUTATIONS + _DIGEST


class SeenPairs:
    """Says of each pair whether an earlier one was alike, and keeps it where none was.

    Similarity is over triples of words. Memory: 0.2 kB a kept pair, 16 to 32 bytes an expected one in each of 8 tables;
    in a table fuller than expected a later pair hides an earlier one, and less is found.
    """

    def __init__(self, expected: int) -> None:
        """For about `expected` pairs."""
        try:
            from datasketch import MinHash  # noqa: PLC0415  # 70 MB and half a second, for whoever prepares data
        except ImportError:
            raise FineTuningError("datasketch is not installed: run `make train-deps`.") from None

        self._empty: Any = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32")
        self._slots = 1 << max(10, (4 * expected - 1).bit_length())
        self._tables = np.zeros((_BANDS, self._slots), np.uint32)
        self._odd = np.random.default_rng(1).integers(0, 2**63, _PARTS * _ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
        self._bands = np.arange(_BANDS)
        self._records = bytearray()

    def look(self, pair: Pair) -> Literal["duplicate", "near_duplicate"] | None:
        """How an earlier pair is alike; None where this one is new, which is kept then."""
        parts = ([pair.anchor], [pair.positive], sorted(pair.negatives))
        minima = np.stack([self._minima(texts) for texts in parts])
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=_DIGEST).digest()
        signature = (minima & np.uint32(0xFF)).astype(np.uint8)
        places = self._places(minima)
        for number in np.unique(self._tables[self._bands, places]).tolist():
            if number:
                record = bytes(self._records[(number - 1) * _RECORD : number * _RECORD])
                if record[-_DIGEST:] == digest:
                    return "duplicate"
                if _is_alike(signature, np.frombuffer(record, np.uint8, _RECORD - _DIGEST)):
                    return "near_duplicate"
        self._records += signature.tobytes() + digest
        self._tables[self._bands, places] = len(self._records) // _RECORD
        return None

    def _minima(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        minhash = self._empty.copy()
        minhash.update_batch([shingle for text in texts for shingle in _shingles(text)])
        return minhash.hashvalues

    def _places(self, minima: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """The slot of each band, shape (_BANDS,)."""
        rows = minima[:, : _BANDS * _ROWS].reshape(_PARTS, _BANDS, _ROWS).swapaxes(0, 1).reshape(_BANDS, -1)
        hashes = (rows.astype(np.uint64) * self._odd).sum(axis=1, dtype=np.uint64)
        return (hashes >> np.uint64(20)) & np.uint64(self._slots - 1)


def _is_alike(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    # One in 256 unequal minima have the same last byte.
    shares = (ours == theirs.reshape(_PARTS, _PERMUTATIONS)).mean(axis=1)
    return bool(((shares - 1 / 256) / (1 - 1 / 256)).min() >= THRESHOLD)


def _shingles(text: str) -> list[bytes]:
    """Triples of words, or all words of a shorter text."""
    words = text.lower().split()
    if len(words) <= _SHINGLE:
        return [" ".join(words).encode()]
    return [f"{a} {b} {c}".encode() for a, b, c in zip(words, words[1:], words[2:], strict=False)]
