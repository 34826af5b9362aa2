"""Embedding servers as the services see them: models behind addresses, which may be replaced."""

from collections.abc import Sequence
from typing import Any

from app.domain.embeddings import EmbeddingSpace, Vectors
from tests.fakes import FakeEmbedder


class Served(FakeEmbedder):
    """A model behind an address. What it calls itself is its `name` and `revision`; its vectors are those of its
    `weights`, whatever it calls itself."""

    def __init__(self, name: str, weights: str | None = None, revision: str = "http") -> None:
        super().__init__(name)
        self.name, self.revision = name, revision
        self.weights = weights or name

    @property
    def space(self) -> EmbeddingSpace:
        """By its name and revision."""
        return EmbeddingSpace(self.name, self.revision, 384)

    @property
    def texts(self) -> list[str]:
        """All that it was asked for."""
        return [text for call in self.calls for text in call]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """By its weights."""
        return FakeEmbedder(self.weights).vectors(texts)


class Addresses(dict[str, Served]):
    """Which model answers where; for `app.wiring.HttpEmbedder`."""

    def open(self, endpoint: str, **_: Any) -> Served:
        """What answers there."""
        return self[endpoint]
