"""Conversations that are handed in while the worker is killed again and again: what became of each turn, and how fast.

    python -m benchmarks.ingest [--data DIR] [--json FILE] [--results FILE] [--quick]

The service runs as a process without a worker, beside one worker process, on the embedded database and the built-in
model. 5,000 turns of 20 users (LoCoMo's with --data, else made ones), each user's in several requests one after the
other, are handed in; the worker is ended with `kill -9` at 25, 50 and 75 % and started anew. Then every conversation
is read back: `taken_once` is the share of turns that are there once, as they were said, at the place at which they were
said. `lost`, `repeated` and `out_of_order` count those that are not.

Before and after that, without kills, turns of as many other users are handed in, a thousand at a time; `turns_per_s/N`
is the rate of the thousand before N thousand turns are held, and `growth` the first of these rates over the last.
`floor` is the rate at which the built-in model embeds the same texts by itself: nothing that embeds each turn can be
faster.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.clients.embeddings.onnx import OnnxEmbedder
from benchmarks import sentences
from benchmarks.processes import process, served
from benchmarks.report import Figure, Target, arguments, describe_machine, new_progress, publish

KILLS = (0.25, 0.5, 0.75)
REQUEST = 50
"""Turns of one request."""


@dataclass(frozen=True)
class Plan:
    """How many turns of how many users are watched through the kills, and how many are held where the rate is
    measured: before the kills, and at the points after them."""

    watched: int = 5_000
    users: int = 20
    before: int = 1_000
    held: tuple[int, ...] = (10_000, 100_000)


QUICK = Plan(400, 4, 200, (800, 1_200))


@dataclass(frozen=True)
class Kept:
    """What a conversation holds against what was said in it."""

    lost: int
    repeated: int
    out_of_order: int


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    machine = describe_machine(("onnxruntime", "asyncpg", "procrastinate", "uvloop"))
    plan = QUICK if options.quick else Plan()
    random = Random(1)
    said = (
        sentences.from_data(options.data, random, plan.watched)
        if options.data
        else sentences.from_templates(random, plan.watched)
    )
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    try:
        with new_progress(Console(stderr=True)) as progress:
            figures = uvloop.run(run(plan, list(dict.fromkeys(text for _, text in said.memories)), folder, progress))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = (
        "One worker, one job at a time; the service, the database and the worker share the machine."
        f"{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "Ingest", figures, machine, note)


async def run(plan: Plan, pool: Sequence[str], folder: Path, progress: Progress) -> list[Figure]:
    """Hand in under kills, read back, then measure the rate as memories grow in number."""
    texts = turns_of(pool)
    floor = await embedding_rate(folder, [next(texts) for _ in range(plan.before)])
    rates: dict[int, float] = {}
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(served(folder, 0))
        growing = Growing(client, texts, plan.users, plan.before, progress)
        async with process(folder, "worker-before", "worker"):
            await growing.rate_at(plan.before)
            rates[plan.before] = await growing.rate_at(2 * plan.before)
        conversations = {
            f"watched-{number:02}": [next(texts) for _ in range(plan.watched // plan.users)]
            for number in range(plan.users)
        }
        jobs = await hand_in(client, conversations)
        await through_kills(client, jobs, plan.watched, folder, progress)
        growing.held += plan.watched
        kept = [await read_back(client, user, turns) for user, turns in conversations.items()]
        states = [await job(client, each) for each in jobs]
        await stack.enter_async_context(process(folder, "worker-after", "worker"))
        for held in plan.held:
            rates[held] = await growing.rate_at(held)
    first, last = rates[plan.before], rates[plan.held[-1]]
    return [
        *kept_figures(kept, states, plan),
        Figure("floor", floor, "1/s", note="texts that the built-in model embeds by itself"),
        *(Figure(f"turns_per_s/{held / 1000:g}", rate, "1/s") for held, rate in rates.items()),
        Figure("floor_ratio", last / floor, "×", note=f"at {plan.held[-1]:,} turns, of the floor"),
        Figure("growth", first / last, "×", note=f"the first rate over the one at {plan.held[-1]:,} turns"),
    ]


def turns_of(pool: Sequence[str]) -> Iterator[str]:
    """Endless distinct sentences: the pool, then the pool with numbers."""
    for use in count(1):
        for text in pool:
            yield text if use == 1 else f"{text} ({use})"


async def embedding_rate(folder: Path, texts: Sequence[str]) -> float:
    """Texts a second of the model in this process, a batch at a time."""
    embedder = OnnxEmbedder.load(folder)
    try:
        await embedder.embed(texts[:32])
        started = time.perf_counter()
        for at in range(0, len(texts), 32):
            await embedder.embed(texts[at : at + 32])
        return len(texts) / (time.perf_counter() - started)
    finally:
        await embedder.aclose()


async def hand_in(client: httpx.AsyncClient, conversations: Mapping[str, Sequence[str]]) -> list[str]:
    """The jobs of all conversations; each user's requests in order."""
    jobs: list[str] = []
    for user, turns in conversations.items():
        for start in range(0, len(turns), REQUEST):
            batch = turns[start : start + REQUEST]
            messages = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(batch)]
            body = {"user_id": user, "session": f"conversation of {user}", "messages": messages}
            answer = await client.post("/v1/memories/ingest", json=body)
            answer.raise_for_status()
            jobs.append(answer.json()["job_id"])
    return jobs


