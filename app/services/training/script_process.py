"""The training script, and what else works on a run's folder, as a process of its own: started, watched, ended."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
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
    if await _waited(folder, on_step):
        return
    await _run([str(python), str(folder.script)], folder, on_step)


async def run_beside(command: Sequence[str], folder: RunFolder) -> bool:
    """Run another command on a folder, as `run_script` does: False where one was at work already and was waited for.
    The command holds the folder's lock until it has ended, whoever started it."""
    if await _waited(folder, None):
        return False
    lock = os.open(folder.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await _run(command, folder, None, lock)
    finally:
        os.close(lock)
    return True


async def _waited(folder: RunFolder, on_step: OnTraining | None) -> bool:
    """Wait for whoever is at work in a folder; whether anybody was."""
    was_running = False
    while folder.is_running():
        was_running = True
        await asyncio.sleep(LOOK_EVERY_S)
        _report(folder, on_step)
    return was_running


async def _run(command: Sequence[str], folder: RunFolder, on_step: OnTraining | None, *held: int) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with folder.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=held
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
