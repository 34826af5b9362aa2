"""The service itself: its use cases on a database of its own, as HTTP's routes call them."""

import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import numpy as np
from sqlalchemy.engine import make_url

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.memory import Draft, Memory, MemoryType
from app.logs import configure_logs
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.embedded import connect_driver
from app.store.engine import Statements
from app.wiring import build_services, open_database
from benchmarks.memory_quality.baselines import Stems, read_stems
from benchmarks.memory_quality.data import Conversation, Turn
from benchmarks.memory_quality.measures import DEPTH, Answer

BATCH = 100
SESSION_DEPTH = 100
"""Turns that are searched for where sessions are ranked."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""When everything is asked, in every run: age counts in a search."""

Made = TypeVar("Made")


class SetClock:
    """The moment that it is set to."""

    def __init__(self, at: datetime) -> None:
        """Stands still until `at` is set anew."""
        self.at = at

    def now(self) -> datetime:
        """As the service's clock."""
        return self.at


@dataclass(frozen=True)
class Cost:
    """What remembering some turns took: seconds without embedding, tokens that were embedded for it, and bytes by which
    the database grew."""

    turns: int = 0
    seconds: float = 0.0
    tokens: int = 0
    size: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.turns + other.turns,
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.size + other.size,
        )


class RememberingEmbedder:
    """The built-in model, which reads each text once: everybody who is measured gets the same vectors."""

    def __init__(self, model: OnnxEmbedder, kept: Path | None) -> None:
        """Vectors that are `kept` in a file are not computed again, and new ones go there at the end."""
        self._model = model
        self._kept = kept
        self.spent: Cost | None = None
        """Seconds of embedding and tokens that were asked for, known ones too, while somebody counts."""
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
        if self.spent is None:
            return await self._embed(texts)
        began = time.perf_counter()
        vectors = await self._embed(texts)
        tokens = self.count_tokens(texts)
        self.spent += Cost(seconds=time.perf_counter() - began, tokens=tokens)
        return vectors

    async def _embed(self, texts: Sequence[str]) -> Vectors:
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
    """The running services, and how long each search took, in seconds."""

    services: Services
    embedder: RememberingEmbedder
    clock: SetClock
    searched: list[float] = field(default_factory=list[float])

    @property
    def url(self) -> str:
        """Of the database, as its superuser."""
        server = self.services.database.server
        assert server is not None
        return make_url(server.url).set(drivername="postgresql").render_as_string(hide_password=False)

    async def size(self) -> int:
        """Bytes of the database on disk."""
        return await database_size(self.url)

    def ask_after(self, turns: Iterable[Turn]) -> None:
        """Set the clock to `NOW`, or a day after the last of some turns where that is later."""
        self.clock.at = max([NOW, *(turn.said_at + timedelta(days=1) for turn in turns)])

    async def costing(self, turns: int, remember: Callable[[], Awaitable[Made]]) -> tuple[Made, Cost]:
        """Have some turns remembered, and what that cost."""
        await self.services.recalls.log.aclose()  # what it has to write down is no turn's
        before, began = await self.size(), time.perf_counter()
        self.embedder.spent = Cost()
        try:
            made = await remember()
            seconds = time.perf_counter() - began
            spent = self.embedder.spent
        finally:
            self.embedder.spent = None
        return made, Cost(turns, seconds - spent.seconds, spent.tokens, await self.size() - before)

    async def answer(self, conversation: Conversation) -> tuple[list[Answer], Cost]:
        """What a search by default finds for each question about a conversation, which is remembered as a user's of its
        name first: one memory a turn. Where several turns became one memory, what finds it finds them all."""
        turns = conversation.turns
        ids, cost = await self.costing(len(turns), lambda: self._remember(conversation))
        positions: dict[UUID, list[int]] = {}
        for at, memory_id in enumerate(ids):
            positions.setdefault(memory_id, []).append(at)
        answers = await self.answers(
            conversation, conversation.name, lambda memory: positions[memory.memory_id], self.searched
        )
        return answers, cost

    async def answers(
        self,
        conversation: Conversation,
        user: str,
        places: Callable[[Memory], Sequence[int]],
        searched: list[float] | None = None,
    ) -> list[Answer]:
        """What a search by default finds for each question among a user's memories, of which each is of turns at some
        `places` in the conversation; the seconds of each go to `searched`."""
        await self.embedder.embed([question.text for question in conversation.questions])
        answers: list[Answer] = []
        for question in conversation.questions:
            began = time.perf_counter()
            found = await self._search(user, question.text, DEPTH)
            if searched is not None:
                searched.append(time.perf_counter() - began)
            deep = await self._search(user, question.text, SESSION_DEPTH) if conversation.is_talk else []
            sessions = [conversation.turns[at].session for memory in deep for at in places(memory)]
            turns = [at for memory in found for at in places(memory)]
            answers.append(Answer(turns, list(dict.fromkeys(sessions))))
        return answers

    async def _remember(self, conversation: Conversation) -> list[UUID]:
        """The memory of each turn."""
        ids: list[UUID] = []
        for start in range(0, len(conversation.turns), BATCH):
            part = conversation.turns[start : start + BATCH]
            drafts = [
                draft_of(turn, turn.text, str(turn.session)) if conversation.is_talk else text_of(turn) for turn in part
            ]
            ids += (await self.services.memories.add(DEFAULT_TENANT, conversation.name, drafts)).ids
        return ids

    async def _search(self, user: str, query: str, limit: int) -> list[Memory]:
        found = await self.services.ranking.search(DEFAULT_TENANT, user, SearchRequest(query, limit))
        return [item.memory for item in found.ranked]

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


def text_of(turn: Turn) -> Draft:
    """A text that stands alone, as it is remembered: in no session, and nothing that a later one makes untrue."""
    return Draft(MemoryType.ARTIFACT, turn.text, valid_from=turn.said_at)


async def database_size(url: str) -> int:
    """Bytes of a database on disk."""
    connection = await connect_driver(url)
    try:
        return await connection.fetchval("SELECT pg_database_size(current_database())")
    finally:
        await connection.close()


def by_clock(services: Services, clock: SetClock) -> Services:
    """The same use cases, of which those that remember and search go by a clock."""
    memories = replace(services.memories, clock=clock)
    gate = replace(services.gate, memories=memories, clock=clock)
    return replace(
        services,
        memories=memories,
        gate=gate,
        turns=replace(services.turns, memories=memories, gate=gate),
        ranking=replace(services.ranking, clock=clock),
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
            clock = SetClock(NOW)
            yield House(by_clock(services, clock), embedder, clock)
        finally:
            services.collector.close()
            await services.spaces.aclose()
            await services.ranking.reads.aclose()
            await services.afterwards.aclose()
            await embedder.aclose()
            await database.aclose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
