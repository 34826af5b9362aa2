"""What the chat proxy adds to a stream: the time to its first token, and the pace of the tokens after it.

    python -m benchmarks.proxy_overhead [--server SERVER] [--data DIR] [--json FILE] [--results FILE] [--quick]

SERVER is `stub` (the default: no model, a recorded answer at a graphics card's pace), `builtin` (llama.cpp with the
packaged model, on the processor that the service uses too) or the address of a server that runs already.

The service is the real one, `embed-service run` with that server as its upstream, a process of its own with its
embedded database and 16 users with 30 memories each. Every request is a conversation of a system message and a
question that is no reason to ask back; it goes through the proxy with memory on, and straight to the server, in
turns, in alternating order: one at a time, then from 16 clients that each begin at a moment of their own within a
second. What is added is the difference of the percentiles of the seconds from a request's first byte to its answer's
first event; the pace is that of the events after the first. Beside that,
one embedding of a question over HTTP (`POST /v1/embeddings`) is timed in the same turns: memory costs at least one.
On another machine the milliseconds say little; `ttft_ratio` is what is added in such embeddings, and may be what the
15 ms are of the 4.4 ms that one took where they were set: 3.4.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.domain.memory import MemoryType
from app.logs import configure_logs
from benchmarks import sentences
from benchmarks.model_servers import ModelServer, Wire, running_service, serving
from benchmarks.report import Figure, Target, arguments, describe_machine, new_progress, percentile, publish

CLIENTS = 16
MEMORIES = 30
ALLOWED_MS = 15.0
EMBEDDING_MS = 4.4
"""What one embedding took, in the process and on a quiet machine, where `ALLOWED_MS` was set."""
ALLOWED_EMBEDDINGS = round(ALLOWED_MS / EMBEDDING_MS, 1)
LEAST_PACE = 0.98
SYSTEM = "You are a helpful assistant. Answer in a few sentences."
MAX_TOKENS = 48

SPREAD_S = 1.0
"""Clients come when they come: 16 requests in the same millisecond would measure a queue."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: `rounds` of a request each way one at a time, `passes` each way of all clients at once;
    after `warm_up` of either."""

    rounds: int
    passes: int
    warm_up: int


@dataclass(frozen=True)
class Stream:
    """A streamed answer: seconds to its first event, and events per second after it."""

    first_s: float
    pace: float


@dataclass(frozen=True)
class Case:
    """A user, and what they ask."""

    user_id: str
    question: str


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--server", default="stub")
    own, rest = parser.parse_known_args()
    options = arguments(__doc__, rest)
    machine = describe_machine(("httpx2", "fastapi", "uvicorn", "uvloop"))
    random = Random(1)
    said = sentences.from_data(options.data, random, 3000) if options.data else sentences.from_templates(random, 3000)
    plan = Plan(3, 1, 1) if options.quick else Plan(60, 6, 3) if own.server == "stub" else Plan(20, 2, 1)
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    configure_logs(folder / "logs", "WARNING", to_stdout=False)
    try:
        with new_progress(Console(stderr=True)) as progress:
            figures = uvloop.run(run(own.server, plan, said, folder, progress, machine))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    note = (
        f"{plan.rounds} requests each way one at a time, {plan.passes} passes each way of {CLIENTS} clients at once. "
        "`ttft_ratio` is what the proxy adds in embeddings of one text over HTTP, timed in the same turns. Its target "
        f"is that of `ttft_ms` on the machine it was set for: {ALLOWED_MS:g} ms, where one embedding took "
        f"{EMBEDDING_MS} ms, are {ALLOWED_EMBEDDINGS} of them."
    )
    publish(options, "What the chat proxy adds", figures, machine, note)


async def run(
    kind: str, plan: Plan, said: sentences.Sentences, folder: Path, progress: Progress, machine: dict[str, str]
) -> list[Figure]:
    """All figures with one server."""
    async with serving(kind, folder) as server:
        machine["model server"] = server.about
        settings = {"SLM_IMPL": "local", "UPSTREAM_BASE_URL": server.base_url, "UPSTREAM_API_KEY": server.api_key or ""}
        async with running_service(folder, server.base_url, server, settings) as address:
            cases = await prepare(said, address)
            one, embeddings = await one_at_a_time(plan, cases, address, server, progress)
            many = await all_at_once(plan, cases, address, server, progress)
    embedding_ms = 1000 * percentile(np.array(embeddings), 50)
    return [
        Figure("embedding_ms/p50", embedding_ms, "ms", note="one text over HTTP, in the same turns"),
        *figures_of(one, 1, embedding_ms),
        *figures_of(many, CLIENTS, embedding_ms),
    ]


async def prepare(said: sentences.Sentences, address: str) -> list[Case]:
    """Users with memories, each with a question that is asked in a whole sentence."""
    random = Random(2)
    inputs = [text for text in dict.fromkeys(said.inputs) if len(text) < 200]
    cases = [
        Case(
            f"user-{number:02d}", f"I have thought about this for a while: {text}. What would you do about it, and why?"
        )
        for number, text in enumerate(random.sample(inputs, CLIENTS))
    ]
    wire = Wire(address)
    for case in cases:
        drawn = random.sample(said.memories, MEMORIES)
        memories = [{"type": MemoryType(kind).value, "content": text} for kind, text in drawn]
        reply = await wire.post("/v1/memories", {"user_id": case.user_id, "memories": memories})
        if reply.status != 200:
            raise SystemExit(f"the service did not take the memories: {reply.body[:300]!r}")
    await wire.aclose()
    return cases


class ChatWire:
    """A kept-alive connection that asks for streams and notes when events come."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        parts = urlsplit(base_url)
        self._host, self._port, self._path = str(parts.hostname), parts.port or 80, parts.path
        self._headers = f"authorization: Bearer {key}\r\n" if key else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, case: Case, model: str, delay_s: float = 0.0) -> Stream:
        """One streamed answer, asked for after a while."""
        await asyncio.sleep(delay_s)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": case.question}]
        fields = {"model": model, "messages": messages, "stream": True, "temperature": 0, "max_tokens": MAX_TOKENS}
        body = json.dumps({**fields, "user": case.user_id}).encode()
        head = f"POST {self._path}/chat/completions HTTP/1.1\r\nhost: {self._host}\r\n{self._headers}"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**20)
        reader, writer = self._streams
        started = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            raise SystemExit(f"{self._host}:{self._port} answered {answer[:200]!r}")
        seen = bytearray()
        first = last = 0.0
        while not seen.endswith(b"0\r\n\r\n"):
            piece = await reader.read(2**16)
            if not piece:
                raise SystemExit("an answer broke off")
            seen += piece
            last = time.perf_counter()
            if not first and b"data: " in seen:
                first = last
        events = seen.count(b"data: {")
        return Stream(first - started, (events - 1) / (last - first))

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


