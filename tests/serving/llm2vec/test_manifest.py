"""What a checkpoint's manifest may say, and that everything else is one line with the path to it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ModelRefused
from serving.llm2vec.manifest import (
    EXPORTED,
    TRAINED,
    Artifacts,
    Embedding,
    Manifest,
    artifact,
    parse_manifest,
    read_manifest,
)

DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "base_model": "local-models/smollm2-135m-instruct",
    "backend": "huggingface",
    "dtype": "bfloat16",
    "quantization": {
        "load_in_4bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_use_double_quant": True,
    },
    "embedding": {
        "dimension": 576,
        "max_length": 512,
        "pooling": "mean",
        "normalise": True,
        "attention": "causal",
        "prompt": "",
    },
    "chat": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 256, "do_sample": True},
    "artifacts": {"tokenizer": "tokenizer", "adapters": "adapters", "merged": "merged", "gguf": None},
}
TINY = Manifest(base_model="base", embedding=Embedding(dimension=64), artifacts=Artifacts(merged="merged"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with another value at the path; without that key for the value `...`."""
    document = json.loads(json.dumps(DOCUMENT))
    *parents, key = path.split(".")
    place = document
    for each in parents:
        place = place[each]
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return document


def refusal(folder: Path, document: Any) -> str:
    content = document if isinstance(document, str) else json.dumps(document)
    (folder / TRAINED).write_text(content, "utf8")
    with pytest.raises(ModelRefused) as refused:
        read_manifest(folder)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_a_document_is_read_and_written_back_as_it_was(tmp_path: Path) -> None:
    read = parse_manifest(json.dumps(DOCUMENT))
    read.write(tmp_path / TRAINED)

    assert json.loads((tmp_path / TRAINED).read_text("utf8")) == read.to_json() == DOCUMENT
    assert read_manifest(tmp_path) == read
    assert [path.name for path in tmp_path.iterdir()] == [TRAINED]


def test_the_exported_manifest_goes_before_the_trained_one(tmp_path: Path) -> None:
    TINY.write(tmp_path / TRAINED)
    exported = {"manifest_version": 1, "created_at": "2026-11-22T10:00:00Z", "export_dir": "local-models/tiny"}
    parse_manifest(json.dumps({**DOCUMENT, **exported})).write(tmp_path / EXPORTED)

    read = read_manifest(tmp_path)

    assert (read.embedding.dimension, read.manifest_version) == (576, 1)
    assert read.created_at == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert read.to_json() == {**DOCUMENT, **exported}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("pooling", "mean", "there is no key pooling"),
        ("embedding.poolng", "mean", "there is no key embedding.poolng"),
        ("chat.stop", [], "there is no key chat.stop"),
        ("artifacts.onnx", "onnx", "there is no key artifacts.onnx"),
        ("base_model", ..., "base_model is missing"),
        ("embedding.dimension", ..., "embedding.dimension is missing"),
        ("artifacts", ..., "artifacts is missing"),
        ("schema_version", 2, "schema_version=2"),
        ("backend", "vllm", 'backend="vllm"'),
        ("dtype", "int8", 'dtype="int8"'),
        ("base_model", "", "base_model"),
        ("base_model", 7, "base_model=7"),
        ("embedding", [], "embedding is not usable"),
        ("embedding.pooling", "cls", 'embedding.pooling="cls"'),
        ("embedding.max_length", "512", 'embedding.max_length="512"'),
        ("embedding.max_length", 0, "embedding.max_length=0"),
        ("embedding.normalise", 1, "embedding.normalise=1"),
        ("embedding.attention", None, "embedding.attention=null"),
        ("quantization.bnb_4bit_quant_type", "nf5", "quantization.bnb_4bit_quant_type"),
        ("chat.temperature", -1, "chat.temperature=-1"),
        ("chat.top_p", 1.5, "chat.top_p=1.5"),
        ("chat.max_new_tokens", 2.5, "chat.max_new_tokens=2.5"),
        ("chat.temperature", float("nan"), "chat.temperature"),
        ("artifacts.merged", "/etc", 'artifacts.merged="/etc"'),
        ("artifacts.merged", "../other", 'artifacts.merged="../other"'),
        ("artifacts.merged", "merged/../../other", "artifacts.merged"),
        ("artifacts.merged", ".", "artifacts.merged"),
        ("artifacts.gguf", "", "artifacts.gguf"),
        ("artifacts.gguf", "C:\\weights", "artifacts.gguf"),
        ("artifacts.tokenizer", None, "artifacts.tokenizer=null"),
        ("artifacts", {"tokenizer": "tokenizer"}, "adapters or merged has to be named"),
        ("created_at", "yesterday", 'created_at="yesterday"'),
    ],
)
def test_what_a_manifest_may_not_say_is_named_by_its_path(tmp_path: Path, path: str, value: Any, said: str) -> None:
    message = refusal(tmp_path, changed(path, value))

    assert said in message
    assert str(tmp_path / TRAINED) in message


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', '{"a": 1', "\ufeff{}"])
def test_a_document_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    refusal(tmp_path, content)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="has no manifest"):
        read_manifest(tmp_path)
    with pytest.raises(ModelRefused, match="is not a folder"):
        read_manifest(tmp_path / "missing")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "merged").symlink_to(outside)
    TINY.write(folder / TRAINED)

    with pytest.raises(ModelRefused, match=r"artifacts\.merged='merged' leads out of the folder"):
        read_manifest(folder)

    (folder / "merged").unlink()
    (folder / "merged").symlink_to("merged")
    with pytest.raises(ModelRefused, match=r"artifacts\.merged"):
        artifact(folder, read_manifest(folder), "merged")


def test_a_manifest_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    TINY.write(tmp_path / "elsewhere.json")
    (folder / TRAINED).symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(ModelRefused, match="leads out of the folder"):
        read_manifest(folder)


def test_an_artefact_is_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()

    assert artifact(tmp_path, TINY, "merged") == (tmp_path / "merged").resolve()
    assert artifact(tmp_path, TINY, "gguf") is None
    with pytest.raises(ModelRefused, match=r"tokenizer, which the manifest names as artifacts\.tokenizer, is not"):
        artifact(tmp_path, TINY, "tokenizer")


def test_a_manifest_is_checked_as_it_is_built() -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        Artifacts(merged="../other")
