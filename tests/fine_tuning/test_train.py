"""A tiny model is fine-tuned for real: it learns, a kill leaves nothing half done, and a resumed run ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("peft")

from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from fine_tuning.embedding import run
from fine_tuning.embedding.command import main
from fine_tuning.embedding.workplace import work_folder
from serving.backends import open_backend
from serving.golden import FILE, least_cosine, read_golden
from serving.settings import ServeSettings
from tests.fine_tuning.tiny import WIDTH, write_model, write_pairs

pytestmark = pytest.mark.fine_tuning

SCRIPT = Path(__file__).parents[2] / "fine_tuning/training/scripts/train_embedding_model.py"
TEXTS = ["where is the boat of the river", "the lamp has its table beside a violin"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 160)


def arguments(data: Path, output: Path, base: Path, *more: str) -> list[str]:
    chosen = ["--data", str(data), "--output", str(output), "--base-model", str(base)]
    return [*chosen, "--batch-size", "16", "--lr", "5e-3", "--eval-sample-size", "20", *more]


def metrics(output: Path) -> dict[str, Any]:
    return json.loads((output / "metrics.json").read_text("utf8"))


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in metrics(output)["loss"]]


def vectors(folder: Path) -> np.ndarray:
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)


def test_it_learns_and_is_served_as_a_graph(tmp_path: Path, base: Path, data: Path) -> None:
    output = tmp_path / "model"
    assert main(arguments(data, output, base, "--epochs", "4", "--matryoshka", "16")) == 0

    found = metrics(output)
    assert found["after"]["mrr"] > found["before"]["mrr"] + 0.1
    assert found["rows"] == {"read": 160, "train": 140, "heldout": 20, "mined_negatives": 0}
    assert found["steps"] == 36
    assert found["loss"][-1]["loss"] < found["loss"][0]["loss"]
    assert {"README.md", "loss.png", "run_metadata.json", FILE} <= {path.name for path in output.iterdir()}
    assert not any(text in (output / "README.md").read_text() for text in ("boat", "river")), "quotes nobody's texts"
    assert not work_folder(output).exists()

    backend = open_backend(ServeSettings(_env_file=None, model=output, device="cpu"))
    golden = read_golden(output / FILE)
    assert golden is not None
    assert (backend.info.backend, backend.info.dimension) == ("onnx", WIDTH)
    assert backend.info.matryoshka_dimensions == (WIDTH, 16)
    assert least_cosine(backend, golden) > 0.9999


def test_an_adapter_is_merged_into_the_weights(tmp_path: Path, base: Path, data: Path) -> None:
    from peft import PeftModel

    output = tmp_path / "model"
    assert (
        main(arguments(data, output, base, "--use-lora", "--keep-adapter", "--batch-size", "128", "--epochs", "4")) == 0
    )

    assert metrics(output)["steps"] == 8, "batches so large are computed in parts"
    assert not any("lora" in name for name in load_file(output / "model.safetensors"))
    unmerged = SentenceTransformer(str(base), device="cpu")
    unmerged[0].model = PeftModel.from_pretrained(unmerged.transformers_model, str(output / "adapter")).base_model.model
    np.testing.assert_allclose(vectors(output), unmerged.encode(TEXTS), atol=1e-5)
    assert np.abs(vectors(output) - vectors(base)).max() > 0.01


def test_a_killed_run_leaves_no_output_and_ends_the_same_when_resumed(tmp_path: Path, base: Path, data: Path) -> None:
    settings = ["--epochs", "12", "--save-every", "6"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(arguments(data, whole, base, *settings)) == 0

    command = [sys.executable, str(SCRIPT), *arguments(data, killed, base, *settings)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(work_folder(killed).glob("checkpoints/checkpoint-*/whole.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()

    assert main(arguments(data, killed, base, *settings)) == 2, "neither thrown away nor gone on from unasked"
    assert main(arguments(data, killed, base, *settings, "--resume", "--seed", "1")) == 2, "another run's checkpoints"
    assert main(arguments(data, killed, base, *settings, "--resume")) == 0
    assert metrics(killed)["resumed_from_step"] >= 6
    assert losses(killed) == pytest.approx(losses(whole), rel=1e-3)
    np.testing.assert_allclose(vectors(killed), vectors(whole), atol=1e-5)
    assert main(arguments(data, killed, base, *settings, "--resume")) == 0, "finished already"
    assert main(arguments(data, killed, base, *settings)) == 2, "there is something in the way"


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, base: Path, data: Path) -> None:
    output = tmp_path / "model"
    command = [sys.executable, str(SCRIPT), *arguments(data, output, base, "--epochs", "500")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (work_folder(output) / "checkpoints").is_dir():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume (RESUME=1) goes on" in said.splitlines()[-1]
    assert not output.exists()


def test_the_guides_one_pair_with_the_built_in_model(tmp_path: Path) -> None:
    pair = tmp_path / "pairs.tsv"
    pair.write_text("hello\tworld\n")
    output = tmp_path / "test-embed"
    assert main(["--data", str(pair), "--output", str(output), "--epochs", "1", "--batch-size", "8"]) == 0

    assert (metrics(output)["before"], metrics(output)["steps"]) == (None, 1)
    assert open_backend(ServeSettings(_env_file=None, model=output, device="cpu")).info.dimension == 384
    assert "`apache-2.0`" in (output / "README.md").read_text()


def test_too_little_memory_is_told(
    tmp_path: Path, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(run, "train", fail)
    assert main(arguments(data, tmp_path / "model", base)) == 1
    assert "not enough memory for batches of 16: lower BATCH" in capsys.readouterr().err.splitlines()[-1]
    assert os.listdir(tmp_path) == [work_folder(tmp_path / "model").name]
