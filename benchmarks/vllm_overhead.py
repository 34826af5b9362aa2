"""What the service adds to a model: the time of /v1/hypothesize beyond the model's own, and its share of throughput.

    python -m benchmarks.vllm_overhead [--server SERVER]... [--data DIR] [--json FILE] [--results FILE] [--quick]

SERVER is `vllm` (the default: ./start_vllm.sh with local-models/smollm2-135m-instruct), `builtin` (llama.cpp with the
packaged model), `stub` (no model: a recorded answer at a graphics card's pace) or the address of a server that runs
already (`http://host:8000/v1`, its model in VLLM_MODEL_NAME, its key in SLM_API_KEY). Given several times, the
figures of the first have plain names, those of the others begin with the server's.

The service is the real one, `embed-service run` with SLM_IMPL=vllm, a process of its own with its embedded database
and 16 users with 12 memories each. Between it and the model a relay notes when bytes pass. So the model's time
within a request is known exactly: from the first byte of a request to the last of its answer, of the readings' and then
of their weighing, whose orders are asked about at once. What is left of the
request's latency is the service's, whatever the model chose to say and however long that took. The relay's own work
and the caller's are in it, too.

Beside that, the same bytes go straight to the model: each request that the service sent was recorded, and is sent
again by a client that does nothing but wait for the end of the answer. Both kinds run in turns, in alternating order,
one at a time, through the same relay, so that the server's prefix cache helps both alike. Sampled answers differ in
length, so that comparison is per token written.

Throughput is that of 16 users at once, each with one request in flight, without the relay: a pass through the
service, a pass straight to the model, in alternating order, the same requests in both. A pass ends with its longest
answer: with a model that samples, passes differ for that alone.
"""

import argparse
import asyncio
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from html import unescape
from pathlib import Path
from random import Random

import numpy as np
import orjson
import uvloop
from rich.console import Console
from rich.progress import Progress

from app.domain.memory import MemoryType
from app.domain.redaction import redact
from app.logs import configure_logs
from benchmarks import sentences
from benchmarks.model_servers import (
    ModelServer,
    Reply,
    Tap,
    Usage,
    Wire,
    body_of,
    covered_s,
    running_service,
    serving,
    usage_of,
)
from benchmarks.report import (
    Figure,
    Seconds,
    Target,
    arguments,
    describe_machine,
    new_progress,
    percentile,
    publish,
)

USERS = 16
"""At once. Each has memories and inputs of their own."""
MEMORIES = 12
"""Of one user: as many as a prompt holds."""

ALLOWED_MS = 5.0
ALLOWED_SHARE = 0.02
"""What the service may add: so much, and this share of the model's time."""

LEAST_THROUGHPUT = 0.95

LABEL = 1
"""Tokens of an answer that weighs readings; those are left out of what a model wrote, both ways."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: `rounds` of a request each way, one at a time; `passes` each way of `per_user` requests
    of every user at once, after `warm_up` such passes. A model on the processor takes its time."""

    rounds: int
    passes: int
    per_user: int
    warm_up: int = 1


@dataclass(frozen=True)
class Case:
    """Who asks what, and the requests that the service then sends to the model, byte for byte: for readings, and, once
    it has them, all at once, to weigh them."""

    user_id: str
    input_text: str
    request: bytes = b""
    weighing: tuple[bytes, ...] = ()

    @property
    def body(self) -> dict[str, object]:
        """Of the request to the service."""
        return {"user_id": self.user_id, "input_text": self.input_text}


@dataclass(frozen=True)
class Served:
    """One request through the service: all it took, the model's part of it, and the service's parts before the first
    model call, after the last, and between them, in seconds."""

    total_s: float
    model_s: float
    before_s: float
    after_s: float
    usage: Usage
    is_degraded: bool
    is_same_prompt: bool

    @property
    def overhead_s(self) -> float:
        """What the service took."""
        return self.total_s - self.model_s


@dataclass(frozen=True)
class Pass:
    """16 users at once, one way."""

    seconds: float
    requests: int
    tokens: float
    degraded: int = 0


