"""An embedder that is opened when the first text comes: `LateEmbedder`, for work that often needs none."""

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
        self._opening: asyncio.Task[None] | None = None

    @property
    def space(self) -> EmbeddingSpace:
        """Raises ModelUnavailable before the first text."""
        return self._held().space

    @property
    def backend(self) -> str:
        """The opened one's; `late` before that."""
        return "late" if self._opened is None else self._opened.backend

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As the opened one. Who gives up waiting for it does not end its opening for the others. Raises
        ModelUnavailable and Overloaded."""
        if self._opened is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._begin())
                self._opening.add_done_callback(_note_outcome)
            await asyncio.shield(self._opening)
        return await self._held().embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Raises ModelUnavailable before the first text."""
        return self._held().count_tokens(texts)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._opening is not None:
            await asyncio.wait({self._opening})
        if self._opened is not None:
            await self._opened.aclose()
            self._opened = None

    async def _begin(self) -> None:
        try:
            self._opened = await self._open()
        finally:
            self._opening = None

    def _held(self) -> Embedder:
        if self._opened is None:
            raise ModelUnavailable("The embedding model is not loaded yet.")
        return self._opened


def _note_outcome(opening: asyncio.Task[None]) -> None:
    """Whoever waits still hears of a failure; where nobody does, nobody has to."""
    if not opening.cancelled():
        opening.exception()
