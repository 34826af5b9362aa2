"""A bundle for real: a file of conversations in, a tiny model trained, a checkpoint and a registry out; broken off and
carried on.

It trains in venv-train, which ./setup_training.sh makes (TRAIN_VENV names another).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import open_folder

from .test_train_script import ENVIRONMENT, FRAMEWORKS, INPUTS, PYTHON, ROOT

pytestmark = [pytest.mark.llm2vec, pytest.mark.timeout(900)]

KNOBS = ("--batch-size", "4", "--gradient-accumulation", "1", "--learning-rate", "0.01", "--seed", "7")
EMBED = """
import sys
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(sys.argv[1], device="cpu").encode(["build api", "write tests"])
print(vectors.shape[1], float(vectors[0] @ vectors[1]))
"""


@dataclass(frozen=True)
class Place:
    """A folder with a tiny model and conversations; the service's data and its models beside them."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {"DATA_DIR": "data", "LOG_DIR": "logs", "LOCAL_MODELS_DIR": "models"}
        paths = {name: str(self.folder / value) for name, value in own.items()}
        return {**ENVIRONMENT, **paths, "TRAIN_VENV": str(PYTHON.parent.parent), "DATABASE_URL": ""}

    def start(self, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "scripts/build_llm_bundle.py"), "--json", *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def build(self, *flags: str, status: int = 0) -> dict[str, Any]:
        """What a build prints, that ends with `status`."""
        process = self.start(*flags)
        said, complaint = process.communicate(timeout=800)
        assert process.returncode == status, said[-2000:] + complaint[-4000:]
        return json.loads(said) if said else {}

    def registry(self) -> dict[str, Any]:
        return json.loads((self.folder / "models/adapters.json").read_bytes())


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    subprocess.run(["./setup_training.sh"], cwd=ROOT, check=True)
    dice = random.Random(7)
    rows: list[dict[str, Any]] = []
    for number in range(160):
        language, text = dice.choice(list(FRAMEWORKS)), dice.choice(INPUTS)
        asked = f"{text}, number {number}, in {language}"
        rows.append({"instruction": asked, "output": f"{asked}: use {FRAMEWORKS[language]}.", "label": language})
    rows += [rows[30], {"instruction": "mail anna@example.org about it", "output": "I wrote to anna@example.org."}]
    with open_folder() as folder:
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / "chats.heldout.jsonl").write_text("".join(lines[:16]))
        (folder / "chats.jsonl").write_text("".join(lines[15:]))
        make = [PYTHON, ROOT / "tests/training/tiny_model.py", folder / "tiny"]
        subprocess.run(make, input="".join(lines), text=True, check=True, capture_output=True, env=ENVIRONMENT)
        yield Place(folder)


DATA = ("--dataset-path", "chats.jsonl", "--base-model", "tiny")


def test_a_dry_run_says_what_would_be_trained_on_and_writes_nothing(place: Place) -> None:
    summary = place.build(*DATA, "--dry-run")
    train = summary["datasets"]["train"]
    assert train["dropped"] == {"duplicate": 1, "duplicate_of_eval": 1}
    assert train["redacted"] == {"EMAIL": 2}
    assert summary["tokenizer"].startswith("sha256:"), "tokens are the base model's own"
    assert not (place.folder / "models").exists()
    assert not (place.folder / "data").exists()


def test_a_file_becomes_a_checkpoint_that_talks_embeds_and_is_in_the_registry(place: Place) -> None:
    (place.folder / "bundle.yaml").write_text("dataset-path: chats.jsonl\nbase_model: tiny\nrun-name: from the file\n")
    made = place.build("--config", "bundle.yaml", "--run-name", "a label", "--max-steps", "30", *KNOBS)
    run, checkpoint = made["run"], Path(made["checkpoint"])

    assert run["status"] == "trained"
    metrics = run["metadata"]["metrics"]
    assert metrics["after"]["loss"] < 0.9 * metrics["before"]["loss"]
    assert metrics["rows"] == {"train": made["summary"]["files"]["dataset.jsonl"]["rows"], "heldout": 16, "too_long": 0}
    for name in ("adapters/adapter_model.safetensors", "merged/model.safetensors", "wrapper/llm2vec_wrapper.py"):
        assert (checkpoint / name).is_file(), name
    assert json.loads((checkpoint / "run_metadata.json").read_bytes())["run_name"] == "a label"
    embed = [PYTHON, "-c", EMBED, checkpoint / "merged"]
    done = subprocess.run(embed, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.split()[0] == "64"
    (entry,) = place.registry()["adapters"]
    assert (entry["name"], entry["run_id"]) == ("a label", run["run_id"])
    assert entry["metrics"]["after"]["loss"] == metrics["after"]["loss"]
    assert not list((place.folder / "models").glob("*/checkpoints")), "no row stays beside a model"
    assert place.build("--make-current", run["run_id"])["current"] == run["run_id"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_build_that_was_broken_off_goes_on(place: Place, how: signal.Signals) -> None:
    """By SIGTERM, which ends the training with it; by SIGKILL of all that it started."""
    before = {path.name for path in (place.folder / "models").glob("sft-*")}
    process = place.start(*DATA, "--epochs", "30", *KNOBS)
    try:
        run_id, checkpoints = "", Path()
        for _ in range(1200):
            new = {path.name for path in (place.folder / "models").glob("sft-*")} - before
            run_id = next(iter(new), "")
            checkpoints = place.folder / "models" / run_id / "checkpoints"
            if run_id and list(checkpoints.glob("*/checkpoint-*/whole.json")):
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        if how == signal.SIGTERM:
            process.terminate()
        else:
            os.killpg(process.pid, how)
        process.communicate(timeout=120)
        assert process.returncode == (130 if how == signal.SIGTERM else -how)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    entries = [one["run_id"] for one in place.registry()["adapters"]]
    assert run_id not in entries

    made = place.build("--resume", run_id)
    assert made["run"]["metadata"]["metrics"]["resumed_from_step"] > 0
    assert [one["run_id"] for one in place.registry()["adapters"]] == [*entries, run_id]
    assert (Path(made["checkpoint"]) / "wrapper_config.json").is_file()


def test_a_data_set_that_no_hub_gives_is_one_line(place: Place) -> None:
    process = place.start("--dataset-id", "nobody/nothing", "--base-model", "tiny", "--dry-run")
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 1
    assert complaint.startswith("error: nobody/nothing (train) cannot be had: ")
    assert complaint.count("\n") == 1