Measured = dict[str, list[Stream]]


async def one_at_a_time(
    plan: Plan, cases: Sequence[Case], address: str, server: ModelServer, progress: Progress
) -> tuple[Measured, list[float]]:
    """Rounds of a request through the proxy, one straight to the server, and one embedding."""
    wires = {"proxy": ChatWire(f"{address}/v1"), "direct": ChatWire(server.base_url, server.api_key)}
    embedding = Wire(address)
    measured: Measured = {"proxy": [], "direct": []}
    seconds: list[float] = []
    bar = progress.add_task("one at a time", total=plan.warm_up + plan.rounds)
    for number in range(plan.warm_up + plan.rounds):
        case = cases[number % len(cases)]
        for way in ("proxy", "direct") if number % 2 else ("direct", "proxy"):
            took = await wires[way].ask(case, server.model or "")
            if number >= plan.warm_up:
                measured[way].append(took)
        reply = await embedding.post("/v1/embeddings", {"input": case.question})
        if number >= plan.warm_up:
            seconds.append(reply.seconds)
        progress.advance(bar)
    for wire in wires.values():
        wire.close()
    await embedding.aclose()
    return measured, seconds


async def all_at_once(
    plan: Plan, cases: Sequence[Case], address: str, server: ModelServer, progress: Progress
) -> Measured:
    """Passes of all clients, each with a connection of its own and beginning when it likes."""
    measured: Measured = {"proxy": [], "direct": []}
    wires = {
        "proxy": [ChatWire(f"{address}/v1") for _ in cases],
        "direct": [ChatWire(server.base_url, server.api_key) for _ in cases],
    }
    random = Random(3)
    bar = progress.add_task(f"{CLIENTS} clients at once", total=plan.warm_up + plan.passes)
    for number in range(plan.warm_up + plan.passes):
        for way in ("proxy", "direct") if number % 2 else ("direct", "proxy"):
            delays = [random.uniform(0, SPREAD_S) for _ in cases]
            asked = (
                wire.ask(case, server.model or "", delay)
                for wire, case, delay in zip(wires[way], cases, delays, strict=True)
            )
            took = await asyncio.gather(*asked)
            for wire in wires[way]:
                wire.close()  # until their next turn a server may have done so
            if number >= plan.warm_up:
                measured[way] += took
        progress.advance(bar)
    return measured


def figures_of(measured: Measured, clients: int, embedding_ms: float) -> list[Figure]:
    """What is added to the first token, and the share of the pace that is left."""
    first = {way: 1000 * np.array([each.first_s for each in streams]) for way, streams in measured.items()}
    pace = {way: float(np.median([each.pace for each in streams])) for way, streams in measured.items()}
    figures: list[Figure] = []
    for rank in (50, 95):
        proxy, direct = percentile(first["proxy"], rank), percentile(first["direct"], rank)
        target = Target("≤", ALLOWED_MS) if rank == 50 else None
        note = f"{proxy:.1f} through the proxy, {direct:.1f} directly"
        figures.append(Figure(f"ttft_ms/p{rank}/{clients}", proxy - direct, "ms", target, note))
        if rank == 50:
            added, most = (proxy - direct) / embedding_ms, Target("≤", ALLOWED_EMBEDDINGS)
            figures.append(Figure(f"ttft_ratio/p50/{clients}", added, "embeddings", most))
    note = f"{pace['proxy']:.1f} events/s through the proxy, {pace['direct']:.1f} directly"
    figures.append(Figure(f"stream_ratio/{clients}", pace["proxy"] / pace["direct"], "", Target("≥", LEAST_PACE), note))
    return figures


if __name__ == "__main__":
    main()
