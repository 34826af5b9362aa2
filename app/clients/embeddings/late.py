"""An embedder that is opened when the first text comes: `LateEmbedder`, for commands that often need none."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import ModelUnavailable
from app.ports import Embedder


class LateEmbedder:
    """The Embedder port on one that costs something to open."""

    def __init__(self, open_embedder: Callable[[], Awaitable[Embedder]]) -> None:
        """`open_embedder` raises ModelUnavailable where it cannot; then the next text tries again."""
        self._open = open_embedder
        self._opened: Embedder | None = None
        self._first_use = asyncio.Lock()

    @property
    def space(self) -> EmbeddingSpace:
        """Raises ModelUnavailable before the first text."""
        return self._held().space

    @property
    def backend(self) -> str:
        """The opened one's; `late` before that."""
        return "late" if self._opened is None else self._opened.backend

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As the opened one. Raises ModelUnavailable and Overloaded."""
        async with self._first_use:
            if self._opened is None:
                self._opened = await self._open()
        return await self._opened.embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Raises ModelUnavailable before the first text."""
        return self._held().count_tokens(texts)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._opened is not None:
            await self._opened.aclose()
            self._opened = None

    def _held(self) -> Embedder:
        if self._opened is None:
            raise ModelUnavailable("The embedding model is not loaded yet.")
        return self._opened
