"""Real model folders, written from the weights that come with the service."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from app.clients.embeddings import minilm
from tests.weights import MINILM

CROSS_ENCODER = Path(__file__).parents[1] / "data" / "tiny_cross_encoder"

_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)
CALIBRATION = ["the cat sat on the mat", "interest rates rose by half a point", "word " * 60, "naïve café 東京"]


class _TokenGraph(minilm.Graph):
    """The model without its pooling: the vectors of tokens, from the usual two inputs."""

    def model(self) -> Any:
        made = super().model()
        helper, kind = onnx.helper, onnx.TensorProto
        del made.graph.input[:], made.graph.output[:]
        made.graph.input.extend(
            helper.make_tensor_value_info(name, kind.INT32, ["texts", "tokens"]) for name in ("input_ids", "lengths")
        )
        made.graph.output.append(
            helper.make_tensor_value_info("last_hidden_state", kind.FLOAT, ["texts", "tokens", minilm.SPACE.dimension])
        )
        # The quantizer cannot know the types of these operators' outputs otherwise.
        made.graph.value_info.extend(
            helper.make_tensor_value_info(each, kind.FLOAT, None)
            for node in made.graph.node
            for each in node.output
            if each not in {"last_hidden_state", "unused_mask"}
        )
        for named in [*made.graph.input, *made.graph.node]:
            _rename(named)
        return made

    def _pool(self, hidden: str) -> None:
        self._nodes.append(self._onnx.helper.make_node("Identity", [hidden], ["last_hidden_state"]))


def _rename(named: Any) -> None:
    """The attention takes a mask as it takes lengths."""
    if isinstance(named, onnx.ValueInfoProto):
        named.name = named.name.replace("lengths", "attention_mask")
    else:
        named.input[:] = [each.replace("lengths", "attention_mask") for each in named.input]


def write_minilm(folder: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers saves it with an ONNX export beside it. `changes`: by file, keys of
    its JSON object to set; None as a value takes one out."""
    for name in _FILES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MINILM / name, target)
    (folder / "onnx").mkdir()
    onnx.save_model(_TokenGraph(load_file(MINILM / "model.safetensors")).model(), str(folder / "onnx" / "model.onnx"))
    change_folder(folder, changes or {})
    return folder


def change_folder(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set keys in JSON files of a folder; None takes one out."""
    for name, values in changes.items():
        document = {**json.loads((folder / name).read_text("utf8")), **values}
        kept = {key: value for key, value in document.items() if value is not None}
        (folder / name).write_text(json.dumps(kept), "utf8")


def link_folder(source: Path, folder: Path) -> Path:
    """A copy of a folder whose graphs are links to those of `source`."""
    shutil.copytree(source, folder, copy_function=_link_or_copy)
    return folder


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith((".onnx", ".xml", ".bin", ".safetensors")):
        Path(target).symlink_to(Path(source).resolve())
    else:
        shutil.copyfile(source, target)


def write_dynamic_int8(source: Path, folder: Path) -> Path:
    """The folder with its products in dynamic int8: scaled by the largest number of the whole run."""
    link_folder(source, folder)
    graph = folder / "onnx" / "model.onnx"
    graph.unlink()
    quantize_dynamic(str(source / "onnx" / "model.onnx"), str(graph), op_types_to_quantize=["MatMul"], per_channel=True)
    return folder


def write_static_int8(source: Path, folder: Path) -> Path:
    """The folder with its products in static int8: scaled by numbers found beforehand."""
    link_folder(source, folder)
    graph = folder / "onnx" / "model.onnx"
    graph.unlink()
    quantize_static(
        str(source / "onnx" / "model.onnx"),
        str(graph),
        _Calibration(source),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
    )
    return folder


class _Calibration(CalibrationDataReader):
    """What the model is fed while the ranges of its numbers are found."""

    def __init__(self, folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        self._ids: Iterator[list[int]] = iter([tokenizer.encode(text).ids for text in CALIBRATION])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """One text, or None at the end."""
        ids = next(self._ids, None)
        if ids is None:
            return None
        return {"input_ids": np.array([ids], np.int32), "attention_mask": np.ones((1, len(ids)), np.int32)}


def write_openvino(source: Path, folder: Path) -> Path:
    """The folder with its graph in OpenVINO's form instead. Needs openvino."""
    import openvino

    link_folder(source, folder)
    (folder / "onnx" / "model.onnx").unlink()
    (folder / "openvino").mkdir()
    model = openvino.convert_model(str(source / "onnx" / "model.onnx"))
    openvino.save_model(model, str(folder / "openvino" / "openvino_model.xml"), compress_to_fp16=False)
    return folder


def write_cross_encoder(folder: Path, tokenizer_class: str) -> Path:
    """A tiny cross-encoder as weights, drawn with a fixed seed. Needs torch and transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    configuration = transformers.BertConfig.from_pretrained(str(CROSS_ENCODER))
    transformers.BertForSequenceClassification(configuration).save_pretrained(folder)
    shutil.copyfile(CROSS_ENCODER / "tokenizer.json", folder / "tokenizer.json")
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    described = {"tokenizer_class": tokenizer_class, "model_max_length": 128, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), "utf8")
    return folder
