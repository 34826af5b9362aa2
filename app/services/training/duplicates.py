"""Samples that were seen before, exactly or nearly: MinHash signatures (datasketch) in a table of bounded size."""

import hashlib
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.errors import ModelUnavailable

Texts = Sequence[tuple[str, str]]
"""Texts with the parts they play."""

PERMUTATIONS = 64
"""Of each half, what a sample says and what was known beside it: an estimate's standard deviation is 0.05 at 0.8."""

BANDS, ROWS = 8, 3
"""A pair is compared in full when one of 8 bands of 3 + 3 minima agrees: 99.8 % of pairs that are alike to 0.8 where
nothing else was known, all but one in 10,000 at 0.9."""

PROBES = 4
_SHINGLE = 3
_CACHED = 4096
_DIGEST = 8
_RECORD = 2 * PERMUTATIONS + _DIGEST + 1


@dataclass(frozen=True)
class Seen:
    """An earlier sample that says the same, and the split it went to, as a number."""

    kind: Literal["duplicate", "near_duplicate"]
    split: int


@dataclass(frozen=True)
class Sketch:
    """What a sample is compared by: the minima of what it says and of what was known beside it, shape
    (2 * PERMUTATIONS,), and a digest of all of it."""

    minima: NDArray[np.uint32]
    digest: bytes


class Sketcher:
    """Makes sketches; each depends on its own sample only."""

    def __init__(self) -> None:
        """Raises ModelUnavailable where the package for it is missing."""
        # 70 MB and half a second, with the whole of scipy: nobody pays for it who prepares no datasets.
        try:
            from datasketch import MinHash  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
        except ImportError:
            raise ModelUnavailable("preparing datasets needs more packages: run `make install-training`") from None

        self._empty: Any = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32")
        self._known: OrderedDict[Texts, NDArray[np.uint32]] = OrderedDict()

    def sketch(self, said: Texts, known: Texts) -> Sketch:
        """Of what a sample says, and of what was known beside it."""
        minima = np.concatenate([self._minima(said), self._minima_of_known(tuple(known))])
        digest = hashlib.blake2b(repr((said, known)).encode("utf-8", "replace"), digest_size=_DIGEST).digest()
        return Sketch(minima, digest)

    def _minima(self, texts: Texts) -> NDArray[np.uint32]:
        minhash = self._empty.copy()
        minhash.update_batch(_shingles(texts))
        return minhash.hashvalues

    def _minima_of_known(self, texts: Texts) -> NDArray[np.uint32]:
        """The memories of a user come again with their every sample."""
        found = self._known.get(texts)
        if found is None:
            found = self._known[texts] = self._minima(texts)
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return found


class SeenSamples:
    """Says of each sample whether an earlier one was alike, and keeps it where none was.

    Two samples are alike where both what they say and what was known beside it have an estimated Jaccard similarity
    of `threshold` or more, over triples of words with the part their text plays. Memory: 134 MB for a million
    samples (two slots of 8 bytes for each, in 8 bands), about 1 µs of disk for each comparison; a table fuller than
    planned forgets in some bands and finds less. The signatures lie in a temporary file of 137 bytes a sample.
    """

    def __init__(self, expected: int, threshold: float) -> None:
        """For about `expected` samples."""
        self._sketcher = Sketcher()
        self._threshold = threshold
        self._slots = 1 << max(10, (2 * expected - 1).bit_length())
        self._table = np.zeros((BANDS, self._slots), np.uint64)
        self._odd = np.random.default_rng(1).integers(0, 2**63, 2 * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
        self._bands = np.arange(BANDS)[:, None]
        self._steps = np.arange(PROBES, dtype=np.uint64)
        self._records = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        self._count = 0

    def look(self, said: Texts, known: Texts, split: int) -> Seen | None:
        """As `look_at`, of a sample's texts."""
        return self.look_at(self._sketcher.sketch(said, known), split)

    def look_at(self, sketch: Sketch, split: int) -> Seen | None:
        """The earlier sample that is alike; where there is none, this one is kept with its split."""
        minima, digest = sketch.minima, sketch.digest
        places, tags = self._places(minima)
        slots = self._table[self._bands, places]
        signature = (minima & np.uint32(0xFF)).astype(np.uint8)
        for record in self._candidates(slots, tags):
            if record[-_DIGEST - 1 : -1] == digest:
                return Seen("duplicate", record[-1])
            if self._is_alike(signature, np.frombuffer(record, np.uint8, 2 * PERMUTATIONS)):
                return Seen("near_duplicate", record[-1])
        self._keep(places, slots, tags, signature.tobytes() + digest + bytes([split]))
        return None

    def close(self) -> None:
        """Let go of memory and the temporary file."""
        self._records.close()
        self._table = np.zeros((BANDS, 0), np.uint64)

    def _places(self, minima: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """For each band the slots where its samples may lie, shape (BANDS, PROBES), and its tag in the upper half of
        a slot, shape (BANDS, 1)."""
        halves = minima.reshape(2, PERMUTATIONS)[:, : BANDS * ROWS].reshape(2, BANDS, ROWS)
        bands = np.concatenate([halves[0], halves[1]], axis=1).astype(np.uint64)
        hashes = (bands * self._odd).sum(axis=1, dtype=np.uint64)
        hashes ^= hashes >> np.uint64(32)
        hashes *= self._odd[0]
        first = hashes >> np.uint64(32)
        places = (first[:, None] + self._steps) & np.uint64(self._slots - 1)
        return places, (hashes & np.uint64(0xFFFFFFFF))[:, None] << np.uint64(32)

    def _candidates(self, slots: NDArray[np.uint64], tags: NDArray[np.uint64]) -> Iterator[bytes]:
        """The records of kept samples that agree in a band, oldest first."""
        low = np.uint64(0xFFFFFFFF)
        for number in np.unique(slots[(slots ^ tags <= low) & (slots != 0)] & low).tolist():
            yield os.pread(self._records.fileno(), _RECORD, (number - 1) * _RECORD)

    def _is_alike(self, ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
        # One in 256 unequal minima have the same last byte.
        shares = (ours == theirs).reshape(2, PERMUTATIONS).mean(axis=1)
        return bool(((shares - 1 / 256) / (1 - 1 / 256)).min() >= self._threshold)

    def _keep(
        self, places: NDArray[np.uint64], slots: NDArray[np.uint64], tags: NDArray[np.uint64], record: bytes
    ) -> None:
        os.pwrite(self._records.fileno(), record, self._count * _RECORD)
        self._count += 1
        free = slots == 0
        bands = np.flatnonzero(free.any(axis=1))
        self._table[bands, places[bands, free.argmax(axis=1)[bands]]] = tags[bands, 0] | np.uint64(self._count)


def _shingles(texts: Texts) -> list[bytes]:
    """Triples of words, or all words of a shorter text, each with the part its text plays."""
    found: list[str] = []
    for part, text in texts:
        words = text.lower().split()
        if len(words) > _SHINGLE:
            found += [f"{part}\0{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)]
        else:
            found.append(f"{part}\0{' '.join(words)}")
    return [each.encode("utf-8", "replace") for each in found]
