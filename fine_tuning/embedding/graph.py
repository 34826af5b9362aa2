"""A sentence-transformers folder's weights as a graph that is served without torch: ONNX, and OpenVINO's form of it.

The transformer is traced with plain ("eager") attention by torch's TorchScript exporter: from that ONNX Runtime's
transformer optimizer makes one Attention operator a layer, which it does not from graphs of the newer exporter.
Measured on all-MiniLM-L6-v2, one thread: docs/decisions/0016-quantized-embeddings.md.
The graph gives the vectors of tokens; the server pools and normalises them as the folder's modules say.
"""

import logging
import tempfile
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from fine_tuning.embedding.encoding import ALONE, encode, open_model
from fine_tuning.embedding.errors import FineTuningError, first_line
from fine_tuning.embedding.texts import GOLDEN_TEXTS
from serving.folder import BackendName
from serving.golden import write_golden
from serving.pooling import Vectors, normalised

LEAST_COSINE = 0.99999
"""Of an exported vector to that of the weights."""

WEIGHTS = "weights.bin"

_OPSET = 17
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "last_hidden_state"


def export_graph(folder: Path) -> Path:
    """Write `onnx/model.onnx` with its `weights.bin`, float32 and for any number and length of texts, and `golden.json`
    into the folder; the graph's path. Weights in a file of their own are mapped instead of copied: half the memory of
    the server. Needs torch and onnx. Raises FineTuningError where the folder cannot be loaded or served as a graph,
    or where the graph's vectors are not those of the weights: then no graph is left behind."""
    model = load_weights(folder)
    graph = folder / "onnx" / "model.onnx"
    graph.parent.mkdir(exist_ok=True)
    expected = encode_by_weights(model, GOLDEN_TEXTS)
    with tempfile.TemporaryDirectory() as scratch, _removed_on_error(graph, graph.with_name(WEIGHTS)):
        traced = trace(model, Path(scratch) / "traced.onnx")
        _write(_fused(traced, model), graph)
        if _least_cosine(folder, "onnx", expected) < LEAST_COSINE:  # a layer it took for another kind
            _write(traced, graph)
            _check(folder, "onnx", expected)
    write_golden(folder, GOLDEN_TEXTS, expected)
    return graph


def export_openvino(folder: Path) -> Path:
    """Write `openvino/openvino_model.xml` and `.bin`, float32, and `golden.json` into the folder; the graph's path.
    Needs torch, onnx and openvino, and is served where ONNX is not there or SERVE_BACKEND=openvino asks for it.
    Raises as `export_graph`."""
    import openvino  # noqa: PLC0415

    model = load_weights(folder)
    graph = folder / "openvino" / "openvino_model.xml"
    graph.parent.mkdir(exist_ok=True)
    expected = encode_by_weights(model, GOLDEN_TEXTS)
    with tempfile.TemporaryDirectory() as scratch, _removed_on_error(graph, graph.with_suffix(".bin")):
        fused = _fused(trace(model, Path(scratch) / "traced.onnx"), model)
        openvino.save_model(openvino.convert_model(str(fused)), str(graph), compress_to_fp16=False)
        _check(folder, "openvino", expected)
    write_golden(folder, GOLDEN_TEXTS, expected)
    return graph


def load_weights(folder: Path) -> Any:
    """The folder as a SentenceTransformer in float32 on the CPU, its attention written out. Raises FineTuningError."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_progress_bar()
    options = {"attn_implementation": "eager"}
    try:
        model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options)
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        raise FineTuningError(
            f"sentence-transformers cannot load the weights in {folder}: {first_line(error)}"
        ) from None
    return model.float().eval()


def encode_by_weights(model: Any, texts: Sequence[str]) -> Vectors:
    """The texts' vectors by torch, each alone, at unit length: shape (texts, dimension)."""
    return normalised(model.encode(list(texts), batch_size=1, show_progress_bar=False, convert_to_numpy=True))


def trace(model: Any, file: Path) -> Path:
    """Write the transformer of a SentenceTransformer as ONNX of plain operators: token ids to vectors of tokens."""
    import torch  # noqa: PLC0415

    transformer = model.transformers_model
    known = set(signature(transformer.forward).parameters)
    names = [name for name in _INPUTS if name in model.tokenizer.model_input_names and name in known]

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, *inputs: Any) -> Any:
            return self.transformer(**dict(zip(names, inputs, strict=True)), return_dict=True)[_OUTPUT]

    # Texts of unequal length: padding has to be in what is traced, or the mask is not.
    sample = model.tokenizer(list(GOLDEN_TEXTS[:2]), padding=True, return_tensors="pt")
    if hasattr(transformer.config, "use_cache"):
        transformer.config.use_cache = False
    traced = Traced().eval()  # the exporter gives the mode back that it found: dropout would be on again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            traced,
            tuple(sample[name] for name in names),
            str(file),
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*names, _OUTPUT)},
            opset_version=_OPSET,
            dynamo=False,
        )
    return file


def _fused(traced: Path, model: Any) -> Path:
    """The graph with whole layers as ONNX Runtime's own operators, as far as it knows them."""
    from onnxruntime.transformers import optimizer  # noqa: PLC0415

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    config = model.transformers_model.config
    heads, width = getattr(config, "num_attention_heads", 0), getattr(config, "hidden_size", 0)
    optimized: Any = optimizer.optimize_model(str(traced), "bert", num_heads=heads, hidden_size=width, opt_level=0)
    file = traced.with_name("fused.onnx")
    optimized.save_model_to_file(str(file))
    return file


def _write(source: Path, graph: Path) -> None:
    """The graph of one file as two: the operators, and what is large."""
    import onnx  # noqa: PLC0415

    weights = graph.with_name(WEIGHTS)
    weights.unlink(missing_ok=True)  # it would be added to
    onnx.save_model(onnx.load(str(source)), str(graph), save_as_external_data=True, location=weights.name)


@contextmanager
def _removed_on_error(*files: Path) -> Generator[None]:
    try:
        yield
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise


def _check(folder: Path, backend: BackendName, expected: Vectors) -> None:
    """Raises FineTuningError where the served graph does not answer as the weights."""
    kept = _least_cosine(folder, backend, expected)
    if kept < LEAST_COSINE:
        raise FineTuningError(f"{folder}: the graph's vectors are not those of the weights (cosine {kept:.6f}).")


def _least_cosine(folder: Path, backend: BackendName, expected: Vectors) -> float:
    """How near the served graph's vectors of the golden texts are to the expected ones, at worst."""
    opened = open_model(folder, backend)
    found = normalised(encode(opened, GOLDEN_TEXTS, ALONE))
    opened.close()
    return float((found * expected).sum(axis=1).min())
