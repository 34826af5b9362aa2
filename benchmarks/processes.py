"""Several service processes on one database: throughput against one of them, and what is lost between them.

    python -m benchmarks.processes [--data DIR] [--json FILE] [--results FILE] [--quick]

Four processes and two workers, all started beforehand, on one database. Rounds of the same mixed load (searches,
adding, hypotheses) go to the first process alone and to all four in turns, so that a machine that is busy now is so
for both. The clients share the machine, and cost what they cost.

In every round one fact is told again and again through whichever process is next; at the end it counts as often as it
was told, and every memory whose writing was acknowledged has to be there. Conversations are handed in too: the workers
remember them, one of which is killed (`kill -9`) and replaced in the middle; at the end each of their turns has to be
there, once.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import psutil
import uvloop
from rich.console import Console

from app.settings import Settings
from benchmarks import sentences
from benchmarks.report import Figure, Target, arguments, describe_machine, new_progress, percentile, publish

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 4
WORKERS = 2
FACT = "I like tea"
CONFIDENCE = 0.6
TURNS = 6
"""Of a conversation that is handed in."""

JOBS_S = 300.0
"""How long the workers may take to remember what is left at the end."""


@dataclass(frozen=True)
class Plan:
    """How much of it: requests of a round, rounds each way, requests under way, users and what they have at first."""

    requests: int = 400
    rounds: int = 8
    in_flight: int = 16
    users: int = 50
    memories: int = 40


QUICK = Plan(requests=60, rounds=2, users=5, memories=5)


@dataclass
class Tally:
    """What was promised and what went wrong."""

    acknowledged: list[str] = field(default_factory=list[str])
    jobs: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Of each conversation that was handed in, by its job: whose it is, and its name."""
    told: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Round:
    """Requests a second, and how long each took in seconds."""

    per_second: float
    took: Sequence[float]


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    machine = describe_machine(("onnxruntime", "asyncpg", "sqlalchemy", "uvloop"))
    plan = QUICK if options.quick else Plan()
    random = Random(1)
    count = plan.users * plan.memories + plan.requests * plan.rounds * 2
    said = sentences.from_data(options.data, random, count) if options.data else sentences.from_templates(random, count)
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    try:
        figures = uvloop.run(run(plan, said, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = (
        f"{PROCESSES} processes and {WORKERS} workers on {psutil.cpu_count()} cores, which the database and the "
        f"clients use too; {plan.rounds} rounds of {plan.requests} requests each way, {plan.in_flight} under way: "
        f"70 % searches, 18 % adding, 10 % hypotheses, 2 % conversations handed in."
        f"{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "Several processes", figures, machine, note)


async def run(plan: Plan, said: sentences.Sentences, folder: Path) -> list[Figure]:
    """Start, fill, measure in turns, then look for what was lost."""
    random, tally = Random(2), Tally()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served(folder, number)) for number in range(PROCESSES)]
        workers = [
            await stack.enter_async_context(process(folder, f"worker-{number}", "worker")) for number in range(WORKERS)
        ]
        await fill(plan, said, clients, tally, random)
        rounds: dict[int, list[Round]] = {1: [], PROCESSES: []}
        with new_progress(Console(stderr=True)) as progress:
            bar = progress.add_task("measuring", total=2 * plan.rounds)
            for number in range(plan.rounds):
                if number == plan.rounds // 2:
                    workers[0].kill()
                    await stack.enter_async_context(process(folder, "worker-again", "worker"))
                for doors in random.sample(sorted(rounds), 2):
                    rounds[doors].append(await put_under_load(plan, said, clients[:doors], tally, random))
                    progress.advance(bar)
        lost = await lost_writes(plan, clients, tally)
        turns = await turns_of_jobs(clients, tally)
        counted = await count_of_fact(clients[0])
    one, all_of_them = (np.array([each.per_second for each in rounds[doors]]) for doors in (1, PROCESSES))
    figures = [
        Figure("throughput/one", float(np.median(one)), "1/s", note="requests, median of the rounds"),
        Figure("throughput/four", float(np.median(all_of_them)), "1/s"),
        Figure("throughput_ratio", *_ratio(all_of_them, one)),
    ]
    for name, doors in (("one", 1), ("four", PROCESSES)):
        took = np.array([seconds for each in rounds[doors] for seconds in each.took])
        figures.append(Figure(f"p95_ms/{name}", percentile(took, 95) * 1000, "ms"))
    return [
        *figures,
        Figure("failed_requests", tally.failed, target=Target("≤", 0)),
        Figure("jobs", len(tally.jobs), note=f"conversations of {TURNS} turns each; a worker killed in the middle"),
        Figure("lost_turns", sum(each == 0 for each in turns), target=Target("≤", 0), note=f"of {len(turns):,}"),
        Figure("double_turns", sum(each > 1 for each in turns), target=Target("≤", 0)),
        Figure("lost_writes", lost, target=Target("≤", 0), note=f"of {len(tally.acknowledged):,} acknowledged"),
        Figure(
            "lost_updates",
            abs(tally.told - counted),
            target=Target("≤", 0),
            note=f"one fact told {tally.told} times counts as told {counted} times",
        ),
    ]


def _ratio(numerator: Any, denominator: Any) -> tuple[float, str, None, str]:
    """The median of the rounds' ratios, and its bootstrap interval."""
    ratios = numerator / denominator
    resampled = np.median(ratios[np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))], axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(np.median(ratios)), "×", None, f"{low:.2f} to {high:.2f}"


