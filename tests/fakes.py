"""Stand-ins for what the services need from outside: quick, deterministic, and under the same contract tests."""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from app.domain.embeddings import EmbeddingSpace, Vector, Vectors
from app.domain.errors import AdapterRefused

_DIMENSION = 384


class FakeEmbedder:
    """Bag-of-words vectors: every word has a fixed random direction, a text is the sum of its words.

    Texts are the closer the more words they share, so searches find what a reader would expect; nothing is
    learnt, so synonyms are strangers. Set `error` to make the next calls fail with it.
    """

    def __init__(self, model: str = "fake") -> None:
        """`model`: embedders with different names have different spaces and different vectors."""
        self._space = EmbeddingSpace(model=model, revision="0", dimension=_DIMENSION)
        self.error: Exception | None = None
        self.calls: list[list[str]] = []

    @property
    def space(self) -> EmbeddingSpace:
        """The fake's own space."""
        return self._space

    @property
    def backend(self) -> str:
        """`fake`."""
        return "fake"

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), 384); raises `error` while that is set."""
        self.calls.append(list(texts))
        if self.error is not None:
            raise self.error
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """What `embed` answers, for tests that cannot wait."""
        rows = [self._vector(text) for text in texts]
        return np.stack(rows) if rows else np.empty((0, _DIMENSION), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Words, and one for every text."""
        return sum(len(_words(text)) + 1 for text in texts)

    async def aclose(self) -> None:
        """Nothing to free."""

    def _vector(self, text: str) -> Vector:
        total = np.sum([_direction(self._space.model, word) for word in ("", *_words(text))], axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@lru_cache(maxsize=20_000)
def _direction(model: str, word: str) -> Vector:
    """A unit vector for the word; the empty word, which every text has, is short so that it hardly counts."""
    digest = hashlib.blake2b(f"{model} {word}".encode("utf-8", "replace"), digest_size=8).digest()
    direction = np.random.default_rng(int.from_bytes(digest)).standard_normal(_DIMENSION)
    return direction / np.linalg.norm(direction) * (1.0 if word else 0.1)


class FakeAdapterServer:
    """A model server that keeps adapters in a dictionary. Set `error` to make the next calls fail with it, clear
    `folders` to restart it, clear `is_taking` to hold every load back, `is_open` to do so once the adapter is in."""

    def __init__(self, base_model: str = "tiny-chat", max_rank: int = 32) -> None:
        self.base_model = base_model
        self.max_rank = max_rank
        self.folders: dict[str, Path] = {}
        self.error: Exception | None = None
        self.loads: list[str] = []
        """Every name it was asked to load."""
        self.is_taking, self.is_open = asyncio.Event(), asyncio.Event()
        self.is_taking.set()
        self.is_open.set()

    async def load(self, adapter: str, folder: Path) -> None:
        """Take in an adapter under a name; raises `error` while that is set."""
        self.loads.append(adapter)
        self._check()
        config = folder / "adapter_config.json"
        if self.folders.get(adapter, folder) != folder:
            raise AdapterRefused("that name stands for another folder")
        if not config.is_file():
            raise AdapterRefused(f"there is no adapter in {folder}")
        if json.loads(config.read_text())["r"] > self.max_rank:
            raise AdapterRefused("its rank is too large")
        await self.is_taking.wait()
        self.folders[adapter] = folder
        await self.is_open.wait()

    async def unload(self, adapter: str) -> None:
        """Let an adapter go; raises `error` while that is set."""
        self._check()
        self.folders.pop(adapter, None)

    async def loaded(self) -> frozenset[str]:
        """What it has; raises `error` while that is set."""
        self._check()
        return frozenset(self.folders)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
