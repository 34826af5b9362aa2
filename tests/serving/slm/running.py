"""scripts/serve_slm.py and scripts/download.sh as processes of their own."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.serving.running import ROOT, RunningServer, find_free_port

SCRIPT = ROOT / "scripts" / "serve_slm.py"
DOWNLOAD = ROOT / "scripts" / "download.sh"
_OURS = re.compile(r"(HOST|PORT|MODELS_DIR|EMBEDDING|CHAT)$|(EMBEDDING|CHAT|SERVE|HF)_")


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others of the server."""
    return {**{name: value for name, value in os.environ.items() if not _OURS.match(name)}, **settings}


class RunningSlm(RunningServer):
    """scripts/serve_slm.py with `settings` in its environment."""

    def __init__(self, settings: Mapping[str, str], port: int | None = None) -> None:
        """Starts it, on a free port unless one is given."""
        self.port = port or find_free_port()
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT],
            env=clean_environment(**{"PORT": str(self.port), **settings}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextlib.contextmanager
def open_slm(models_dir: Path, **settings: str) -> Iterator[RunningSlm]:
    """A server that answers; it is killed on leaving unless it ended."""
    server = RunningSlm({"MODELS_DIR": str(models_dir), **settings})
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.kill()


def download(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """One run of scripts/download.sh, with this Python."""
    return subprocess.run(
        [DOWNLOAD, folder],
        env=clean_environment(**{"PYTHON": sys.executable, **settings}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