@asynccontextmanager
async def process(folder: Path, name: str, *command: str, **own: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """One process of the service in its folder; it is ended on leaving."""
    ours = {each.upper() for each in Settings.model_fields}
    environment = {each: value for each, value in os.environ.items() if each not in ours}
    environment |= {"DATA_DIR": str(folder / "data"), "LOG_DIR": str(folder / name), "PYTHONPATH": str(ROOT)}
    with (folder / f"{name}.out").open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", *command), cwd=folder, env=environment | own, stdout=out, stderr=out
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


@asynccontextmanager
async def served(folder: Path, number: int) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a service process that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name = f"service-{number}"
    async with (
        process(folder, name, "run", PORT=str(port), WORKER_INSIDE="false") as started,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        while started.returncode is None:
            with suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    break
            await asyncio.sleep(0.05)
        else:
            raise RuntimeError(f"the service ended:\n{(folder / f'{name}.out').read_text()[-2000:]}")
        yield client


async def fill(
    plan: Plan, said: sentences.Sentences, clients: Sequence[httpx.AsyncClient], tally: Tally, random: Random
) -> None:
    """Give every user some memories."""
    gate = asyncio.Semaphore(plan.in_flight)
    calls = []
    for number in range(plan.users):
        some = random.sample(said.memories, plan.memories)
        memories = [{"type": kind, "content": text} for kind, text in some]
        body = {"user_id": user(number), "memories": memories}
        calls.append(post(clients[number % len(clients)], gate, "/v1/memories", body, tally))
    calls.append(post(clients[0], gate, "/v1/memories", fact(), tally))
    tally.told += 1
    await asyncio.gather(*calls)


def user(number: int) -> str:
    """A user's id."""
    return f"user-{number:03}"


def fact() -> dict[str, Any]:
    """The same thing again."""
    return {
        "user_id": "user-000",
        "memories": [{"type": "PREFERENCE", "content": FACT, "confidence": CONFIDENCE}],
    }


def conversation(user_id: str, random: Random) -> dict[str, Any]:
    """Turns that nobody else says."""
    session = f"{random.getrandbits(64):x}"
    messages = [{"role": "user", "content": f"Parcel {session} passed stop {number}."} for number in range(TURNS)]
    return {"user_id": user_id, "session": session, "messages": messages}


async def post(
    client: httpx.AsyncClient, gate: asyncio.Semaphore, path: str, body: dict[str, Any], tally: Tally
) -> float:
    """Seconds of a request; what it promised or missed is in the tally."""
    async with gate:
        started = time.perf_counter()
        try:
            answer = await client.post(path, json=body)
        except httpx.HTTPError:
            tally.failed += 1
            return time.perf_counter() - started
        took = time.perf_counter() - started
    if answer.status_code not in {200, 202}:
        tally.failed += 1
    elif path == "/v1/memories/ingest":
        tally.jobs[answer.json()["job_id"]] = body["user_id"], body["session"]
    elif path == "/v1/memories":
        tally.acknowledged += answer.json()["ids"]
    return took


async def put_under_load(
    plan: Plan, said: sentences.Sentences, clients: Sequence[httpx.AsyncClient], tally: Tally, random: Random
) -> Round:
    """One round through these clients in turn."""
    gate = asyncio.Semaphore(plan.in_flight)
    calls = []
    for number in range(plan.requests):
        client, user_id, dice = clients[number % len(clients)], user(random.randrange(plan.users)), random.random()
        if dice < 0.7:
            body = {"user_id": user_id, "query": random.choice(said.queries)}
            calls.append(post(client, gate, "/v1/memories/search", body, tally))
        elif dice < 0.8:
            body = {"user_id": user_id, "input_text": random.choice(said.inputs)}
            calls.append(post(client, gate, "/v1/hypothesize", body, tally))
        elif dice < 0.82:
            calls.append(post(client, gate, "/v1/memories/ingest", conversation(user_id, random), tally))
        elif dice < 0.85:
            tally.told += 1
            calls.append(post(client, gate, "/v1/memories", fact(), tally))
        else:
            kind, text = random.choice(said.memories)
            body = {"user_id": user_id, "memories": [{"type": kind, "content": text}]}
            calls.append(post(client, gate, "/v1/memories", body, tally))
    started = time.perf_counter()
    took = await asyncio.gather(*calls)
    return Round(plan.requests / (time.perf_counter() - started), took)


async def lost_writes(plan: Plan, clients: Sequence[httpx.AsyncClient], tally: Tally) -> int:
    """How many acknowledged memories another process does not have."""
    gate = asyncio.Semaphore(plan.in_flight)

    async def is_there(number: int, memory_id: str) -> bool:
        async with gate:
            return (await clients[number % len(clients)].get(f"/v1/memories/{memory_id}")).status_code == 200

    found = await asyncio.gather(*(is_there(*each) for each in enumerate(sorted(set(tally.acknowledged)))))
    return found.count(False)


async def turns_of_jobs(clients: Sequence[httpx.AsyncClient], tally: Tally) -> list[int]:
    """How often each turn that was handed in is remembered, when all jobs are done. Raises TimeoutError."""
    async with asyncio.timeout(JOBS_S):
        for job_id in tally.jobs:
            while (await clients[0].get(f"/v1/jobs/{job_id}")).json()["state"] != "done":  # noqa: ASYNC110 - remote
                await asyncio.sleep(0.2)
    found: Counter[tuple[str, str]] = Counter()
    for user_id in sorted({user_id for user_id, _ in tally.jobs.values()}):
        cursor: str | None = ""
        while cursor is not None:
            query = {"user_id": user_id, "limit": 1000, "mtype": "HISTORY"} | ({"cursor": cursor} if cursor else {})
            page = (await clients[1].get("/v1/memories", params=query)).json()
            for memory in page["memories"]:
                found[memory["session"], memory["content"]] += memory["proof_count"]
            cursor = page["cursor"]
    return [
        found[session, f"Parcel {session} passed stop {number}."]
        for _, session in tally.jobs.values()
        for number in range(TURNS)
    ]


async def count_of_fact(client: httpx.AsyncClient) -> int:
    """How often the fact was told, by the service's own count."""
    body = {"user_id": "user-000", "query": FACT, "limit": 5}
    found = (await client.post("/v1/memories/search", json=body)).json()["results"]
    return next(item["memory"]["proof_count"] for item in found if item["memory"]["content"] == FACT)


if __name__ == "__main__":
    main()
