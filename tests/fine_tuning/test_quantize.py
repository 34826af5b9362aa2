"""Quantizing a tiny model for real: the folder is whole and served, or refused with its report beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("nncf")

from fine_tuning.embedding.encoding import encode, open_model
from fine_tuning.embedding.quantize_command import main
from serving.golden import FILE, least_cosine, read_golden
from serving.pooling import normalised
from tests.fine_tuning.tiny import write_model, write_pairs

pytestmark = pytest.mark.fine_tuning

ANYTHING = "least_mean_cosine: null\nleast_worst_cosine: null\nmost_size: null\nleast_speed: null\n"
TEXTS = ["where is the boat of the river", "the lamp has its table beside a violin and a mirror", "a"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights only."""
    return write_model(tmp_path_factory.mktemp("models"))


def run(source: Path, output: Path, policy: str, flags: Sequence[str] = ()) -> int:
    """The command, with this policy."""
    file = output.with_name("policy.yaml")
    file.write_text(policy, "utf8")
    return main(["--model-path", str(source), "--output", str(output), "--policy", str(file), *flags])


@pytest.mark.parametrize(
    ("dtype", "runtime", "shares_runs"),
    [("int8", "openvino", True), ("int8", "onnx", True), ("int8-dynamic", "onnx", False), ("int4", "openvino", True)],
)
def test_a_quantized_folder_is_served(
    source: Path, tmp_path: Path, dtype: str, runtime: str, shares_runs: bool
) -> None:
    output, pairs = tmp_path / "small", write_pairs(tmp_path / "pairs.jsonl", 40)

    flags = ["--dtype", dtype, "--runtime", runtime, "--calibration", str(pairs), "--eval-data", str(pairs)]
    assert run(source, output, f"{ANYTHING}most_mrr_loss: null\nleast_speed_alone: null\n", flags) == 0

    opened, original = open_model(output), open_model(source)
    together, alone = encode(opened, TEXTS), np.concatenate([encode(opened, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    cosines = (normalised(together) * normalised(encode(original, TEXTS))).sum(axis=1)
    assert cosines.min() > 0.9
    golden = read_golden(output / FILE)
    assert golden is not None
    assert golden.least_cosine <= least_cosine(opened, golden)
    report = json.loads((output / "quantization.json").read_text("utf8"))
    assert (opened.info.backend, opened.info.is_batchable) == (runtime, shares_runs)
    assert (report["dtype"], report["refusals"], report["mrr"]["queries"]) == (dtype, [], 40)
    assert report["after"]["size_mb"] < report["before"]["size_mb"] / 2
    assert not (output / "model.safetensors").exists()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_the_policy_refuses_leaves_its_report_alone(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "small"
    policy = "least_mean_cosine: 1\nmost_size: 0.0001\nleast_speed: null\nleast_worst_cosine: null\n"

    assert run(source, output, policy) == 1
    reasons = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused: ")]
    report = json.loads((tmp_path / "small.quantization.json").read_text("utf8"))
    assert not output.exists()
    assert len(reasons) == len(report["refusals"]) == 2

    assert run(source, output, policy, ["--force"]) == 0
    assert json.loads((output / "quantization.json").read_text("utf8"))["is_forced"] is True
    assert not (tmp_path / "small.quantization.json").exists()
    assert run(source, output, policy, ["--force"]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--dtype", "bnb-int8"], "bitsandbytes is for a GPU"), (["--runtime", "torch"], "invalid choice")],
)
def test_what_cannot_be_done_is_said(
    source: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    try:
        status = run(source, tmp_path / "small", ANYTHING, flags)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_a_folder_without_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "small", ANYTHING) == 2
    assert "model.safetensors is missing" in capsys.readouterr().err
