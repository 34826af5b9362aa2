"""The embedding deployment on a Ray cluster of two nodes on this machine: one replica and two, a dead node, a switch.

    python -m benchmarks.ray_serve --model DIR [--json FILE] [--results FILE] [--quick]

Needs `make install-ray`. `--model` is a folder of sentence-transformers with an ONNX graph of token vectors.

Throughput: one replica, two replicas and the same server without Ray take turns, round by round; a replica has one
thread for its model. A request has one short text or 32 of some 60 tokens; 16 requests are in flight. A figure is the
median over the rounds, its note their range. `cpu_ms` is the processor time of a request, by process: the replicas
(the model and its HTTP), the proxy, the rest of Ray, the client. `cores_busy` is all of it over the time: with as
many busy as there are, a second replica has nothing to run on.

Faults: 8 clients send requests without a pause. After the first quarter of the requests the adapter registry names
another checkpoint, and the replicas are told to look (`switch`); after half of them the raylet of the node with one of
the replicas is killed. Every answer is compared with the vectors of the model that it names. A client sends a request
up to six times; `sent_again` counts all but the first. The requests go on until the switch is confirmed and a second
longer, and until a node that joins has taken the dead one's place.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx2
import numpy as np
import psutil
from rich.console import Console

from benchmarks.model_servers import ROOT, Wire, free_port
from benchmarks.ray_serve.cluster import LocalCluster, local_cluster
from benchmarks.ray_serve.load import TRIES, Load, ask_all
from benchmarks.ray_serve.versions import Versions, write_versions
from benchmarks.report import Figure, Target, describe_machine, percentile, publish

CLIENTS = 16
GOAL = 1.6
KINDS: Mapping[str, Sequence[str]] = {
    "1_text": ["where did I leave the lamp of the boat?"],
    "32_texts": [
        f"{number} " + "the boat lies beside the river and the lamp is on the table " * 4 for number in range(32)
    ],
}
PARTS = ("replicas", "proxy", "ray", "client")

_LOG = Console(stderr=True)


async def throughput(base_url: str, texts: Sequence[str], seconds: float) -> float:
    """Requests a second, all of them answered with 200."""
    answered = 0
    end = time.monotonic() + seconds

    async def work() -> None:
        nonlocal answered
        wire = Wire(base_url)
        path = httpx2.URL(base_url).path.rstrip("/") + "/embed"
        try:
            while time.monotonic() < end:
                reply = await wire.post(path, {"inputs": texts})
                if reply.status != 200:
                    raise SystemExit(f"the server answered with status {reply.status}: {reply.body[:300]!r}")
                answered += 1
        finally:
            await wire.aclose()

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return answered / (time.monotonic() - began)


def processor_s(processes: Sequence[psutil.Process], rest: str) -> dict[str, float]:
    """Processor time so far, in seconds, by part; `rest` is what other processes of the server count as."""
    used: dict[str, float] = defaultdict(float)
    for each in [*processes, psutil.Process()]:
        try:
            name, times = each.name(), each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        part = "replicas" if "ServeReplica" in name else "proxy" if "Proxy" in name else rest
        used["client" if each.pid == os.getpid() else part] += times.user + times.system
    return used


class Turns:
    """What each turn gave, by the path of its figure."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    async def measure(
        self, name: str, base_url: str, kind: str, processes: Sequence[psutil.Process], seconds: float
    ) -> None:
        """One turn, after a short one that is not counted."""
        texts, rest = KINDS[kind], "replicas" if name == "without_ray" else "ray"
        await throughput(base_url, texts, seconds / 4)
        before, began = processor_s(processes, rest), time.monotonic()
        rate = await throughput(base_url, texts, seconds)
        took_s, after = time.monotonic() - began, processor_s(processes, rest)
        used = {part: after[part] - before[part] for part in after}
        self.values[f"throughput/{kind}/{name}"].append(rate)
        self.values[f"cores_busy/{kind}/{name}"].append(sum(used.values()) / took_s)
        for part in PARTS:
            if part in used:
                self.values[f"cpu_ms/{kind}/{name}/{part}"].append(1000 * used[part] / (rate * took_s))

    def figures(self) -> list[Figure]:
        """Medians, and the ratios of the same rounds."""
        made: list[Figure] = []
        units = {"throughput": "/s", "cores_busy": "cores", "cpu_ms": "ms"}
        for path, values in sorted(self.values.items()):
            made.append(Figure(path, median(values), units[path.split("/")[0]], note=_range(values)))
        for kind in KINDS:
            one, two, direct = (
                self.values[f"throughput/{kind}/{name}"] for name in ("1_replica", "2_replicas", "without_ray")
            )
            ratios = [b / a for a, b in zip(one, two, strict=True)]
            made.append(Figure(f"ratio/{kind}/2_to_1", median(ratios), "×", Target("≥", GOAL), _range(ratios)))
            ratios = [b / a for a, b in zip(direct, one, strict=True)]
            made.append(Figure(f"ratio/{kind}/1_to_without_ray", median(ratios), "×", note=_range(ratios)))
        return made


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