def main() -> None:
    """Run the benchmark."""
    servers, rest = own_arguments()
    options = arguments(__doc__, rest)
    machine = describe_machine(("openai", "httpx2", "fastapi", "uvicorn", "uvloop"))
    random = Random(1)
    said = sentences.from_data(options.data, random, 3000) if options.data else sentences.from_templates(random, 3000)
    figures: list[Figure] = []
    for number, kind in enumerate(servers):
        folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
        folder.chmod(0o711)  # a database server that is not root has to reach its files
        configure_logs(folder / "logs", "WARNING", to_stdout=False)
        prefix = "" if number == 0 else f"{server_name(kind)}/"
        try:
            with new_progress(Console(stderr=True)) as progress:
                figures += uvloop.run(run(kind, prefix, plan_for(kind, options.quick), said, folder, progress, machine))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    source = "LoCoMo and ClariQ" if options.data else "templates"
    note = (
        f"Memories and inputs from {source}. All processes share the machine: where the model computes on its "
        "processor, what the service uses is taken from the model, and the other way round. Intervals are 95 % ones."
        f"{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "What the service adds to a model", figures, machine, note)


def own_arguments(argv: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """The servers to measure, and the arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--server", action="append", default=None)
    options, rest = parser.parse_known_args(argv)
    servers: list[str] = options.server or ["vllm"]
    for each in servers:
        if each not in {"vllm", "builtin", "stub"} and not each.startswith(("http://", "https://")):
            raise SystemExit(f"--server {each}: vllm, builtin, stub or an http:// address")
    return servers, rest


def server_name(kind: str) -> str:
    """A server as a part of a figure's path."""
    return "server" if "://" in kind else kind


def plan_for(kind: str, is_quick: bool) -> Plan:
    """How much is measured with a server."""
    if is_quick:
        return Plan(2, 1, 1, 0)
    return {"builtin": Plan(12, 2, 1, 0), "vllm": Plan(8, 2, 2, 0)}.get(kind, Plan(40, 3, 8))


async def run(
    kind: str,
    prefix: str,
    plan: Plan,
    said: sentences.Sentences,
    folder: Path,
    progress: Progress,
    machine: dict[str, str],
) -> list[Figure]:
    """All figures with one server."""
    random = Random(2)
    async with serving(kind, folder) as server:
        machine[f"model server{f' ({prefix[:-1]})' if prefix else ''}"] = server.about
        async with Tap(server.base_url).listening() as tap, running_service(folder, tap.base_url, server) as address:
            cases = await prepare(said, address, tap, random)
            served, direct = await measure_latency(plan, cases, address, tap, progress)
        async with running_service(folder, server.base_url, server) as address:
            passes = await measure_throughput(plan, cases, address, server, progress)
    figures = [*latency_figures(served, direct), *throughput_figures(passes)]
    return [Figure(prefix + one.path, one.value, one.unit, one.target, one.note) for one in figures]


async def prepare(said: sentences.Sentences, address: str, tap: Tap, random: Random) -> list[Case]:
    """Users with memories, and for each an input with the recorded request; the server has read every prompt then."""
    plain = [text for text in dict.fromkeys(said.inputs) if redact(text).text == text]
    cases = [Case(f"user-{number:02d}", text) for number, text in enumerate(random.sample(plain, USERS))]
    async with wires(address, USERS) as opened:
        for wire, case in opened(cases):
            drawn = random.sample(said.memories, MEMORIES)
            memories = [{"type": MemoryType(kind).value, "content": text} for kind, text in drawn]
            checked(await wire.post("/v1/memories", {"user_id": case.user_id, "memories": memories}))
        tap.taken()
        await all_at_once([partial(wire.post, "/v1/hypothesize", case.body) for wire, case in opened(cases)], 1)
    requests: dict[str, list[bytes]] = defaultdict(list)
    for each in tap.taken():
        requests[asked_in(each.request)].append(bytes(each.request))
    if missing := [case.input_text for case in cases if case.input_text not in requests]:
        raise SystemExit(f"the service asked no model about {missing}: see whether the server answers")
    recorded = {case: requests[case.input_text] for case in cases}
    return [replace(case, request=first, weighing=tuple(others)) for case, (first, *others) in recorded.items()]


def asked_in(request: bytes) -> str:
    """The user's input in a recorded request to a model."""
    body = orjson.loads(body_of(bytes(request)))
    said = body["messages"][1]["content"] if "messages" in body else str(body.get("state") or body.get("input"))
    found = re.search(r"<input>(.*)</input>", said, re.DOTALL)
    return unescape(found[1]) if found else ""


async def measure_latency(
    plan: Plan, cases: Sequence[Case], address: str, tap: Tap, progress: Progress
) -> tuple[list[Served], list[tuple[Reply, float]]]:
    """Rounds of one request through the service and one straight to the model, for the same prompt; the direct ones
    with the seconds of the exchange on the wire."""
    served: list[Served] = []
    direct: list[tuple[Reply, float]] = []
    service = Wire(address)
    model = [Wire(tap.base_url) for _ in range(1 + max(len(case.weighing) for case in cases))]

    async def through(case: Case) -> None:
        tap.taken()
        started = time.perf_counter()
        reply = checked(await service.post("/v1/hypothesize", case.body))
        served.append(as_served(case, started, reply, tap))

    async def straight(case: Case) -> None:
        tap.taken()
        reply = await ask_straight(model, case)
        direct.append((reply, covered_s(tap.taken())))

    bar = progress.add_task("one at a time", total=plan.rounds)
    for number in range(plan.rounds):
        case = cases[number % len(cases)]
        # The second of the two finds its prompt in the server's cache, so each comes first as often as the other.
        for ask in (through, straight) if number % 2 else (straight, through):
            await ask(case)
        progress.advance(bar)
    for wire in (service, *model):
        await wire.aclose()
    return served, direct


async def ask_straight(opened: Sequence[Wire], case: Case) -> Reply:
    """The answer to a case's first request, with the seconds of the weighing after it in it, too."""
    first = checked(await opened[0].send(case.request))
    asks = [wire.send(each) for wire, each in zip(opened[1:], case.weighing, strict=False)]
    started = time.perf_counter()
    for each in await asyncio.gather(*asks):
        checked(each)
    return replace(first, seconds=first.seconds + time.perf_counter() - started)


def as_served(case: Case, started: float, reply: Reply, tap: Tap) -> Served:
    """What one request through the service was made of."""
    exchanges = tap.taken()
    if not exchanges:
        raise SystemExit("the service asked no model: its breaker may be open, see whether the server answers")
    usages = [usage_of(body_of(bytes(each.answer))) for each in exchanges]
    return Served(
        total_s=reply.seconds,
        model_s=covered_s(exchanges),
        before_s=exchanges[0].began - started,
        after_s=started + reply.seconds - exchanges[-1].ended,
        usage=Usage(
            sum(each.prompt for each in usages), sum(each.completion for each in usages if each.completion > LABEL)
        ),
        is_degraded=orjson.loads(reply.body)["degraded"],
        is_same_prompt=body_of(bytes(exchanges[0].request)) == body_of(case.request),
    )


async def measure_throughput(
    plan: Plan, cases: Sequence[Case], address: str, server: ModelServer, progress: Progress
) -> dict[str, list[Pass]]:
    """Passes of all users at once, through the service and straight to the model, in alternating order."""
    passes: dict[str, list[Pass]] = defaultdict(list)
    ways = ["service", "model"]
    bar = progress.add_task(f"{USERS} users at once", total=2 * (plan.warm_up + plan.passes))
    for number in range(plan.warm_up + plan.passes):
        for way in ways if number % 2 else ways[::-1]:
            if way == "service":
                done = await through_service(cases, address, plan.per_user)
            else:
                done = await straight_to_model(cases, server.base_url, plan.per_user)
            if number >= plan.warm_up:
                passes[way].append(done)
            progress.advance(bar)
    return passes


async def through_service(cases: Sequence[Case], address: str, per_user: int) -> Pass:
    """Every user's requests through the service; its own counters say how many tokens were written."""
    before = await written_tokens(address)
    async with wires(address, len(cases)) as opened:
        seconds, replies = await all_at_once(
            [partial(wire.post, "/v1/hypothesize", case.body) for wire, case in opened(cases)], per_user
        )
    degraded = sum(orjson.loads(reply.body)["degraded"] for reply in replies)
    return Pass(seconds, len(replies), await written_tokens(address) - before, degraded)


async def straight_to_model(cases: Sequence[Case], base_url: str, per_user: int) -> Pass:
    """The same prompts straight to the model."""
    most = 1 + max(len(case.weighing) for case in cases)
    rows = [[Wire(base_url) for _ in range(most)] for _ in cases]
    try:
        asks = [partial(ask_straight, row, case) for row, case in zip(rows, cases, strict=True)]
        seconds, replies = await all_at_once(asks, per_user)
    finally:
        for wire in (each for row in rows for each in row):
            await wire.aclose()
    return Pass(seconds, len(replies), sum(usage_of(reply.body).completion for reply in replies))


@asynccontextmanager
async def wires(address: str, count: int) -> AsyncGenerator[Callable[[Sequence[Case]], list[tuple[Wire, Case]]]]:
    """A connection for every user."""
    opened = [Wire(address) for _ in range(count)]
    try:
        yield lambda cases: list(zip(opened, cases, strict=True))
    finally:
        for wire in opened:
            await wire.aclose()


async def all_at_once(asks: Sequence[Callable[[], Awaitable[Reply]]], per_user: int) -> tuple[float, list[Reply]]:
    """Each of `asks` so many times in a row, all rows at once; how long that took, and the answers."""

    async def row(ask: Callable[[], Awaitable[Reply]]) -> list[Reply]:
        return [checked(await ask()) for _ in range(per_user)]

    started = time.perf_counter()
    replies = await asyncio.gather(*map(row, asks))
    return time.perf_counter() - started, [reply for each in replies for reply in each]


async def written_tokens(address: str) -> float:
    """The tokens that models have written for the service so far."""
    wire = Wire(address)
    text = checked(await wire.get("/metrics")).body.decode()
    await wire.aclose()
    return counted_tokens(text)


def counted_tokens(exposition: str) -> float:
    """The completion tokens in Prometheus' text format."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in exposition.splitlines()
        if line.startswith("embed_service_slm_tokens_total{") and 'kind="completion"' in line
    )


def checked(reply: Reply) -> Reply:
    """An answer, if it is one."""
    if reply.status != 200:
        raise SystemExit(f"a request was answered with {reply.status}: {reply.body[:400].decode(errors='replace')}")
    return reply


def latency_figures(served: Sequence[Served], direct: Sequence[tuple[Reply, float]]) -> list[Figure]:
    """What one request takes, and of what."""
    total = np.array([one.total_s for one in served])
    model = np.array([one.model_s for one in served])
    overhead = np.array([one.overhead_s for one in served])
    allowed = ALLOWED_MS + ALLOWED_SHARE * 1000 * percentile(model, 50)
    straight = np.array([reply.seconds for reply, _ in direct])
    floor = straight - np.array([seconds for _, seconds in direct])
    written = np.array([one.usage.completion for one in served])
    written_straight = np.array([usage_of(reply.body).completion for reply, _ in direct])
    same = sum(one.is_same_prompt for one in served) / len(served)
    prompts = f"{np.mean([one.usage.prompt for one in served]):.0f} tokens read"
    degraded = sum(one.is_degraded for one in served)
    low, high = interval(overhead)
    return [
        *milliseconds("hypothesize", total, f"{prompts}, {written.mean():.0f} written; {degraded} degraded"),
        *milliseconds("model", model, "of these, on the wire to the model"),
        Figure(
            "hypothesize/overhead_ms/p50",
            1000 * percentile(overhead, 50),
            "ms",
            Target("≤", round(allowed, 2)),
            f"5 ms + 2 % of the model's p50; {1000 * low:.1f} to {1000 * high:.1f}",
        ),
        Figure("hypothesize/overhead_ms/p95", 1000 * percentile(overhead, 95), "ms"),
        Figure(
            "hypothesize/before_ms/p50",
            1000 * median([one.before_s for one in served]),
            "ms",
            note="until the model is called",
        ),
        Figure(
            "hypothesize/after_ms/p50",
            1000 * median([one.after_s for one in served]),
            "ms",
            note="from its last byte on",
        ),
        *milliseconds("direct", straight, f"the same prompts; {written_straight.mean():.0f} tokens written"),
        Figure("direct/overhead_ms/p50", 1000 * percentile(floor, 50), "ms", note="the measurement's own part"),
        Figure("prompt/same_share", same, note="of the prompts were the recorded ones, byte for byte"),
        *per_token(total, written, straight, written_straight),
    ]


def per_token(total: Seconds, written: Seconds, straight: Seconds, written_straight: Seconds) -> list[Figure]:
    """Milliseconds per written token both ways, where the server counts tokens."""
    if not written.sum() or not written_straight.sum():
        return []
    through, without = total.sum() / written.sum(), straight.sum() / written_straight.sum()
    draws = np.random.default_rng(0).integers(0, len(total), (2000, len(total)))
    ratios = (total[draws].sum(1) / written[draws].sum(1)) / (straight[draws].sum(1) / written_straight[draws].sum(1))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return [
        Figure("hypothesize/ms_per_token", 1000 * through, "ms"),
        Figure("direct/ms_per_token", 1000 * without, "ms"),
        Figure("hypothesize/per_token_ratio", through / without, "×", note=f"{low:.3f} to {high:.3f}"),
    ]


def throughput_figures(passes: dict[str, list[Pass]]) -> list[Figure]:
    """What 16 users at once get, both ways."""
    service, model = passes["service"], passes["model"]
    rates = {way: sum(one.requests for one in done) / sum(one.seconds for one in done) for way, done in passes.items()}
    tokens = {way: sum(one.tokens for one in done) / sum(one.seconds for one in done) for way, done in passes.items()}
    each = [a.requests / a.seconds / (b.requests / b.seconds) for a, b in zip(service, model, strict=True)]
    degraded = sum(one.degraded for one in service)
    count = f"{sum(one.requests for one in service)} requests in {len(service)} passes each way"
    figures = [
        Figure(f"hypothesize/per_second/{USERS}", rates["service"], "1/s", note=f"{count}; {degraded} degraded"),
        Figure(f"direct/per_second/{USERS}", rates["model"], "1/s"),
        Figure(
            f"throughput_ratio/{USERS}",
            rates["service"] / rates["model"],
            "×",
            Target("≥", LEAST_THROUGHPUT),
            f"requests; pass by pass {min(each):.2f} to {max(each):.2f}",
        ),
    ]
    if tokens["service"] and tokens["model"]:
        figures += [
            Figure(f"hypothesize/tokens_per_second/{USERS}", tokens["service"], "1/s"),
            Figure(f"direct/tokens_per_second/{USERS}", tokens["model"], "1/s"),
            Figure(f"token_throughput_ratio/{USERS}", tokens["service"] / tokens["model"], "×", note="tokens written"),
        ]
    return figures


def milliseconds(name: str, times: Seconds, note: str) -> list[Figure]:
    """Median and 95th percentile."""
    return [
        Figure(f"{name}/p50_ms", 1000 * percentile(times, 50), "ms", note=note),
        Figure(f"{name}/p95_ms", 1000 * percentile(times, 95), "ms"),
    ]


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return float(np.median(values))


def interval(times: Seconds) -> tuple[float, float]:
    """The 95 % interval of the median, by bootstrap over rounds."""
    draws = np.random.default_rng(0).integers(0, len(times), (2000, len(times)))
    low, high = np.percentile(np.median(times[draws], axis=1), [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
