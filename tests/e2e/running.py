"""The real service as a process of its own: `embed-service run` on a free port, with a folder of its own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from app.logs import LOG_FILE
from app.services.keys import CreatedKey
from app.settings import Settings
from app.wiring import open_keys
from tests.servers import open_folder

COMMAND = Path(sys.executable).with_name("embed-service")
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Key:
    """An API key made for a test."""

    key_id: str
    secret: str
    tenant: str
    user_id: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs to be made with this key."""
        return {"Authorization": f"Bearer {self.secret}"}


class RunningService:
    """One service process. `folder` holds its `data`, its `logs` and what it printed (`output.txt`)."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        """Starts nothing. `env`: settings beside DATA_DIR, LOG_DIR, HOST and PORT; none are inherited."""
        self.folder = folder
        self.data_dir = folder / "data"
        self.log_dir = folder / "logs"
        self.log_file = self.log_dir / LOG_FILE
        self.output_file = folder / "output.txt"
        self.port = find_free_port()
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process; it has to be started."""
        assert self._process is not None, "the service was not started"
        return self._process

    def start(self) -> None:
        """Start it (again) and return when it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen(
                [COMMAND, "run"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when `/readyz` says so; fails when the process ends first."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the service ended:\n{self.output_file.read_text()[-4000:]}"
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.base_url}/readyz", timeout=5).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready after {timeout_s:.0f} s:\n{self.output_file.read_text()[-4000:]}")

    def stop(self) -> int:
        """Ask it to end, as a supervisor does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once, as a crash does. Its database lives on for a moment; the next start takes over."""
        self.process.kill()
        self.process.wait(timeout=STOP_TIMEOUT_S)

    def run_command(
        self, *arguments: str, check: bool = True, timeout_s: float = START_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `embed-service …` beside the service, on the same data."""
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"embed-service {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done

    def create_key(self, tenant: str = "default", scopes: Sequence[str] = ("user", "admin"), name: str = "") -> Key:
        """A new key, made by the command line."""
        flags = [flag for scope in scopes for flag in ("--scope", scope)]
        done = self.run_command("keys", "create", "--tenant", tenant, "--name", name, *flags, "--json")
        made = json.loads(done.stdout)
        return Key(made["key_id"], made["key"], made["tenant"])

    def create_bound_key(self, tenant: str, user_id: str | None, scopes: Sequence[str] = ("user", "admin")) -> Key:
        """A new key, made beside the service without a process of its own; bound to a user where one is given."""
        settings = Settings(_env_file=None, data_dir=self.data_dir, log_dir=self.log_dir, database_url=None)

        async def create() -> CreatedKey:
            async with open_keys(settings) as keys:
                return await keys.create(tenant, "", scopes, user_id)

        made = asyncio.run(create())
        return Key(made.key_id, made.secret, made.tenant_id, made.user_id)

    def revoke_key(self, key: Key) -> None:
        """Make a key useless, by the command line."""
        self.run_command("keys", "revoke", key.key_id, "--tenant", key.tenant, "--json")

    def client(self, key: Key | None = None, timeout_s: float = 60.0) -> httpx.Client:
        """A client of it, with a key or without. The caller closes it."""
        return httpx.Client(base_url=self.base_url, headers=key.headers if key else {}, timeout=timeout_s)

    def log_text(self) -> str:
        """Everything it has logged and printed."""
        logged = self.log_file.read_text() if self.log_file.exists() else ""
        return logged + self.output_file.read_text()

    def log_events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events in its log file, oldest first; those called `name` where one is given."""
        events = [orjson.loads(line) for line in self.log_file.read_bytes().splitlines() if line.strip()]
        return [event for event in events if name in (None, event.get("event"))]

    @property
    def environment(self) -> dict[str, str]:
        """What its process gets, and whoever is to work on the same data."""
        settings = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
        own = {
            "DATA_DIR": str(self.data_dir),
            "LOG_DIR": str(self.log_dir),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "ORDER_SHUFFLE": "0",  # what a test reads off a question does not depend on a die
        }
        return inherited | own | self._env


def find_free_port() -> int:
    """A loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def open_service(env: Mapping[str, str] | None = None) -> Generator[RunningService]:
    """A ready service on an empty database; it is stopped and its folder deleted on leaving."""
    with open_folder() as folder:
        service = RunningService(folder, env)
        service.start()
        try:
            yield service
        finally:
            service.stop()
