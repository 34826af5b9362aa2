"""What a folder says of itself is read, and what it does not say is never guessed."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.backends import open_backend
from serving.errors import ModelRefused
from serving.folder import read_folder
from serving.settings import ServeSettings
from tests.serving.folders import CROSS_ENCODER, change_folder, link_folder
from tests.weights import MINILM

POOLING = "1_Pooling/config.json"
NO_FLAGS = {"pooling_mode_mean_tokens": False}


@pytest.fixture
def folder(minilm_folder: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, to be changed."""
    return link_folder(minilm_folder, tmp_path / "own")


def test_a_sentence_transformers_folder_says_everything(minilm_folder: Path) -> None:
    found = read_folder(minilm_folder)

    assert (found.name, found.kind, found.backend) == ("minilm", "embedding", "onnx")
    assert (found.pooling, found.is_normalised, found.max_tokens) == (("mean",), True, 256)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pooling_mode_cls_token": True, **NO_FLAGS}, ("cls",)),
        ({"pooling_mode_lasttoken": True, **NO_FLAGS}, ("lasttoken",)),
        ({"pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode": "weightedmean"}, ("weightedmean",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
    ],
)
def test_the_pooling_is_the_one_that_is_written(
    folder: Path, values: dict[str, Any], expected: tuple[str, ...]
) -> None:
    change_folder(folder, {POOLING: values})

    assert read_folder(folder).pooling == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pooling_mode": "attention"}, "unknown pooling, 'attention'"),
        ({"pooling_mode_of_the_future": True, **NO_FLAGS}, "unknown pooling, 'pooling_mode_of_the_future'"),
        (NO_FLAGS, "names no pooling"),
    ],
)
def test_an_unknown_pooling_is_refused(folder: Path, values: dict[str, Any], words: str) -> None:
    change_folder(folder, {POOLING: values})

    with pytest.raises(ModelRefused, match=words):
        read_folder(folder)


def test_a_graph_of_token_vectors_without_a_pooling_is_refused(folder: Path) -> None:
    (folder / "modules.json").unlink()

    with pytest.raises(ModelRefused, match="does not say how tokens are pooled"):
        open_backend(ServeSettings(_env_file=None, model=folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/model.onnx", POOLING])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(ModelRefused) as caught:
        read_folder(folder)

    assert "\n" not in str(caught.value)
    assert name.partition("/")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["modules.json", "config.json", "sentence_bert_config.json", "tokenizer.json"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{", "utf8")

    with pytest.raises(ModelRefused, match=name) as caught:
        open_backend(ServeSettings(_env_file=None, model=folder))

    assert "\n" not in str(caught.value)


def test_a_graph_that_is_none_is_refused_in_one_line(folder: Path) -> None:
    graph = folder / "onnx" / "model.onnx"
    graph.unlink()
    graph.write_bytes(b"no graph")

    with pytest.raises(ModelRefused, match="cannot load") as caught:
        open_backend(ServeSettings(_env_file=None, model=folder))

    assert "\n" not in str(caught.value)


def test_modules_that_a_graph_does_not_hold_are_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))

    with pytest.raises(ModelRefused, match="Dense"):
        read_folder(folder)


def test_several_graphs_of_which_none_is_the_usual_one_are_refused(folder: Path) -> None:
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "model_a.onnx")
    (folder / "onnx" / "model_b.onnx").write_bytes(b"")

    with pytest.raises(ModelRefused, match=r"model_a\.onnx, model_b\.onnx"):
        read_folder(folder)


def test_weights_need_sentence_transformers_and_an_intermediate_form_needs_openvino(tmp_path: Path) -> None:
    openvino = link_folder(MINILM, tmp_path / "openvino")
    (openvino / "openvino").mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (openvino / "openvino" / name).write_text("")

    assert read_folder(MINILM).backend == "sentence-transformers"
    assert read_folder(openvino).backend == "openvino"
    assert read_folder(openvino, "sentence-transformers").backend == "sentence-transformers"


def test_a_graph_that_the_folder_lacks_is_not_replaced_by_another(minilm_folder: Path) -> None:
    with pytest.raises(ModelRefused, match="nothing for openvino"):
        read_folder(minilm_folder, "openvino")


def test_a_cross_encoder_is_known_by_its_configuration() -> None:
    found = read_folder(CROSS_ENCODER)

    assert (found.kind, found.max_tokens) == ("cross-encoder", 128)


def test_prompts_and_dimensions_are_read(folder: Path) -> None:
    prompts = {"query": "query: ", "document": ""}
    changes = {"prompts": prompts, "default_prompt_name": "query"}
    change_folder(folder, {"config_sentence_transformers.json": changes})
    change_folder(folder, {"config.json": {"matryoshka_dimensions": [64, 128]}})

    found = read_folder(folder)

    assert (found.prompts, found.default_prompt_name) == (prompts, "query")
    assert (found.is_matryoshka, found.matryoshka_dimensions) == (True, (64, 128))


def test_prompts_that_must_stay_out_of_the_pooling_are_refused(folder: Path) -> None:
    change_folder(folder, {"config_sentence_transformers.json": {"prompts": {"query": "q: "}}})
    change_folder(folder, {POOLING: {"include_prompt": False}})

    with pytest.raises(ModelRefused, match="leaves prompts out"):
        read_folder(folder)


def test_the_length_is_that_of_model_and_tokenizer_where_nothing_else_is_written(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    change_folder(folder, {"tokenizer_config.json": {"model_max_length": 1e30}})
    assert read_folder(folder).max_tokens == 512

    change_folder(folder, {"config.json": {"max_position_embeddings": None}})
    with pytest.raises(ModelRefused, match="how many tokens"):
        read_folder(folder)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="is not a folder"):
        read_folder(tmp_path / "nothing")
