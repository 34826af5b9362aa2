"""Preparing datasets for callers over HTTP: as a process of its own, for it would keep this one's threads waiting."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import structlog

from app.services.training.dataset_files import UNFINISHED, locked, read_summary
from app.services.training.run_files import datasets_folder

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

END_WITHIN_S = 10.0

State = Literal["none", "preparing", "prepared", "failed"]


@dataclass(frozen=True)
class Prepared:
    """How it stands: `summary` is that of the datasets there are, or of the trial that was asked for."""

    state: State
    summary: Mapping[str, Any] | None = None


@dataclass
class DatasetPreparations:
    """One preparation of a tenant at a time. `command` is `embed-service train datasets --json` as a process is
    started; it gets `environment` beside this one's own."""

    training_dir: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    _running: dict[str, "asyncio.Task[Prepared]"] = field(default_factory=dict[str, "asyncio.Task[Prepared]"])
    _failed: set[str] = field(default_factory=set[str])

    async def prepare(self, tenant_id: str, flags: Sequence[str], wait_s: float) -> Prepared:
        """Begin a preparation unless one is under way, and wait for it so long: what came out, else `preparing`."""
        if self._is_busy(tenant_id):
            return Prepared("preparing")
        task = asyncio.create_task(self._run(tenant_id, flags))
        self._running[tenant_id] = task
        await asyncio.wait({task}, timeout=wait_s)
        return task.result() if task.done() else Prepared("preparing")

    def state(self, tenant_id: str) -> Prepared:
        """What datasets there are, and whether some are being prepared, by whichever process."""
        summary = read_summary(datasets_folder(self.training_dir, tenant_id))
        if self._is_busy(tenant_id):
            return Prepared("preparing", summary)
        if tenant_id in self._failed:
            return Prepared("failed", summary)
        return Prepared("none" if summary is None else "prepared", summary)

    async def aclose(self) -> None:
        """End what is under way; the datasets of before stand."""
        tasks = [task for task in self._running.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_busy(self, tenant_id: str) -> bool:
        task = self._running.get(tenant_id)
        if task is not None and not task.done():
            return True
        lock = datasets_folder(self.training_dir, tenant_id) / f"{UNFINISHED}.lock"
        if not lock.exists():
            return False
        with locked(lock, is_waiting=False) as is_free:
            return not is_free

    async def _run(self, tenant_id: str, flags: Sequence[str]) -> Prepared:
        self._failed.discard(tenant_id)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.command,
            "--tenant",
            tenant_id,
            *flags,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, **self.environment},
        )
        try:
            said, complained = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_WITHIN_S)
            raise
        if process.returncode != 0:
            self._failed.add(tenant_id)
            _log.warning("training_preparation_failed", reason=complained.decode(errors="replace")[-500:])
            return Prepared("failed")
        return Prepared("prepared", cast("dict[str, Any]", orjson.loads(said))["summary"])
