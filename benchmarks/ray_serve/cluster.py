"""A Ray cluster of several nodes on this machine, for benchmarks and tests: each node is a raylet of its own.

What is deployed on it is deployed by `python -m serving.ray_app`, as by anybody.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.model_servers import ROOT, free_port

OBJECT_STORE_BYTES = 100 * 2**20
NODE_CHECKS = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "health_check_timeout_ms": 5000}
"""How soon the cluster sees that a node is gone; Ray itself takes half a minute."""

_START_S = 60.0
_STOP_S = 30.0


class Node:
    """A node: `ray start --block` with what it started."""

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", "--block", "--disable-usage-stats", *flags],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._log = log

    def wait_until_up(self) -> None:
        """Return when it says so."""
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in (said := self._log.read_text("utf8", "replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not start: {said[-2000:]}")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to it now."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    @property
    def raylet(self) -> psutil.Process:
        """The process that is the node, for the rest of the cluster."""
        return next(each for each in self.processes() if _name(each) == "raylet")


class LocalCluster:
    """A head node and others, each with one place for a replica. Use `local_cluster`."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings` are variables for the nodes and for `ray_app`."""
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets have short paths
        self.port = free_port()
        self._gcs = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SERVE_"))}
        self.environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_ADDRESS": f"127.0.0.1:{self._gcs}",
            "RAY_AUTH_MODE": "disabled",  # a token left by somebody's `ray.init` would lock the nodes out
            "RAY_PROXIES": "head",
            "RAY_HTTP_PORT": str(self.port),
            **settings,
        }
        self.nodes: list[Node] = []
        self._seen: dict[tuple[int, float], psutil.Process] = {}

    @property
    def base_url(self) -> str:
        """Where HTTP is answered."""
        return f"http://127.0.0.1:{self.port}"

    def add_node(self, cpus: float = 1) -> Node:
        """One node more, the first one with the cluster's own services."""
        flags = ["--node-ip-address=127.0.0.1", f"--num-cpus={cpus:g}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        if self.nodes:
            flags += [f"--address=127.0.0.1:{self._gcs}", "--include-log-monitor=false"]
        else:
            flags += ["--head", f"--port={self._gcs}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
            flags += [f"--ray-client-server-port={free_port()}", f"--system-config={json.dumps(NODE_CHECKS)}"]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        node = Node(flags, environment, self.folder.with_suffix(f".{len(self.nodes)}.log"))
        self.nodes.append(node)
        node.wait_until_up()
        return node

    def kill_node(self, node: Node) -> None:
        """`kill -9` of its raylet and of all that runs on it, as a power cut does."""
        processes = node.processes()
        self._note(processes)
        raylet = node.raylet
        for each in [raylet, *(each for each in processes if each != raylet)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        node.process.wait()

    def app(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`python -m serving.ray_app` with these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "serving.ray_app", *arguments],
            env={**self.environment, **settings},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def replicas(self) -> dict[str, list[dict[str, Any]]]:
        """What every replica of each deployment says that it serves."""
        told = self.app("status", "--json")
        if told.returncode == 2:
            raise RuntimeError(told.stderr)
        return {name: each["replicas"] for name, each in json.loads(told.stdout).items()}

    def wait_for_replicas(self, name: str, count: int, timeout_s: float = 120.0) -> list[dict[str, Any]]:
        """What the replicas of a deployment say, as soon as there are so many. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.replicas().get(name, [])) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} has {len(found)} replicas after {timeout_s:.0f} s")
        return found

    def stop(self) -> list[str]:
        """Stop every node; what did not end by itself is killed and returned."""
        for node in self.nodes:
            self._note(node.processes())
        for node in reversed(self.nodes):
            with suppress(ProcessLookupError):
                node.process.terminate()
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(_STOP_S)
        _, alive = psutil.wait_procs(list(self._seen.values()), timeout=_STOP_S)
        left = [_name(each) for each in alive]
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return left

    def _note(self, processes: Iterable[psutil.Process]) -> None:
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                self._seen[each.pid, each.create_time()] = each


@contextmanager
def local_cluster(settings: Mapping[str, str], nodes: int = 2, cpus: float = 1) -> Generator[LocalCluster]:
    """A running cluster, stopped and its files removed on leaving."""
    cluster = LocalCluster(settings)
    try:
        for _ in range(nodes):
            cluster.add_node(cpus)
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)
        for log in cluster.folder.parent.glob(f"{cluster.folder.name}.*.log"):
            log.unlink(missing_ok=True)


def _name(process: psutil.Process) -> str:
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else "zombie"
    except psutil.NoSuchProcess:
        return "gone"
