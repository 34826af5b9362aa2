"""The service itself: its use cases on a database of its own, as HTTP's routes call them."""

import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy.engine import make_url

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.memory import Draft, MemoryType
from app.logs import configure_logs
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Statements
from app.wiring import build_services, open_database
from benchmarks.memory_quality.baselines import Stems, read_stems
from benchmarks.memory_quality.data import Conversation, Turn
from benchmarks.memory_quality.measures import DEPTH, Answer

BATCH = 100
SESSION_DEPTH = 100
"""Turns that are searched for where sessions are ranked."""


class RememberingEmbedder:
    """The built-in model, which reads each text once: everybody who is measured gets the same vectors."""

    def __init__(self, model: OnnxEmbedder, kept: Path | None) -> None:
        """Vectors that are `kept` in a file are not computed again, and new ones go there at the end."""
        self._model = model
        self._kept = kept
        self._known: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        if kept is not None and kept.exists():
            held = np.load(kept)
            self._known.update(zip(held["texts"].tolist(), held["vectors"], strict=True))

    @property
    def space(self) -> EmbeddingSpace:
        """As the model's."""
        return self._model.space

    @property
    def backend(self) -> str:
        """As the model's."""
        return self._model.backend

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As the model's."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        for start in range(0, len(new), 256):
            part = new[start : start + 256]
            self._known.update(zip(part, await self._model.embed(part), strict=True))
        return np.stack([self._known[text] for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """As the model's."""
        return self._model.count_tokens(texts)

    async def aclose(self) -> None:
        """End the model."""
        if self._kept is not None and self._known:
            np.savez(self._kept, texts=np.array(list(self._known)), vectors=np.stack(list(self._known.values())))
        await self._model.aclose()


@dataclass
class House:
    """The running services, and how long each add of a turn and each search took, in seconds."""

    services: Services
    embedder: RememberingEmbedder
    added: list[float] = field(default_factory=list[float])
    searched: list[float] = field(default_factory=list[float])

    @property
    def url(self) -> str:
        """Of the database, as its superuser."""
        server = self.services.database.server
        assert server is not None
        return make_url(server.url).set(drivername="postgresql").render_as_string(hide_password=False)

    async def remember(self, conversation: Conversation) -> dict[UUID, int]:
        """Add a conversation, one memory a turn, as the memories of a user of its name; the position of each memory's
        turn (of the first, where several say the same)."""
        positions: dict[UUID, int] = {}
        for start in range(0, len(conversation.turns), BATCH):
            part = conversation.turns[start : start + BATCH]
            await self.embedder.embed([turn.text for turn in part])
            began = time.perf_counter()
            added = await self.services.memories.add(
                DEFAULT_TENANT,
                conversation.name,
                [draft_of(turn, turn.text, str(turn.session)) for turn in part],
            )
            self.added.append((time.perf_counter() - began) / len(part))
            for at, memory_id in enumerate(added.ids, start):
                positions.setdefault(memory_id, at)
        return positions

    async def answer(self, conversation: Conversation) -> list[Answer]:
        """What a search by default finds for each question about a conversation that was remembered."""
        positions = await self.remember(conversation)
        await self.embedder.embed([question.text for question in conversation.questions])
        answers: list[Answer] = []
        for question in conversation.questions:
            began = time.perf_counter()
            found = await self._search(conversation.name, question.text, DEPTH)
            self.searched.append(time.perf_counter() - began)
            deep = await self._search(conversation.name, question.text, SESSION_DEPTH)
            sessions = [conversation.turns[positions[each]].session for each in deep]
            answers.append(Answer([positions[each] for each in found], list(dict.fromkeys(sessions))))
        return answers

    async def _search(self, user: str, query: str, limit: int) -> list[UUID]:
        found = await self.services.ranking.search(DEFAULT_TENANT, user, SearchRequest(query, limit))
        return [item.memory.memory_id for item in found.ranked]

    async def stems(self, texts: Sequence[str]) -> Stems:
        """The stemmed words of texts, as the database has them."""
        async with self.services.database.begin(DEFAULT_TENANT) as connection:
            statements = await Statements.of(connection)
            rows = await statements.fetch(
                "SELECT to_tsvector('english', text)::text AS words "
                "FROM unnest($1::text[]) WITH ORDINALITY AS given(text, at) ORDER BY at",
                list(texts),
            )
        return [read_stems(row["words"]) for row in rows]


def draft_of(turn: Turn, text: str, session: str) -> Draft:
    """A turn as it is remembered, with another text and in a session of another name where they differ."""
    return Draft(
        MemoryType.HISTORY,
        text,
        valid_from=turn.said_at,
        session=session,
        turn=turn.number,
        speaker=turn.speaker,
    )


@asynccontextmanager
async def open_house(vectors: Path | None = None) -> AsyncGenerator[House]:
    """The services with default settings in a temporary folder, gone at the end; `vectors`: a file that keeps them."""
    folder = Path(tempfile.mkdtemp(prefix="memory-quality-"))
    folder.chmod(0o711)  # noqa: ASYNC240 - the database may run as another user, who has to pass through
    configure_logs(folder / "logs", "WARNING", to_stdout=False)
    settings = Settings(_env_file=None, data_dir=folder, log_dir=folder / "logs", database_url=None, slm_impl="local")
    try:
        database = await open_database(settings)
        embedder = RememberingEmbedder(OnnxEmbedder.load(settings.data_dir, settings.embed_threads), vectors)
        services = build_services(settings, database, embedder)
        await services.keys.ensure_default_tenant()
        await services.catalogues.warm()
        try:
            yield House(services, embedder)
        finally:
            services.collector.close()
            await services.spaces.aclose()
            await services.ranking.reads.aclose()
            await services.afterwards.aclose()
            await embedder.aclose()
            await database.aclose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