async def through_kills(
    client: httpx.AsyncClient, jobs: Sequence[str], turns: int, folder: Path, progress: Progress
) -> None:
    """Return when all jobs are done; the worker is killed on the way."""
    bar = progress.add_task("through kills", total=turns)
    shares = [*KILLS, float("inf")]
    for number, share in enumerate(shares):
        async with process(folder, f"worker-{number}", "worker") as worker:
            while True:
                taken = sum([(await job(client, each))["taken"] for each in jobs])
                progress.update(bar, completed=taken)
                if taken >= share * turns:
                    worker.kill()
                    break
                if taken == turns:
                    return
                await asyncio.sleep(0.2)


async def job(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """How a job stands."""
    answer = await client.get(f"/v1/jobs/{job_id}")
    answer.raise_for_status()
    return answer.json()


async def read_back(client: httpx.AsyncClient, user: str, turns: Sequence[str]) -> Kept:
    """What the export of a user holds of their conversation."""
    answer = await client.get("/v1/memory/export", params={"user_id": user})
    answer.raise_for_status()
    lines = [orjson.loads(line) for line in answer.text.splitlines()]
    said = sorted(
        (line["turn"], line["content"])
        for line in lines
        if line["table"] == "memories" and line["source"].startswith("conversation:") and line["version_of"] is None
    )
    contents = [content for _, content in said]
    return Kept(
        lost=len(set(turns) - set(contents)),
        repeated=len(contents) - len(set(contents)),
        out_of_order=sum(turn > len(turns) or turns[turn - 1] != content for turn, content in said),
    )


def kept_figures(kept: Sequence[Kept], states: Sequence[Mapping[str, Any]], plan: Plan) -> list[Figure]:
    """What became of the watched turns."""
    lost, repeated, out = (sum(getattr(each, name) for each in kept) for name in ("lost", "repeated", "out_of_order"))
    return [
        Figure(
            "taken_once", 1 - (lost + repeated + out) / plan.watched, "", Target("≥", 1.0), f"{plan.watched:,} turns"
        ),
        Figure("lost", lost, target=Target("≤", 0)),
        Figure("repeated", repeated, target=Target("≤", 0)),
        Figure("out_of_order", out, target=Target("≤", 0)),
        Figure(
            "unfinished",
            sum(each["state"] != "done" for each in states),
            target=Target("≤", 0),
            note=f"of {len(states)} jobs; the worker was killed {len(KILLS)} times",
        ),
        Figure("nothing", sum(not each["memories"] for each in states), note="jobs that left no new memory"),
        Figure("memories", sum(each["memories"] for each in states), note="turns and what they tell"),
    ]


@dataclass
class Growing:
    """Hands in turns of its users, a thousand at a time, and waits until they are remembered."""

    client: httpx.AsyncClient
    texts: Iterator[str]
    users: int
    step: int
    progress: Progress
    held: int = 0

    async def rate_at(self, held: int) -> float:
        """Turns a second of the last step before so many are held."""
        bar = self.progress.add_task(f"to {held:,} turns", total=held)
        while self.held < held - self.step:
            await self._grow(min(self.step, held - self.step - self.held))
            self.progress.update(bar, completed=self.held)
        started = time.perf_counter()
        await self._grow(self.step)
        return self.step / (time.perf_counter() - started)

    async def _grow(self, turns: int) -> None:
        each = max(1, turns // self.users)
        said = {f"user-{number:02}": [next(self.texts) for _ in range(each)] for number in range(self.users)}
        jobs = await hand_in(self.client, said)
        while not all([(await job(self.client, each))["state"] == "done" for each in jobs]):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.1)
        self.held += turns


if __name__ == "__main__":
    main()
