"""Servers under test: in this process behind a client, or as a process of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx

from serving.backend import Backend
from serving.main import create_app
from serving.settings import ServeSettings

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "serve_embedding_model.py"
PROBLEM_JSON = "application/problem+json"


@contextlib.asynccontextmanager
async def open_client(
    open_backend: Callable[[], Backend], settings: ServeSettings, *, is_lazy: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that runs in this process, started and stopped as a server does."""
    app = create_app(open_backend, settings, is_lazy=is_lazy)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            yield client


class RunningServer:
    """`scripts/serve_embedding_model.py` as a process of its own."""

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None, port: int | None = None) -> None:
        """Starts it, on a free port unless one is given."""
        self.port = port or find_free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, "--port", str(self.port), *flags],
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_listening(self, timeout_s: float = 60.0) -> None:
        """Return when it answers; fails when the process ends first."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.base_url}/healthz", timeout=5)
                return
            time.sleep(0.05)
        raise AssertionError(f"does not answer after {timeout_s:.0f} s")

    def end(self, timeout_s: float = 60.0) -> tuple[int, str]:
        """Wait until it ended by itself; its exit status and what it printed on stderr."""
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors

    def stop(self) -> int:
        """Ask it to end, as a supervisor does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()[0]

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@contextlib.contextmanager
def open_server(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[RunningServer]:
    """A server that answers; it is killed on leaving unless it ended."""
    server = RunningServer(*flags, env=env)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.kill()


def find_free_port() -> int:
    """A loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
