"""The processes of the benchmark: embedding servers, the service, whoever fills, and the ends they are put to."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
NICE = ("nice", "-n", "10", sys.executable, "-m", "app.cli")
"""The command as one starts it on a machine that serves meanwhile."""


def settings_of(folder: Path, endpoint: str, port: int) -> Settings:
    """The service's settings, whatever the environment says."""
    kept: dict[str, Any] = {name: field.get_default() for name, field in Settings.model_fields.items()}
    own = {
        "data_dir": folder / "data",
        "log_dir": folder / "logs",
        "port": port,
        "embed_endpoint": endpoint,
        "log_level": "WARNING",
    }
    return Settings(_env_file=None, **kept | own)  # pyright: ignore[reportCallIssue]


def free_port() -> int:
    """A loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*arguments: str, env: Mapping[str, str] | None = None, output: Path | None = None) -> subprocess.Popen[bytes]:
    """A Python module as a process."""
    with (output or Path(os.devnull)).open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )


def wait_until(url: str, process: subprocess.Popen[bytes], body: object = None, *, start_s: float = START_S) -> None:
    """Return when the address answers. Raises SystemExit where it does not within so many seconds."""
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(url, json=body, timeout=5) if body else httpx.get(url, timeout=5)
            if answer.status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"{url} does not answer")


@contextlib.contextmanager
def embedding_server(folder: Path, dimension: int) -> Generator[str]:
    """The address of a server of the built-in model, in that many dimensions."""
    port = free_port()
    process = start("benchmarks.space_switch.embedder", str(port), str(folder), str(dimension))
    try:
        wait_until(f"http://127.0.0.1:{port}/embed", process, {"inputs": ["probe"]})
        yield f"http://127.0.0.1:{port}/embed"
    finally:
        process.terminate()
        process.wait()


class House:
    """The service on a database of its own, and its command."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Starts nothing."""
        self.folder = folder
        self.settings = settings
        self.base_url = f"http://127.0.0.1:{settings.port}"
        names = {name.upper() for name in Settings.model_fields}
        self._env = {name: value for name, value in os.environ.items() if name.upper() not in names} | {
            "DATA_DIR": str(settings.data_dir),
            "LOG_DIR": str(settings.log_dir),
            "PORT": str(settings.port),
            "EMBED_ENDPOINT": settings.embed_endpoint or "",
            "LOG_LEVEL": settings.log_level,
        }

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """The service, ready."""
        process = start("app.cli", "run", env=self._env, output=self.folder / "output.txt")
        try:
            wait_until(f"{self.base_url}/readyz", process)
            yield
        finally:
            process.terminate()
            process.wait()

    async def command(self, *arguments: str) -> Any:
        """The document that a command prints. Raises SystemExit where it fails."""
        process = await asyncio.create_subprocess_exec(
            *NICE,
            *arguments,
            "--json",
            cwd=ROOT,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise SystemExit(f"embed-service {' '.join(arguments)}: {errors.decode().strip() or output.decode()}")
        return json.loads(output)

    def start_filling(self, *flags: str) -> subprocess.Popen[bytes]:
        """`embed-service space fill` as a process."""
        with (self.folder / "fill.txt").open("ab") as sink:
            return subprocess.Popen(
                [*NICE, "space", "fill", "--json", *flags],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    def kill_database(self) -> None:
        """`kill -9` the database server."""
        pid = int((self.settings.data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        for process in psutil.process_iter(["cmdline"]):
            command: list[str] = process.info["cmdline"] or []
            if str(self.settings.data_dir / "postgres" / "data") in command and "postgres" in command[0]:
                pid = process.pid
        os.kill(pid, signal.SIGKILL)
