"""Exported graphs answer as the weights do, whatever the length and the company of a text."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("openvino")

from fine_tuning.embedding.encoding import ALONE, encode, open_model
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.graph import encode_by_weights, export_graph, export_openvino, load_weights
from serving.golden import FILE, least_cosine, read_golden
from serving.pooling import normalised
from tests.fine_tuning.tiny import write_model

pytestmark = pytest.mark.fine_tuning

TEXTS = ["a", "where is the boat of the river", "the lamp has its table " * 20]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights only."""
    return write_model(tmp_path)


@pytest.mark.parametrize(("export", "backend"), [(export_graph, "onnx"), (export_openvino, "openvino")])
def test_a_graph_answers_as_the_weights(folder: Path, export: object, backend: str) -> None:
    assert callable(export)
    graph = export(folder)

    opened = open_model(folder, backend)
    expected = encode_by_weights(load_weights(folder), TEXTS)
    assert graph.is_file()
    np.testing.assert_allclose(normalised(encode(opened, TEXTS, ALONE)), expected, atol=1e-5)
    np.testing.assert_allclose(normalised(encode(opened, TEXTS)), expected, atol=1e-5)
    golden = read_golden(folder / FILE)
    assert golden is not None
    assert least_cosine(opened, golden) > 0.99999
    assert (opened.info.backend, opened.info.is_batchable) == (backend, True)


def test_layers_are_fused(folder: Path) -> None:
    import onnx

    graph = onnx.load(str(export_graph(folder))).graph

    assert [node.op_type for node in graph.node].count("Attention") == 2


def test_modules_that_no_graph_has_are_refused(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(folder), device="cpu")
    model.append(Dense(32, 16))
    model.save_pretrained(str(folder), create_model_card=False)

    with pytest.raises(FineTuningError, match="only sentence-transformers can run: Dense"):
        export_graph(folder)
    assert not (folder / "onnx" / "model.onnx").exists()
    assert not (folder / FILE).exists()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf8")

    with pytest.raises(FineTuningError, match="cannot load the weights"):
        export_graph(tmp_path)
