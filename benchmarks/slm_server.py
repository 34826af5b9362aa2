"""The SLM server: do embeddings wait for chat, is the chat's cache kept, how much memory does it take?

    python -m benchmarks.slm_server --models DIR [--gguf FILE]... [--embedding DIR]... [--data DIR]
                                    [--json FILE] [--results FILE] [--quick]

`--models` is a folder that scripts/download.sh filled; `--gguf` and `--embedding` name further models whose memory is
measured with the others. The server runs as a process of its own, the client on the same machine.

Latency: single short texts, one after the other with 20 ms between them, while the chat is idle, while an answer of
256 tokens streams, and while a prompt of some 700 tokens is read. The three take turns, round by round. The server
has both cores, or one (`one_core`, the pod's limit; the client has the other one), and its chat threads have the
niceness that the name says.

Cache: a first turn with a long system prompt, then either nothing or 200 texts to embed, then the second turn. `read`
is how many tokens of it llama.cpp had to read.

Memory: the server without models, with one and with both, from its start over two chats that fill the
context and 128 texts of full length. RSS is the highest the kernel saw; PSS, and how much of RSS is mapped from
files and can be dropped at any time, are sampled every 0.2 s.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import numpy as np
from rich.console import Console

from benchmarks.model_servers import ROOT, Reply, Wire, free_port
from benchmarks.report import Figure, Target, describe_machine, percentile, publish, ratio
from benchmarks.sentences import from_data, from_templates

ANSWER_TOKENS = 256
PAUSE_S = 0.02
LATENCY_GOAL = 2.0
MEMORY_GOAL_MB = 1024.0

VARIANTS: Mapping[str, tuple[Sequence[int] | None, Mapping[str, str]]] = {
    "both_cores": (None, {}),
    "both_cores/nice_0": (None, {"CHAT__NICENESS": "0"}),
    "one_core": ((0,), {}),
    "one_core/nice_0": ((0,), {"CHAT__NICENESS": "0"}),
}
"""The cores of the server (None: all there are) and its settings."""

_LOG = Console(stderr=True)


@asynccontextmanager
async def running(
    models: Path, settings: Mapping[str, str] | None = None, cores: Sequence[int] | None = None
) -> AsyncGenerator[tuple[str, int]]:
    """The server as a process of its own; its address and its process id."""
    port = free_port()
    ours = ("HOST", "PORT", "MODELS_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in ours and "__" not in name}
    wanted = {"PORT": str(port), "MODELS_DIR": str(models), "OMP_NUM_THREADS": "1", **(settings or {})}
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    process = await asyncio.create_subprocess_exec(
        *pinned,
        sys.executable,
        ROOT / "scripts" / "serve_slm.py",
        env={**kept, **wanted},
        stdout=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient() as client, asyncio.timeout(60):
            while True:
                try:
                    await client.get(f"{address}/healthz")
                    break
                except httpx2.HTTPError:
                    await asyncio.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        await process.wait()


async def chat(address: str, words: str, tokens: int, *, stream: bool = False, **more: Any) -> Reply:
    """One chat whose answer has exactly so many tokens."""
    messages = more.pop("messages", None) or [{"role": "user", "content": words}]
    wire = Wire(address)
    body = {"messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": stream, **more}
    reply = await wire.post("/v1/chat/completions", body)
    await wire.aclose()
    if reply.status != 200:
        raise SystemExit(f"the server answered with status {reply.status}: {reply.body[:300]!r}")
    return reply


async def embed(wire: Wire, text: str) -> float:
    """The seconds one text takes."""
    reply = await wire.post("/v1/embeddings", {"input": text, "encoding_format": "base64"})
    if reply.status != 200:
        raise SystemExit(f"the server answered with status {reply.status}: {reply.body[:300]!r}")
    return reply.seconds


async def embed_until(wire: Wire, texts: Callable[[], str], is_over: Callable[[], bool]) -> list[float]:
    """The seconds of every text, one after the other with a pause, until it is over."""
    times: list[float] = []
    while not is_over():
        times.append(await embed(wire, texts()))
        await asyncio.sleep(PAUSE_S)
    return times


async def latency(name: str, models: Path, texts: Sequence[str], rounds: int) -> list[Figure]:
    """How long embeddings take in one variant: idle, while an answer streams, while a prompt is read."""
    cores, settings = VARIANTS[name]
    others = set(os.sched_getaffinity(0)) - set(cores or ())
    before = os.sched_getaffinity(0)
    numbers, draw = count(), Random(0)
    took: dict[str, list[float]] = {"idle": [], "answer": [], "prompt": []}
    speeds: list[float] = []

    def text() -> str:
        return draw.choice(texts)

    async with running(models, settings, cores) as (address, _):
        os.sched_setaffinity(0, others or before)
        wire = Wire(address)
        try:
            await embed_until(wire, text, lambda: next(numbers) > 30)
            await chat(address, "Hello.", 8)
            for number in range(rounds):
                left = iter(range(100))
                took["idle"] += await embed_until(wire, text, lambda left=left: next(left, None) is None)
                working = asyncio.create_task(chat(address, f"Story {number}.", ANSWER_TOKENS, stream=True))
                await asyncio.sleep(0.5)
                took["answer"] += await embed_until(wire, text, working.done)
                speeds.append(ANSWER_TOKENS / (await working).seconds)
                prompt = f"{number} " + " ".join(draw.choice(texts) for _ in range(45))
                working = asyncio.create_task(chat(address, prompt, 1))
                took["prompt"] += await embed_until(wire, text, working.done)
                await working
        finally:
            await wire.aclose()
            os.sched_setaffinity(0, before)
    figures: list[Figure] = []
    idle = np.array(took["idle"])
    for phase, times in took.items():
        each = np.array(times)
        note = f"{len(each)} texts"
        figures.append(Figure(f"latency/{name}/{phase}/p50_ms", 1000 * percentile(each, 50), "ms", note=note))
        figures.append(Figure(f"latency/{name}/{phase}/p95_ms", 1000 * percentile(each, 95), "ms", note=note))
        if phase != "idle":
            shared = min(len(each), len(idle))
            value, interval = ratio(each[:shared], idle[:shared], 95)
            target = Target("≤", LATENCY_GOAL) if phase == "answer" else None
            figures.append(Figure(f"latency/{name}/{phase}/p95_ratio", value, "×", target, interval))
    figures.append(Figure(f"latency/{name}/chat_tokens_per_s", float(np.mean(speeds)), "/s", note="beside embeddings"))
    return figures


async def cache(models: Path, texts: Sequence[str]) -> list[Figure]:
    """What of a second turn has to be read again, with and without embeddings before it."""
    figures: list[Figure] = []
    for name, embeds in (("alone", 0), ("after_200_embeddings", 200)):
        async with running(models) as (address, _):
            system = "You help a baker. " + " ".join(texts[:40])
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "What sells best?"}]
            first = json.loads((await chat(address, "", 32, messages=messages)).body)
            wire = Wire(address)
            for number in range(embeds):
                await embed(wire, texts[number % len(texts)])
            await wire.aclose()
            said = first["choices"][0]["message"]["content"]
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And why?"}]
            second = json.loads((await chat(address, "", 4, messages=messages)).body)
        timings, tokens = second["timings"], second["usage"]["prompt_tokens"]
        note = f"of {tokens}; the first turn read {first['timings']['prompt_n']}"
        figures.append(Figure(f"cache/{name}/second_turn_read", timings["prompt_n"], "tokens", note=note))
        figures.append(Figure(f"cache/{name}/second_turn_prefill_ms", timings["prompt_ms"], "ms"))
    return figures


async def memory(name: str, models: Path, settings: Mapping[str, str], texts: Sequence[str]) -> list[Figure]:
    """The peaks of a server under load of what it has."""
    long = [" ".join(texts[start : start + 30]) for start in range(0, 960, 30)]
    async with running(models, settings) as (address, pid):
        samples: list[dict[str, float]] = []

        async def sample() -> None:
            while True:
                samples.append(memory_of(pid))
                await asyncio.sleep(0.2)

        sampling = asyncio.create_task(sample())
        await asyncio.sleep(1)
        async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
            missing = (await client.get("/healthz")).json()["missing"]
            work: list[Any] = []
            if "chat" not in missing:
                work += [chat(address, f"{number} {' '.join(texts[:90])}", 100) for number in range(2)]
            if "embedding" not in missing:
                work += [client.post("/v1/embeddings", json={"input": long}) for _ in range(4)]
            await asyncio.gather(*work)
        sampling.cancel()
        peak = peak_rss_mb(pid)
    target = Target("≤", MEMORY_GOAL_MB) if not missing else None
    highest = {key: max(each[key] for each in samples) for key in samples[0]}
    dropped = f"of it mapped from files {highest['file']:.0f}"
    return [
        Figure(f"memory/{name}/peak_rss_mb", peak, "MiB", target, dropped),
        Figure(f"memory/{name}/peak_pss_mb", highest["pss"], "MiB"),
        Figure(f"memory/{name}/peak_anonymous_mb", highest["anonymous"], "MiB", note="cannot be dropped"),
    ]


def memory_of(pid: int) -> dict[str, float]:
    """PSS, and RSS by where it comes from, of a process now, in MiB."""
    found = _kilobytes(Path(f"/proc/{pid}/status")) | _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
    names = {"pss": "Pss", "anonymous": "RssAnon", "file": "RssFile"}
    return {name: found[field] / 1024 for name, field in names.items()}


def peak_rss_mb(pid: int) -> float:
    """The highest RSS the kernel saw, in MiB."""
    return _kilobytes(Path(f"/proc/{pid}/status"))["VmHWM"] / 1024


def _kilobytes(file: Path) -> dict[str, int]:
    rows = [line.split() for line in file.read_text().splitlines() if line.endswith(" kB")]
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Every figure, in order."""
    random = Random(1)
    said = from_data(options.data, random, 2000) if options.data else from_templates(random, 2000)
    texts = [text for _, text in said.memories]
    models: Path = options.models.absolute()
    figures: list[Figure] = []

    def keep(found: Sequence[Figure]) -> None:
        for figure in found:
            _LOG.print(f"{figure.path} {figure.value:.4g} {figure.unit}", highlight=False)
        figures.extend(found)

    for name in VARIANTS if not options.quick else ["both_cores"]:
        keep(await latency(name, models, texts, 1 if options.quick else 3))
    keep(await cache(models, texts))
    nothing = str(models / "nothing")
    without_chat, without_embedding = {"CHAT__MODEL_PATH": nothing}, {"EMBEDDING__MODEL_NAME": nothing}
    boxes = {
        "no_models": without_chat | without_embedding,
        "embedding_only": without_chat,
        "chat_only": without_embedding,
        "both": {},
        "both/repack": {"CHAT__REPACK": "1"},
    }
    for path in options.embedding:
        boxes[f"both/{path.name}"] = {"EMBEDDING__MODEL_NAME": str(path.absolute())}
    for path in options.gguf:
        settings = {"CHAT__MODEL_PATH": str(path.absolute())}
        boxes[f"both/{path.stem}"] = settings
        boxes[f"both/{path.stem}/batch_512"] = {**settings, "CHAT__BATCH": "512"}
    for name, settings in boxes.items():
        keep(await memory(name, models, settings, texts))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", type=Path, metavar="DIR", required=True, help="filled by scripts/download.sh")
    parser.add_argument("--gguf", type=Path, metavar="FILE", action="append", default=[], help="another chat model")
    parser.add_argument("--embedding", type=Path, metavar="DIR", action="append", default=[], help="another embedder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of public data sets to use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as {metric: number}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write command, machine and table as Markdown")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works: nothing to compare")
    options = parser.parse_args(argv)
    machine = describe_machine(["xllamacpp", "onnxruntime", "uvicorn"])
    began = time.monotonic()
    figures = asyncio.run(measure(options))
    machine["load average at the end"] = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    machine["duration"] = f"{time.monotonic() - began:.0f} s"
    publish(options, "SLM server", figures, machine)


if __name__ == "__main__":
    main()
