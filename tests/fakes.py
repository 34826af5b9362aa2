"""Stand-ins for what the services need from outside: quick, deterministic, and under the same contract tests."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from app.domain.embeddings import EmbeddingSpace, Vector, Vectors

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
