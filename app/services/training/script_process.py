"""The training script as a process of its own: started, watched, ended."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.services.training.run_files import RunFolder

LOOK_EVERY_S = 0.5
END_WITHIN_S = 30.0


@dataclass(frozen=True)
class Step:
    """How far a training is; `loss` None where the step told none."""

    step: int
    total: int
    loss: float | None


OnTraining = Callable[[Step], None]


async def run_script(python: Path, folder: RunFolder, on_step: OnTraining | None = None) -> None:
    """Return when the script in a folder has ended, however it did; where it works already, wait for that one. What it
    says goes to `training.log`. Cancelling ends a script that was started here."""
    if folder.is_running():
        while folder.is_running():
            await asyncio.sleep(LOOK_EVERY_S)
            _report(folder, on_step)
        return
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with folder.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(python), str(folder.script), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    ended = asyncio.create_task(process.wait())
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=LOOK_EVERY_S)
            _report(folder, on_step)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have the script end, kindly and then by force; nothing where it has."""
    for ask in (process.terminate, process.kill):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            ask()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_WITHIN_S)


def _report(folder: RunFolder, on_step: OnTraining | None) -> None:
    told = folder.progress() if on_step is not None else None
    if on_step is not None and told is not None:
        on_step(Step(told["step"], told["total"], told.get("loss")))
