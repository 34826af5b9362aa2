"""One change of space under load: before, filled with its filler and the database killed, switched, and back."""

import asyncio
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from rich.progress import Progress
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.clients.embeddings.http import HttpEmbedder
from app.domain.embeddings import Vectors
from app.domain.errors import StoreUnavailable
from app.domain.spaces import StoredSpace
from app.services.keys import DEFAULT_TENANT
from app.services.space_filler import BATCH, IN_FLIGHT
from app.store.engine import Database, open_database
from app.store.spaces import SpaceStore
from benchmarks import sentences
from benchmarks.space_switch.findings import Searched, brute_force, lost_writes
from benchmarks.space_switch.house import House, free_port, settings_of
from benchmarks.space_switch.loading import load, users
from benchmarks.space_switch.revisions import downgrade
from benchmarks.space_switch.stream import Request, Stream
from benchmarks.space_switch.texts import questions

SEARCHED = 40
"""Users who are searched, and added to; as many others are only written to. Where there are few users, half of them."""

KILLS = (0.25, 0.5, 0.75)
DATABASE_KILL = 0.6
"""At which shares of what is to be filled the filler is killed, and the database."""


@dataclass(frozen=True)
class Plan:
    """How much is done, and for how many seconds."""

    memories: int
    before_s: float = 60.0
    after_s: float = 40.0
    own_s: float = 20.0
    """Twice, around `fill_s` of filling: the embedder by itself."""
    fill_s: float = 40.0
    way_back: Literal["alembic", "command"] = "alembic"
    """Whether `alembic downgrade` goes back, or `space switch`."""


@dataclass
class Outcome:
    """What was seen. `marks`: when each phase began."""

    requests: list[Request] = field(default_factory=list[Request])
    searches: list[Searched] = field(default_factory=list[Searched])
    marks: dict[str, float] = field(default_factory=dict[str, float])
    kills: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    filled: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """(when, share of the items with a vector in the new space)."""
    lost_writes: int = 0
    missing: int = 0
    refusals: int = 0
    """How often the way back was refused, since a write had left a vector for later."""
    own_rates: list[float] = field(default_factory=list[float])
    fill_rate: float = 0.0
    fill_rate_live: float = 0.0
    verified: dict[str, float] = field(default_factory=dict[str, float])

    def mark(self, phase: str) -> None:
        """A phase begins."""
        self.marks[phase] = time.time()


async def run_scenario(
    folder: Path, endpoints: tuple[str, str], texts: Sequence[str], plan: Plan, progress: Progress
) -> Outcome:
    """From the space of the first endpoint to that of the second and back."""
    old, new = endpoints
    settings = settings_of(folder, old, free_port())
    await load(settings, texts, plan.memories, progress)
    house, outcome = House(folder, settings), Outcome()
    everybody = users(plan.memories)
    said = [each for _, each in sentences.from_templates(Random(5), 8000).memories]
    half = min(SEARCHED, len(everybody) // 2)
    stream = Stream(house.base_url, everybody[:half], everybody[-half:], questions(), said, Random(4), outcome.requests)
    with house.running():
        database = await open_database(settings)
        try:
            async with stream.flowing():
                await _change(house, database, new, plan, outcome, progress)
            spaces = await _spaces(database)
            await house.command("space", "fill")  # what was noted while a model was late
            await _judge(database, spaces, endpoints, stream, outcome)
            outcome.missing = (await house.command("space", "verify", "--queries", "1"))["missing"]
            await _rates(house, database, new, texts, plan, outcome)
        finally:
            await database.aclose()
    return outcome


async def _change(
    house: House, database: Database, endpoint: str, plan: Plan, outcome: Outcome, progress: Progress
) -> None:
    """The change itself, while the stream flows."""
    outcome.mark("before")
    await asyncio.sleep(plan.before_s)
    outcome.mark("fill")
    await house.command("space", "create", "--endpoint", endpoint)
    await _fill(house, database, outcome, progress)
    outcome.mark("filled")
    outcome.verified = await house.command("space", "verify")
    outcome.mark("switched")
    await house.command("space", "switch")
    await asyncio.sleep(plan.after_s)
    outcome.mark("back")
    if plan.way_back == "alembic":
        new, old = await _spaces(database)
        fill = partial(house.command, "space", "fill")
        outcome.refusals = await downgrade(database, house.folder / "migrations", old, new, fill)
    else:
        await house.command("space", "switch")
    await asyncio.sleep(plan.after_s)
    outcome.mark("end")


async def _fill(house: House, database: Database, outcome: Outcome, progress: Progress) -> None:
    """Fill until it is done, through all the kills."""
    bar = progress.add_task("filling", total=1.0)
    kills = [*((share, "filler") for share in KILLS), (DATABASE_KILL, "database")]
    kills.sort()
    filler = house.start_filling()
    began = time.time()
    try:
        while filler.poll() is None:
            await asyncio.sleep(1.0)
            share = await _share(database)
            outcome.filled.append((time.time(), share))
            progress.update(bar, completed=share)
            if kills and share >= kills[0][0]:
                victim = kills.pop(0)[1]
                outcome.kills.append((time.time(), victim))
                if victim == "database":
                    house.kill_database()
                else:
                    filler.kill()
                    filler.wait()
                    filler = house.start_filling()
    finally:
        _end(filler)
    if filler.returncode:
        raise SystemExit(f"space fill: {(house.folder / 'fill.txt').read_text()}")
    outcome.fill_rate_live = await _items(database) / (time.time() - began)


async def _rates(
    house: House, database: Database, endpoint: str, texts: Sequence[str], plan: Plan, outcome: Outcome
) -> None:
    """The rate of filling beside the embedder's own, without the stream: anew, from an empty space."""
    await house.command("space", "drop")
    outcome.own_rates.append(await own_rate(endpoint, texts, plan.own_s))
    await house.command("space", "create", "--endpoint", endpoint)
    filler = house.start_filling("--slowdown", "0")
    try:
        while not (first := await _vectors(database)):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.2)
        began, held, items = time.time(), first, await _items(database)
        while held < items and time.time() < began + plan.fill_s:
            await asyncio.sleep(0.2)
            held = await _vectors(database)
        outcome.fill_rate = (held - first) / (time.time() - began)
    finally:
        _end(filler)
    outcome.own_rates.append(await own_rate(endpoint, texts, plan.own_s))


