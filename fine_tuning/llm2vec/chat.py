"""The chat part of the training: a training script of the service, run as a process of its own.

The script is what `embed-service train run` uses; how it is written comes in as an argument. It trains with unsloth on
a GPU and with TRL and PEFT elsewhere, and goes on from its newest whole checkpoint when it is run again.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from fine_tuning.embedding.errors import FineTuningError, OutOfMemory
from fine_tuning.embedding.progress import say
from fine_tuning.llm2vec.chat_rows import write_chat_rows
from fine_tuning.llm2vec.options import Options

_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 10.0
_END_WITHIN_S = 30.0


class WriteScript(Protocol):
    """Writes a training script for supervised training."""

    def __call__(self, rows: Path, output: Path, script: Path, base_model: str, settings: dict[str, Any]) -> Path:
        """The script's path; held-out rows lie in NAME.heldout.jsonl beside `rows`. `settings` are those of the
        script by their names. Raises ValueError, in one line, for what cannot be trained."""
        ...


def train_chat(options: Options, base: Path | str, work: Path, write_script: WriteScript) -> dict[str, Any]:
    """Train an adapter on `options.data`; it is in `work/chat/adapter`. The script's metrics, and the rows that were
    left out. Nothing is trained again that an interrupted run has finished. Raises FineTuningError."""
    if options.data is None:
        raise FineTuningError("there are no chats to train on.")
    rows, output = work / "chat.jsonl", work / "chat"
    counts = write_chat_rows(options.data, rows, skips_bad_rows=options.skip_bad_rows)
    if options.heldout_data is not None:
        heldout = rows.with_suffix(f".heldout{rows.suffix}")
        write_chat_rows(options.heldout_data, heldout, skips_bad_rows=options.skip_bad_rows)
    if not _is_finished(output):
        try:
            script = write_script(rows, output, work / "train_chat.py", str(base), _settings(options))
        except ValueError as error:
            raise FineTuningError(f"the chats cannot be trained on so: {error}") from None
        _run(script, output)
    metrics = json.loads((output / "metrics.json").read_text("utf8"))
    return metrics | {"rows": counts | metrics["rows"]}


def _settings(options: Options) -> dict[str, Any]:
    return {
        "learning_rate": options.chat_lr,
        "epochs": options.chat_epochs,
        "max_steps": options.chat_max_steps,
        "batch_size": options.chat_batch_size,
        "gradient_accumulation": 1,
        "max_length": options.chat_max_length,
        "seed": options.seed,
        "lora_rank": options.lora_rank,
        "lora_alpha": 2 * options.lora_rank,
        "load_in_4bit": options.load_in_4bit,
        "gradient_checkpointing": options.gradient_checkpointing,
        "export_merged": False,
    }


def _is_finished(output: Path) -> bool:
    metadata = output / "run_metadata.json"
    return metadata.is_file() and bool(json.loads(metadata.read_text("utf8")).get("finished_at"))


def _run(script: Path, output: Path) -> None:
    """Run the script to its end, saying now and then how far it is. Raises FineTuningError where it fails."""
    log = script.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, str(script)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        _watch(process, output / "checkpoints" / "progress.jsonl")
    finally:
        _end(process)
    if process.returncode:
        lines = [line for line in log.read_text("utf8", errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "it said nothing"
        if process.returncode == -9 or "out of memory" in last.lower() or "allocate memory" in last:
            raise OutOfMemory("there is not enough memory to train on the chats: lower --chat-batch-size.")
        raise FineTuningError(f"training on the chats failed: {last} (all of it is in {log})")


def _watch(process: subprocess.Popen[bytes], progress: Path) -> None:
    told, said_at = "", time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_EVERY_S)
            return
        lines = progress.read_text("utf8").splitlines() if progress.is_file() else []
        if lines and lines[-1] != told and time.monotonic() - said_at >= _SAY_EVERY_S:
            told, said_at = lines[-1], time.monotonic()
            with suppress(ValueError, KeyError):
                step = json.loads(told)
                loss = f", loss {step['loss']:.4f}" if "loss" in step else ""
                say(f"chats: step {step['step']} of {step['total']}{loss}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the script end, kindly and then by force; nothing where it has."""
    for ask in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_WITHIN_S)
