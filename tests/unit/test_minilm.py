"""The model's files: wrong ones are refused, missing or damaged ones made again."""

from pathlib import Path

import pytest

from app.clients.embeddings import minilm
from app.domain.errors import ModelUnavailable


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders converted so far, by a quick stand-in for the converter."""
    made: list[Path] = []

    def convert(_: Path, folder: Path) -> None:
        made.append(folder)
        (folder / "model.onnx").write_text("graph")
        (folder / "weights.bin").write_text("weights")

    monkeypatch.setattr(minilm, "_convert", convert)
    return made


def test_an_intact_model_is_made_once(tmp_path: Path, conversions: list[Path]) -> None:
    first = minilm.ensure_model(tmp_path / "models")
    second = minilm.ensure_model(tmp_path / "models")

    assert first == second
    assert first.read_text() == "graph"
    assert len(conversions) == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == [minilm.FOLDER]


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_model_is_made_again(tmp_path: Path, conversions: list[Path], name: str, damage: str) -> None:
    file = minilm.ensure_model(tmp_path).parent / name
    if damage == "change":
        file.write_text("00")
    else:
        file.unlink()

    model = minilm.ensure_model(tmp_path)

    assert len(conversions) == 2
    assert {path.name for path in model.parent.iterdir()} == {"model.onnx", "weights.bin", "SHA256SUMS"}
    assert (model.parent / "weights.bin").read_text() == "weights"
    assert [path.name for path in tmp_path.iterdir()] == [minilm.FOLDER]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: Path, folder: Path) -> None:
        (folder / "weights.bin").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(minilm, "_convert", convert)

    with pytest.raises(OSError, match="disk full"):
        minilm.ensure_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_with_another_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", "0" * 64)

    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is not the expected file"):
        minilm.ensure_model(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")

    with pytest.raises(ModelUnavailable, match="no-such-package"):
        minilm.ensure_model(tmp_path)


def test_the_tokenizer_neither_pads_nor_cuts_at_128() -> None:
    tokenizer = minilm.load_tokenizer()

    assert len(tokenizer.encode("two words").ids) == 4
    assert len(tokenizer.encode("word " * 200).ids) == 202
    assert len(tokenizer.encode("word " * 300).ids) == minilm.MAX_PIECES
