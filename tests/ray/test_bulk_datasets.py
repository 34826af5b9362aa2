"""Datasets prepared on Ray are the service's own, byte for byte, also where a file is rotated meanwhile."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.domain import training
from app.services.keys import DEFAULT_TENANT
from app.services.training.datasets import Progress
from app.services.training.run_files import datasets_folder
from app.settings import Settings
from app.wiring_training import build_collector, build_trainer
from benchmarks.training_datasets import write_samples
from bulk.cluster import joined
from bulk.datasets import prepare, shards_of

ROOT = Path(__file__).parents[2]
SAMPLES = 1500

pytestmark = pytest.mark.timeout(600)


def contents(folder: Path) -> dict[str, Any]:
    """What the files hold, and the summary but for the time it took."""
    summary = json.loads((folder / "dataset_summary.json").read_bytes())
    del summary["seconds"]
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} | {"summary": summary}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any]]:
    """The settings of a folder with samples, and the datasets that the service makes of them."""
    folder = tmp_path_factory.mktemp("samples")
    settings = Settings(_env_file=None, database_url=None, training_data_dir=folder, log_dir=folder / "logs")
    write_samples(settings.training_dir, SAMPLES)
    target = datasets_folder(settings.training_dir, DEFAULT_TENANT)
    trainer = build_trainer(build_collector(settings))
    asyncio.run(trainer.prepare_training_dataset(target, DEFAULT_TENANT))
    made = contents(target)
    assert made["hypotheses_chat.jsonl"]
    shutil.rmtree(target)
    return settings, made


def test_shards_are_the_whole_file_in_whole_lines(tmp_path: Path) -> None:
    lines = b"".join(b"x" * (number % 40) + b"\n" for number in range(500))
    path = tmp_path / "lines"
    path.write_bytes(lines + b"of later")
    with path.open("rb") as opened:
        shards = list(shards_of("lines", opened, len(lines), 100))
    parts = [shard.read() for shard in shards]

    assert b"".join(part or b"" for part in parts) == lines
    assert all(part and part.endswith(b"\n") for part in parts)
    assert len(shards) > 50
    path.write_bytes(lines.replace(b"x", b"y"))
    assert shards[1].read() is None, "it does not say what it did"


def test_the_command_makes_the_services_own_bytes(samples: tuple[Settings, dict[str, Any]]) -> None:
    settings, made = samples
    own = {"TRAINING_DATA_DIR": str(settings.training_dir), "LOG_DIR": str(settings.log_dir), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "bulk", "datasets", "--workers", "2", "--json"],
        env={**os.environ, **own},
        cwd=settings.training_dir,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["read_here"] == 0
    assert contents(datasets_folder(settings.training_dir, DEFAULT_TENANT)) == made


def test_a_file_that_is_rotated_meanwhile_is_read_as_it_was(
    samples: tuple[Settings, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, made = samples
    active = settings.training_dir / training.HYPOTHESES_FILE
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray has read it already, where another test used Ray here

    def rotate(_: Progress) -> None:
        if active.exists():
            active.rename(settings.training_dir / "hypotheses_data.1.jsonl")

    with joined("local", 2) as workers:
        done = asyncio.run(prepare(settings, DEFAULT_TENANT, workers, on_progress=rotate, shard_bytes=200_000))

    assert done["read_here"] > 1
    assert contents(datasets_folder(settings.training_dir, DEFAULT_TENANT)) == made
