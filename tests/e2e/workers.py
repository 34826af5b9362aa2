"""Worker processes that run the jobs of `tests.e2e.job_worker`, and what they noted of their runs."""

import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.running import RunningService


class Workers:
    """Worker processes beside a service."""

    def __init__(self, service: RunningService) -> None:
        self.killed_at: dict[int, float] = {}
        self._service = service
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, **env: str) -> None:
        """One more."""
        own = self._service.environment | {"LOG_DIR": str(self._service.folder / "worker-logs")}
        with (self._service.folder / "workers.txt").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.e2e.job_worker"],
                    cwd=Path(__file__).parents[2],
                    env=own | env,
                    stdout=output,
                    stderr=output,
                )
            )

    def kill(self) -> None:
        """The one that has worked longest, at once."""
        process = self._processes.pop(0)
        process.kill()
        process.wait()
        self.killed_at[process.pid] = time.time()

    def stop(self) -> list[int]:
        """All, as a supervisor does; their exit statuses."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        ended = [process.wait(timeout=60) for process in self._processes]
        self._processes.clear()
        return ended


def runs_of(found: list[Any], killed_at: dict[int, float]) -> dict[int, list[tuple[float, float | None]]]:
    """For each job its runs, from when to when, in order. A run that was broken off ended with its worker; None where
    the worker lives on, which let go of it when the database went away."""
    ends: dict[str, datetime] = {row.body["run"]: row.created_at for row in found if row.kind == "end"}
    runs: dict[int, list[tuple[float, float | None]]] = defaultdict(list)
    for row in found:
        if row.kind == "begin":
            ended = ends.get(row.body["run"])
            end = ended.timestamp() if ended else killed_at.get(row.body["pid"])
            runs[row.body["number"]].append((row.created_at.timestamp(), end))
    return runs
