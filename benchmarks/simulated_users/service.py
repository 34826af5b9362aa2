"""The service as a process of its own on a database of its own, with two tenants."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

from app.settings import Settings
from benchmarks.space_switch.house import ROOT, free_port, start, wait_until

START_S = 300.0
"""How long the service may take until it is ready: with a language model, on a busy machine."""

ARMS = ("learning", "off")
"""What learns, and what has nothing to learn from: each is a tenant."""


@contextlib.contextmanager
def served(folder: Path, extra: Mapping[str, str]) -> Generator[tuple[str, dict[str, str]]]:
    """The address of the service, ready, and each tenant's key. `extra` are more variables of its environment."""
    names = {name.upper() for name in Settings.model_fields}
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name.upper() not in names} | {
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "PORT": str(port),
        **extra,
    }
    keys = {arm: _key(arm, environment) for arm in ARMS}
    process = start("app.cli", "run", env=environment, output=folder / "output.txt")
    try:
        wait_until(f"http://127.0.0.1:{port}/readyz", process, start_s=START_S)
        yield f"http://127.0.0.1:{port}", keys
    finally:
        process.terminate()
        process.wait()


def _key(tenant: str, environment: Mapping[str, str]) -> str:
    """A new key for all that a tenant may do. Raises CalledProcessError."""
    command = [sys.executable, "-m", "app.cli", "keys", "create", "--tenant", tenant, "--json"]
    made = subprocess.run(
        [*command, "--scope", "user", "--scope", "admin"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(made.stdout)["key"]
