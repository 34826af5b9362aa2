"""Answers rated by a reward model, in a process of the training environment: torch never enters the service."""

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from app.domain.errors import ModelUnavailable

_SCRIPT = Path(__file__).with_name("rate_answers.py.tmpl")

_CONFIGS = ("config.json", "adapter_config.json", "adapter/adapter_config.json")
"""One of these makes a folder a model."""

Conversation = Sequence[Mapping[str, str]]


def check_rating(python: Path | None, folder: Path) -> Path:
    """The training environment's Python. Raises ModelUnavailable where it or the reward model is missing."""
    if python is None or not python.is_file():
        raise ModelUnavailable("a reward model needs the training environment: run ./setup_training.sh")
    if not any((folder / name).is_file() for name in _CONFIGS):
        raise ModelUnavailable(f"there is no reward model in {folder}")
    return python


async def rate(python: Path, folder: Path, conversations: Sequence[Conversation]) -> list[float]:
    """A rating for each conversation, prompt and answer, the higher the better. Cancelling ends the process. Raises
    ModelUnavailable where the model cannot be loaded or does not rate every one."""
    lines = b"".join(orjson.dumps({"messages": list(each)}) + b"\n" for each in conversations)
    process = await asyncio.create_subprocess_exec(
        str(python),
        str(_SCRIPT),
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        said, complaint = await process.communicate(lines)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ModelUnavailable(f"the reward model in {folder} does not rate: {last[:300]}")
    ratings = [_rating(line) for line in said.splitlines()]
    if len(ratings) != len(conversations):
        raise ModelUnavailable(f"the reward model in {folder} rated {len(ratings)} of {len(conversations)} answers")
    return ratings


def _rating(line: bytes) -> float:
    try:
        document: Any = orjson.loads(line)
        value = float(document["rating"])
    except (ValueError, TypeError, LookupError):
        value = math.nan
    if not math.isfinite(value):
        raise ModelUnavailable("the reward model gave a rating that is no number")
    return value
