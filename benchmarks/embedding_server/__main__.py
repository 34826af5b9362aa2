"""The embedding server beside its peers: the same model, texts and machine, in turns.

    EMBED_VENV=venv-embed PEER_VENV=venv-peers python -m benchmarks.embedding_server
        [--peers infinity,plain] [--rounds 3] [--models DIR] [--data DIR] [--json FILE] [--results FILE] [--quick]

What has to be there:

- this environment with OpenVINO (`make install-serving`);
- EMBED_VENV, which exports and quantizes the model (`./setup_embedding.sh` makes `venv-embed`);
- PEER_VENV, with infinity-emb and what it brings, sentence-transformers and FastAPI among it:
  `uv venv venv-peers`, then
  `uv pip install --python venv-peers/bin/python torch==2.13.0 "infinity-emb[server,torch,optimum]==0.0.78"`.

Making the models' folders takes minutes: `--models DIR` keeps them there for the next run. Without peers
(`--peers none`) only ours are measured. Names of figures: `ours` is static int8 on OpenVINO, what
`make embed-quantize` makes unless told otherwise; `ours_onnx_int8` the same on ONNX Runtime; `ours_onnx` and
`ours_openvino` float32; `infinity_torch`, `infinity_o3` (the graph after optimum's O3) and `infinity_int8` (optimum's
dynamic int8, one scale a row of weights) are told to pool by the mean; `plain` is sentence-transformers behind FastAPI.

All servers are up, one is loaded at a time: a round goes through all of them in random order, and for each through
every kind of texts and number of clients, 0.7 s each. A figure is the median over the rounds, its note their range.
Each client has one request of one text in flight. The generator (`load.py`) shares the processor with the server: what
a request costs it is measured against a server that does nothing. Texts are cut out of conversations: short ones of
20 to 80 characters, long ones of 500 to 900 (which all servers read whole), and mixed ones of 20 to 900, short ones
being more frequent (their logarithm is uniform).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import IO

import numpy as np
import uvloop
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.embedding_server.figures import figures_of
from benchmarks.embedding_server.load import load, request_of, serve_nothing
from benchmarks.embedding_server.measured import Measured
from benchmarks.embedding_server.servers import (
    NAME,
    ROOT,
    Candidate,
    Running,
    idle_command,
    make_candidates,
    running,
)
from benchmarks.embedding_server.texts import KINDS, pieces
from benchmarks.report import arguments, describe_machine, new_progress, publish

CASES = [
    *((kind, clients, "float") for kind in KINDS for clients in (1, 8, 32) if (kind, clients) != ("long", 8)),
    *((kind, clients, "base64") for kind in ("short", "mixed") for clients in (1, 32)),
]
"""Kind of texts, clients, encoding."""

TEXTS = 400
"""Of each kind."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    warm_up: float


def main() -> None:
    """Run the benchmark."""
    peers, rounds, models, rest = own_arguments()
    options = arguments(__doc__, rest)
    plan = Plan(1, 0.3, 0.1) if options.quick else Plan(rounds, 1.5, 0.3)
    if find_spec("openvino") is None:
        raise SystemExit("OpenVINO is not installed: make install-serving")
    machine = describe_machine(("onnxruntime", "openvino", "fastapi", "uvicorn", "uvloop", "tokenizers"))
    random = Random(7)
    texts = {kind: pieces(options.data, kind, TEXTS, random) for kind in KINDS}
    folder = models or Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    console = Console(stderr=True)
    try:
        console.print("making the models' folders ...")
        candidates = make_candidates(peers, folder)
        measured = measure(candidates, texts, plan, folder, random, console)
    finally:
        if models is None:
            shutil.rmtree(folder, ignore_errors=True)
    machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    for each in candidates:
        machine[each.name] = each.about
    source = "LoCoMo" if options.data else "data/demo"
    note = (
        f"all-MiniLM-L6-v2; texts from {source}; {plan.rounds} rounds of {plan.seconds:g} s a figure, all servers up "
        "and one loaded at a time; notes are ranges over the rounds. Server and clients share the processor."
        f"{' A quick run: nothing to compare.' if options.quick else ''}"
    )
    publish(options, "Embedding server", figures_of(candidates, measured), machine, note)


