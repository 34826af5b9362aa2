"""A cross-encoder's ONNX graph, made without torch from the weights of a BertForSequenceClassification.

The blocks are those of the built-in embedding model (`minilm`), with both segments embedded, and on top of the first
piece's vector BERT's pooler (dense, tanh) and the classifier. Kept as that model is: a folder of `model.onnx`,
`weights.bin` and SHA256SUMS under DATA_DIR/models, made again when it does not match or when the weights change.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.clients.embeddings import minilm
from app.domain.errors import ModelUnavailable

VERSION = "v1"
"""Raise it when the graph below changes: it is made again then."""

FILES = ("model.onnx", "weights.bin")

_Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Shape:
    """What the weights alone do not tell of a BERT."""

    layers: int
    heads: int
    epsilon: float


def ensure_graph(source: Path, models_dir: Path) -> Path:
    """The path of the graph for the `config.json` and `model.safetensors` in `source`, made where there is none.

    Its inputs are `input_ids` and `token_type_ids`, int32 (pairs, pieces), padded with zeros on the right, and
    `lengths` int32 (pairs,); its output is `logits` float32 (pairs, labels). Raises ModelUnavailable when the files
    are not those of a BERT that classifies sequences.
    """
    shape = _shape_in(source / "config.json")
    digest = hashlib.sha256(minilm.sha256_of(source / "model.safetensors").encode() + repr(shape).encode()).hexdigest()
    folder = models_dir / f"{source.resolve().name}-{digest[:8]}-rerank-{VERSION}"
    if not minilm.is_intact(folder):
        weights = source / "model.safetensors"
        minilm.write_folder(folder, lambda draft: _convert(weights, shape, draft), FILES)
    return folder / "model.onnx"


def _shape_in(config: Path) -> _Shape:
    try:
        values = json.loads(config.read_text("utf8"))
        is_known = (
            values["model_type"] == "bert"
            and values.get("hidden_act", "gelu") == "gelu"
            and values.get("position_embedding_type", "absolute") == "absolute"
        )
        shape = _Shape(values["num_hidden_layers"], values["num_attention_heads"], values.get("layer_norm_eps", 1e-12))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{config} is not the configuration of a BERT.", "wrong_shape") from error
    if not is_known:
        raise ModelUnavailable(
            f"{config} is of another architecture than BERT with GELU: export it to model.onnx.", "wrong_shape"
        )
    return shape


def _convert(source: Path, shape: _Shape, folder: Path) -> None:
    # Imported here: a start that finds the graph ready needs neither.
    import onnx  # noqa: PLC0415

    try:
        model = _PairGraph(_weights_in(source), shape).model()
    except (KeyError, IndexError, ValueError) as error:
        raise ModelUnavailable(f"{source} lacks weights of a BERT that classifies sequences.", "wrong_shape") from error
    onnx.save_model(
        model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1024
    )


def _weights_in(source: Path) -> _Weights:
    """The weights in float32, by their names without the model's own prefix."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    try:
        weights: dict[str, NDArray[Any]] = load_file(source)
    except (SafetensorError, OSError, TypeError) as error:
        raise ModelUnavailable(f"{source} cannot be read as safetensors.", "wrong_shape") from error
    return {name.removeprefix("bert."): value.astype(np.float32) for name, value in weights.items()}


class _PairGraph(minilm.Graph):
    """The network of BERT for two segments, with a classifier, as ONNX nodes."""

    def __init__(self, weights: _Weights, shape: _Shape) -> None:
        super().__init__(weights)
        self._shape = shape

    def model(self) -> Any:
        """The whole model, float32, opset 17 with ONNX Runtime's contributed operators."""
        hidden = self._embed()
        for layer in range(self._shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        self._classify(hidden)
        helper, kind = self._onnx.helper, self._onnx.TensorProto
        labels = len(self._weights["classifier.weight"])
        graph = helper.make_graph(
            self._nodes,
            "cross-encoder",
            [
                helper.make_tensor_value_info("input_ids", kind.INT32, ["pairs", "pieces"]),
                helper.make_tensor_value_info("token_type_ids", kind.INT32, ["pairs", "pieces"]),
                helper.make_tensor_value_info("lengths", kind.INT32, ["pairs"]),
            ],
            [helper.make_tensor_value_info("logits", kind.FLOAT, ["pairs", labels])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _embed(self) -> str:
        """Sum of word, position and segment vectors, normalised."""
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
        tables = [self._keep(f"embeddings.{name}.weight") for name in names]
        inputs = ["input_ids", "token_type_ids", *tables, self._keep("embeddings.LayerNorm.bias")]
        node = self._onnx.helper.make_node(
            "EmbedLayerNormalization",
            inputs,
            ["embedded", "unused_mask"],
            domain="com.microsoft",
            epsilon=self._shape.epsilon,
        )
        self._nodes.append(node)
        return "embedded"

    def _classify(self, hidden: str) -> None:
        """The pooler on each pair's first piece, then the classifier."""
        place, axis = self._constant("place", np.array([0], np.int64)), self._constant("axis", np.array([1], np.int64))
        first = self._add("Squeeze", [self._add("Gather", [hidden, place], axis=1), axis])
        dense = self._add("Gemm", [first, self._keep("pooler.dense.weight"), self._keep("pooler.dense.bias")], transB=1)
        inputs = [self._add("Tanh", [dense]), self._keep("classifier.weight"), self._keep("classifier.bias")]
        self._nodes.append(self._onnx.helper.make_node("Gemm", inputs, ["logits"], transB=1))

    def _add(self, operator: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        """As there, with this model's own numbers where the built-in one's are fixed."""
        own = {"num_heads": self._shape.heads, "epsilon": self._shape.epsilon}
        return super()._add(operator, inputs, domain, **{name: own.get(name, attributes[name]) for name in attributes})
