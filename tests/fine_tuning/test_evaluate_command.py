"""`scripts/eval_embedding_model.py` on a real model, as the server runs it."""

import json
from pathlib import Path

import pytest

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import RetrievalSet
from fine_tuning.embedding.evaluate_command import main
from fine_tuning.embedding.evaluation_data import read_evaluation
from tests.serving.folders import write_minilm

PAIRS = [
    {"text_a": "How do I reset my password?", "text_b": "Steps to change a forgotten passphrase", "negative": ["Tea"]},
    {"text_a": "cheap flights to Rome", "text_b": "low-cost air tickets to Italy's capital"},
    {"text_a": "recipe for lentil soup", "text_b": "how to cook a stew of lentils", "negative": "lens cleaning"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as a folder."""
    return write_minilm(tmp_path_factory.mktemp("models") / "minilm")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A file of pairs."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS), "utf8")
    return file


def test_a_model_is_measured_and_compared(
    folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    given = ["--model", str(folder), "--data", str(pairs), "--baseline", str(folder), "--json", str(out)]

    assert main([*given, "--fail-under", "0.9", "--k", "3"]) == 0
    figures = json.loads(out.read_text("utf8"))
    assert figures["mrr/model"] == figures["hit@3/model"] == 1
    assert (figures["mrr/gain"], figures["mrr/gain/low"], figures["mrr/gain/high"]) == (0, 0, 0)
    assert "1.0000 (1.0000 to 1.0000)" in capsys.readouterr().out


def test_a_model_below_the_bar_is_exit_status_1(folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = [
        {"text_a": pair["text_a"], "text_b": other["text_b"]}
        for pair, other in zip(PAIRS, PAIRS[1:] + PAIRS[:1], strict=True)
    ]
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in worse), "utf8")

    assert main(["--model", str(folder), "--data", str(pairs), "--fail-under", "0.9"]) == 1
    assert "is below 0.9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [("nowhere", "pairs.jsonl", "is not a folder"), ("model", "nothing.jsonl", "cannot be read")],
)
def test_what_is_missing_is_one_line(
    folder: Path, pairs: Path, model: str, data: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(folder) if model == "model" else str(pairs.with_name(model))

    assert main(["--model", source, "--data", str(pairs.with_name(data))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "http://127.0.0.1:9/embed", "--data", str(pairs)]) == 2
    assert "gave no vectors" in capsys.readouterr().err


def write_set(folder: Path, qrels: str) -> Path:
    """A retrieval set in BEIR's layout."""
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "what"}\n', "utf8")
    (folder / "corpus.jsonl").write_text('{"_id": "d", "title": "Head", "text": "body"}\n', "utf8")
    (folder / "qrels.tsv").write_text(qrels, "utf8")
    return folder


def test_a_folder_is_a_retrieval_set(tmp_path: Path) -> None:
    found = read_evaluation(write_set(tmp_path, "query-id\tcorpus-id\tscore\nq\td\t2\n"))

    assert found == RetrievalSet({"q": "what"}, {"d": "Head body"}, {"q": {"d": 2.0}})


@pytest.mark.parametrize(
    ("qrels", "said"),
    [("q\tx\t1\n", r"qrels.tsv:1: there is no such"), ("q\td\n", "qrels.tsv names no"), ("q\td\t0\n", "no relevant")],
)
def test_a_wrong_retrieval_set_names_its_line(tmp_path: Path, qrels: str, said: str) -> None:
    with pytest.raises(FineTuningError, match=said):
        read_evaluation(write_set(tmp_path, qrels))