@contextmanager
def server_without_ray(model: Path) -> Generator[tuple[str, psutil.Process]]:
    """The same model served by `scripts/serve_embedding_model.py`: its address and process."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "serve_embedding_model.py", "--port", str(port), "--model", model],
        env={**os.environ, "SERVE_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                httpx2.get(f"{address}/readyz").raise_for_status()
                break
            except httpx2.HTTPError:
                time.sleep(0.1)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def deploy(cluster: LocalCluster, replicas: int) -> str:
    """The deployment with so many replicas; its address."""
    _LOG.print(f"{replicas} replicas")
    number = str(replicas)
    done = cluster.app("up", "embedding", RAY_EMBEDDING__MIN_REPLICAS=number, RAY_EMBEDDING__MAX_REPLICAS=number)
    if done.returncode:
        raise SystemExit(done.stderr)
    cluster.wait_for_replicas("embedding", replicas)
    return done.stdout.strip()


async def faults(cluster: LocalCluster, address: str, versions: Versions, requests: int) -> list[Figure]:
    """What 1,000 requests notice of a switch and a dead node."""
    load, switched_at, replaced_at = Load(), 0.0, 0.0

    def is_over(answered: int) -> bool:
        now = time.monotonic()
        return answered >= requests and 0 < switched_at < now - 1 and replaced_at > 0

    async def switch() -> float:
        versions.point_at("run-b")
        done = await asyncio.to_thread(cluster.app, "switch")
        return time.monotonic() if "run-b" in done.stdout else 0.0

    async def replace() -> float:
        await asyncio.to_thread(cluster.add_node)
        await asyncio.to_thread(cluster.wait_for_replicas, "embedding", 2)
        return time.monotonic()

    asking = asyncio.create_task(ask_all(address, versions, is_over, load))
    await load.reached(requests // 4)
    began = time.monotonic()
    switching = asyncio.create_task(switch())
    await load.reached(requests // 2)
    killed_at = time.monotonic()
    cluster.kill_node(cluster.nodes[1])
    _LOG.print("a node is dead")
    replacing = asyncio.create_task(replace())
    switched_at, replaced_at = await switching, await replacing
    await asking
    times = np.array(load.seconds)
    retries = sum(load.retries.values())
    why = ", ".join(f"{count} × {reason}" for reason, count in sorted(load.retries.items())) or "none"
    old = load.models_since(switched_at) - {"run-b"}
    return [
        Figure("faults/answered", load.answered, "", Target("≥", requests)),
        Figure("faults/failed", len(load.failed), "", Target("≤", 0), f"after up to {TRIES - 1} retries"),
        Figure("faults/sent_again", retries, "", note=why),
        Figure("faults/torn", len(load.torn), "", Target("≤", 0), "not the vectors of the model named"),
        Figure("faults/old_model_after_switch", len(old), "", Target("≤", 0)),
        Figure("faults/switch_confirmed_s", switched_at - began, "s", note="with the start of the command"),
        Figure("faults/replaced_s", replaced_at - killed_at, "s", note="a node that joins, and its replica"),
        Figure("faults/p50_ms", 1000 * percentile(times, 50), "ms"),
        Figure("faults/p99_ms", 1000 * percentile(times, 99), "ms"),
        Figure("faults/max_ms", 1000 * float(times.max()), "ms", note="retries and pauses included"),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Every figure, in order."""
    rounds, seconds, requests = (1, 1.0, 200) if options.quick else (2, 3.0, 1000)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        versions = write_versions(Path(folder), options.model.absolute())
        settings = {
            "LLM_ADAPTER_REGISTRY_PATH": str(versions.registry),
            "SERVE_THREADS": "1",
            "RAY_WATCH_S": "0.5",
        }
        with local_cluster(settings) as cluster:
            with server_without_ray(versions.folder / "run-a" / "merged") as (direct, process):
                for number in range(rounds):
                    for kind in KINDS:
                        await turns.measure("without_ray", direct, kind, [process], seconds)
                    for replicas in (1, 2) if number % 2 == 0 else (2, 1):
                        address = deploy(cluster, replicas)
                        running = [each for node in cluster.nodes for each in node.processes()]
                        for kind in KINDS:
                            name = "1_replica" if replicas == 1 else "2_replicas"
                            await turns.measure(name, address, kind, running, seconds)
                    _LOG.print(f"round {number + 1} of {rounds}")
            return turns.figures() + await faults(cluster, deploy(cluster, 2), versions, requests)


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", required=True, help="an embedding model with an ONNX graph"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as {metric: number}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write command, machine and table as Markdown")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works: nothing to compare")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is stopped on the way out
    machine = describe_machine(["ray", "onnxruntime", "uvicorn"])
    began = time.monotonic()
    figures = asyncio.run(measure(options))
    machine["load average at the end"] = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    machine["duration"] = f"{time.monotonic() - began:.0f} s"
    publish(options, "Ray Serve", figures, machine)


if __name__ == "__main__":
    main()