def own_arguments(argv: Sequence[str] | None = None) -> tuple[list[str], int, Path | None, list[str]]:
    """The peers, the rounds, where the models' folders are kept, and the arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--peers", default="infinity,plain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path)
    options, rest = parser.parse_known_args(argv)
    peers = [each for each in options.peers.split(",") if each not in {"", "none"}]
    if unknown := set(peers) - {"infinity", "plain"}:
        raise SystemExit(f"--peers {', '.join(sorted(unknown))}: infinity, plain or none")
    return peers, options.rounds, options.models and options.models.resolve(), rest


def measure(
    candidates: Sequence[Candidate],
    texts: Mapping[str, Sequence[str]],
    plan: Plan,
    folder: Path,
    random: Random,
    console: Console,
) -> Measured:
    """All servers up; rounds in which one after the other is loaded."""
    measured = Measured()
    with ExitStack() as stack:
        idle = Candidate("idle", "float32", "", idle_command(), path="/openapi.json")
        servers: list[Running] = []
        for each in [idle, *candidates]:
            console.print(f"starting {each.name} ...")
            servers.append(stack.enter_context(running(each, folder / f"{each.name}.log")))
        bare = {each.name: stack.enter_context(asked_directly(each.folder)) for each in candidates if each.folder}
        for server in servers[1:]:
            measured.cosines[server.candidate.name] = compare_vectors(server)
        timed = [server for server in servers if server.candidate.is_timed and server.candidate.name != "idle"]
        with new_progress(console) as progress:
            bar = progress.add_task("measuring", total=plan.rounds * len(timed))
            for _ in range(plan.rounds):
                for server in random.sample(timed, len(timed)):
                    measure_once(server, bare.get(server.candidate.name), texts, plan, measured)
                    progress.advance(bar)
        for server in servers:
            measured.memory[server.candidate.name] = server.memory_mib()
        measured.generator_s = uvloop.run(generator_cost(texts["short"]))
    return measured


def measure_once(
    server: Running,
    bare: "subprocess.Popen[str] | None",
    texts: Mapping[str, Sequence[str]],
    plan: Plan,
    measured: Measured,
) -> None:
    """Every case once, with one server; the runtime's own time next to the single requests."""
    name = server.candidate.name
    for kind, clients, encoding in CASES:
        requests = [
            request_of(
                server.base_url, server.candidate.path, {"input": [text], "model": NAME, "encoding_format": encoding}
            )
            for text in texts[kind]
        ]
        seconds = plan.seconds
        while not (
            done := uvloop.run(load(server.base_url, requests, clients=clients, seconds=seconds, warm_up=plan.warm_up))
        ).latencies:
            seconds *= 2  # a server that answers all clients at once may have taken longer
        measured.slices[name][kind, clients, encoding].append(done)
        if bare is not None and clients == 1 and encoding == "float":
            measured.bare[name][kind].append(median_of_runs(bare, texts[kind], len(done.latencies)))


@contextmanager
def asked_directly(folder: Path) -> Generator["subprocess.Popen[str]"]:
    """A process with the runtime alone."""
    command = [sys.executable, "-m", "benchmarks.embedding_server.bare", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()


def median_of_runs(process: "subprocess.Popen[str]", texts: Sequence[str], count: int) -> float:
    """The median of as many runs as there were requests, seconds; the same texts in the same order."""
    asked, answers = _pipe(process.stdin), _pipe(process.stdout)
    wanted = [texts[number % len(texts)] for number in range(max(20, count))]
    asked.write(json.dumps(wanted) + "\n")
    asked.flush()
    return float(np.median(json.loads(answers.readline())))


def compare_vectors(server: Running) -> tuple[float, float, float]:
    """Mean and least cosine to sentence-transformers' vectors, and the least of texts alone to texts together."""
    data = ROOT / "tests" / "data"
    texts: list[str] = json.loads((data / "reference_sentences.json").read_text("utf8"))[::10]
    expected = np.load(data / "reference_vectors.npz")["vectors"][::10].astype(np.float32)
    together = server.vectors(texts)
    alone = np.concatenate([server.vectors([text]) for text in texts])
    own = _cosines(alone, expected)
    return float(own.mean()), float(own.min()), float(_cosines(alone, together).min())


async def generator_cost(texts: Sequence[str]) -> float:
    """Seconds of processor time a request costs the generator, and a server that does nothing, together."""
    body = b"x" * 8000  # about what a vector of 384 numbers takes as text
    server = await serve_nothing(body)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    requests = [request_of(base_url, "/v1/embeddings", {"input": [text], "model": NAME}) for text in texts]
    started = time.process_time()
    done = await load(base_url, requests, clients=32, seconds=1.0, warm_up=0.0)
    server.close()
    return (time.process_time() - started) / len(done.latencies)


def _cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


if __name__ == "__main__":
    main()
