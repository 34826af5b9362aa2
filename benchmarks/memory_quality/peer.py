"""mem0 beside the service: its package in an environment and a process of its own, on the same PostgreSQL, with the
same vectors and no language model."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from app.ports import Embedder
from app.store.embedded import connect_driver
from benchmarks.memory_quality.data import Conversation
from benchmarks.memory_quality.measures import DEPTH, Answer
from benchmarks.memory_quality.ours import SESSION_DEPTH, House

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "venv-mem0" / "bin" / "python"
"""Where `make install-peer` puts it."""
DATABASE = "mem0"
_LONGEST_LINE = 2**24
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Taken:
    """The ids of memories that were added or found, and the seconds it took mem0, without embedding."""

    ids: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Peer:
    """mem0 in a process of its own, which answers one request at a time."""

    process: asyncio.subprocess.Process
    embedder: Embedder
    folder: Path
    url: str
    """Of its database."""
    version: str
    is_hybrid: bool
    """Whether it compares lemmas and entities too, by spaCy."""
    searched: list[float] = field(default_factory=list[float])
    """The seconds of each search for turns."""

    async def open(self, collection: str) -> None:
        """Go on in a collection."""
        await self._ask({"do": "open", "collection": collection})

    async def add(self, user: str, texts: Sequence[str]) -> Taken:
        """Remember texts, one memory each."""
        return Taken(**await self._ask({"do": "add", "user": user, "texts": texts}))

    async def search(self, user: str, query: str, count: int) -> Taken:
        """What it finds, best first."""
        return Taken(**await self._ask({"do": "search", "user": user, "query": query, "count": count}))

    async def answer(self, conversation: Conversation) -> list[Answer]:
        """What it finds for each question about a conversation, which it remembers first, one memory a turn."""
        user = "-".join(conversation.name.split())  # it refuses names with spaces
        added = await self.add(user, [turn.text for turn in conversation.turns])
        positions = {memory_id: at for at, memory_id in enumerate(added.ids)}
        answers: list[Answer] = []
        for question in conversation.questions:
            found = await self.search(user, question.text, DEPTH)
            self.searched.append(found.seconds)
            deep = (await self.search(user, question.text, SESSION_DEPTH)).ids if conversation.is_talk else ()
            sessions = [conversation.turns[positions[each]].session for each in deep]
            answers.append(Answer([positions[each] for each in found.ids], list(dict.fromkeys(sessions))))
        return answers

    def history_size(self) -> int:
        """The size of the file in which it keeps the history of its memories."""
        return sum(path.stat().st_size for path in self.folder.glob("history.db*"))

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        answer = await _exchange(self.process, self.folder, request)
        while "wanted" in answer:
            vectors = await self.embedder.embed(answer["wanted"])
            encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
            answer = await _exchange(self.process, self.folder, {"vectors": encoded})
        return answer


def find_python(named: Path | None) -> Path | None:
    """The Python of mem0's environment, None where there is none. Raises SystemExit where a `named` one is missing."""
    python = named or PYTHON
    if python.is_file():
        return python.absolute()
    if named:
        raise SystemExit(f"--mem0 {named}: no such file; `make install-peer` makes {PYTHON.relative_to(ROOT)}")
    return None


@asynccontextmanager
async def open_peers(python: Path | None, house: House) -> AsyncGenerator[dict[str, Peer]]:
    """By name `mem0` with all that it compares and, where spaCy is in that, `mem0/plain` without; both in a database of
    their own on the house's server, gone with it. Nobody where there is no Python for it."""
    async with AsyncExitStack() as stack:
        peers: dict[str, Peer] = {}
        if python is not None:
            url = await _create_database(house)
            peers["mem0"] = best = await stack.enter_async_context(running(python, url, house.embedder))
            if best.is_hybrid:
                peers["mem0/plain"] = await stack.enter_async_context(running(python, url, house.embedder, "--plain"))
        yield peers


@asynccontextmanager
async def running(python: Path, url: str, embedder: Embedder, *flags: str) -> AsyncGenerator[Peer]:
    """The process until the end of the block. Raises SystemExit, with what it said, where it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="memory-quality-peer-"))
    foreign = ("MEM0_", "OPENAI_", "OPENROUTER_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {"HOME": str(folder), "MEM0_DIR": str(folder), "MEM0_TELEMETRY": "False", "OPENAI_API_KEY": "unused"}
    try:
        with _log(folder).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(str(python), "-I", str(Path(__file__).with_name("peer_child.py")), url, *flags),
                cwd=folder,
                env=kept | own,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LONGEST_LINE,
            )
        try:
            told = await _read(process, folder)
            yield Peer(process, embedder, folder, url, told["version"], told["is_hybrid"])
        finally:
            await _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _create_database(house: House) -> str:
    """The URL of a new database."""
    connection = await connect_driver(house.url)
    try:
        await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
    return make_url(house.url).set(database=DATABASE).render_as_string(hide_password=False)


async def _exchange(process: asyncio.subprocess.Process, folder: Path, line: Mapping[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    with suppress(ConnectionError):  # `_read` tells why
        process.stdin.write(json.dumps(line).encode() + b"\n")
        await process.stdin.drain()
    return await _read(process, folder)


async def _read(process: asyncio.subprocess.Process, folder: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise SystemExit(f"mem0 ended; the last it said:\n{_log(folder).read_text(errors='replace')[-2000:]}")
    return json.loads(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let it end by itself, which it does without requests, else end it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _log(folder: Path) -> Path:
    return folder / "log"