def _end(filler: subprocess.Popen[bytes]) -> None:
    if filler.poll() is None:
        filler.terminate()
        filler.wait()


async def own_rate(endpoint: str, texts: Sequence[str], seconds: float) -> float:
    """Texts a second that the endpoint embeds for who does nothing else, asked as filling asks."""
    embedder, random, done = HttpEmbedder(endpoint), Random(6), 0
    began = time.time()

    async def ask() -> None:
        nonlocal done
        while time.time() - began < seconds:
            batch = [f"{random.choice(texts)} ({random.randrange(2, 150)})" for _ in range(BATCH)]
            await embedder.embed(batch)
            done += BATCH

    try:
        await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
        return done / (time.time() - began)
    finally:
        await embedder.aclose()


async def _judge(
    database: Database, spaces: Sequence[StoredSpace], endpoints: tuple[str, str], stream: Stream, outcome: Outcome
) -> None:
    vectors: dict[tuple[str, str], Vectors] = {}
    for endpoint in endpoints:
        embedder = HttpEmbedder(endpoint)
        embedded = await embedder.embed(stream.questions)
        vectors |= {
            (embedder.space.id, question): row for question, row in zip(stream.questions, embedded, strict=True)
        }
        await embedder.aclose()
    brute = await brute_force(database, spaces, stream.searchers, vectors, outcome.requests)
    outcome.searches = [brute.judged(each) for each in outcome.requests if each.kind == "search" and each.status == 200]
    outcome.lost_writes = await lost_writes(database, spaces, outcome.requests)


async def _spaces(database: Database) -> list[StoredSpace]:
    """The one that serves, and the other one."""
    async with database.begin(DEFAULT_TENANT) as connection:
        found = await SpaceStore().of_tenant(connection, DEFAULT_TENANT)
    assert found is not None
    return [found.serving, *(space for space, _ in found.others)]


async def _vectors(database: Database) -> int:
    """Memories with a vector in the new space."""
    async with database.begin(DEFAULT_TENANT) as connection:
        found = await SpaceStore().of_tenant(connection, DEFAULT_TENANT)
        assert found is not None
        space = found.others[0][0]
        return (await connection.execute(text(f"SELECT count(*) FROM {space.memory_table}"))).scalar_one()  # noqa: S608


async def _items(database: Database) -> int:
    async with database.begin(DEFAULT_TENANT) as connection:
        return (await connection.execute(text("SELECT count(*) FROM memories"))).scalar_one()


async def _share(database: Database) -> float:
    """How much is filled; asked again while the database is recovering."""
    while True:
        with suppress(StoreUnavailable, DBAPIError):
            return await _vectors(database) / await _items(database)
        await asyncio.sleep(0.2)


def quantile(values: Sequence[float], share: float) -> float:
    """Linearly interpolated."""
    return float(np.quantile(np.array(values), share))
