"""How a float32 graph becomes a small one: OpenVINO's tools (nncf) and ONNX Runtime's, per kind of processor.

int8          weights and activations in eight bits, activation ranges found beforehand on calibration texts: a vector
              does not depend on its neighbours
int8-dynamic  weights in eight bits, activation ranges taken from each run: faster to make, and a vector depends on
              what shares its run, so the server runs texts one by one
int4          the weights of products in four bits in groups of 64 (32 by ONNX Runtime), tables of tokens in eight
              (by ONNX Runtime float32), activations in float32
"""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fine_tuning.embedding.errors import FineTuningError, first_line

Dtype = Literal["int8", "int8-dynamic", "int4", "bnb-int8", "bnb-int4"]
Runtime = Literal["openvino", "onnx", "torch"]
Instructions = Literal["avx512-vnni", "avx2", "arm"]
Feeds = Mapping[str, NDArray[np.int64]]
"""One calibration text as the graph is fed: its ids, mask and segments, each of shape (1, tokens)."""

INT4_GROUP = {"openvino": 64, "onnx": 32}


@dataclass(frozen=True)
class Recipe:
    """What is made of a graph."""

    dtype: Dtype
    runtime: Runtime
    instructions: Instructions

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cuda" if self.runtime == "torch" else "cpu"


def instructions_here() -> Instructions:
    """What this processor multiplies eight-bit numbers with."""
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return "arm"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text("utf8") if cpuinfo.is_file() else ""
    return "avx512-vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"


def choose(dtype: Dtype, runtime: Runtime | None, instructions: Instructions | None) -> Recipe:
    """The recipe that is asked for. int8-dynamic is ONNX Runtime's alone; otherwise OpenVINO is the default. Raises
    FineTuningError for what no runtime does."""
    if dtype in {"bnb-int8", "bnb-int4"}:
        only: Runtime | None = "torch"
    else:
        only = "onnx" if dtype == "int8-dynamic" else None
    if only and runtime not in {None, only}:
        raise FineTuningError(f"{dtype} is not for {runtime}: leave --runtime away, or take --dtype int8.")
    return Recipe(dtype, only or runtime or "openvino", instructions or instructions_here())


def apply(recipe: Recipe, traced: Path, folder: Path, calibration: Sequence[Feeds]) -> Path:
    """Write the graph of the recipe into the folder, made of the traced ONNX graph; its path. Raises FineTuningError
    where the tools cannot do it."""
    steps: dict[tuple[Dtype, Runtime], Callable[..., None]] = {
        ("int8", "openvino"): _openvino_int8,
        ("int8", "onnx"): _onnx_int8,
        ("int8-dynamic", "onnx"): _onnx_dynamic,
        ("int4", "openvino"): _openvino_int4,
        ("int4", "onnx"): _onnx_int4,
    }
    graph = folder / recipe.runtime / ("openvino_model.xml" if recipe.runtime == "openvino" else "model.onnx")
    graph.parent.mkdir()
    try:
        steps[recipe.dtype, recipe.runtime](traced, graph, recipe.instructions, calibration)
    except Exception as error:
        tools = "nncf" if recipe.runtime == "openvino" else "ONNX Runtime"
        raise FineTuningError(f"{tools} cannot make {recipe.dtype} of this model: {first_line(error)}") from error
    return graph


def _openvino_int8(traced: Path, graph: Path, instructions: Instructions, calibration: Sequence[Feeds]) -> None:
    import openvino  # noqa: PLC0415

    small = _static(openvino.convert_model(str(traced)), instructions, calibration)
    openvino.save_model(small, str(graph), compress_to_fp16=False)


def _onnx_int8(traced: Path, graph: Path, instructions: Instructions, calibration: Sequence[Feeds]) -> None:
    import onnx  # noqa: PLC0415

    # ONNX Runtime would turn a whole table of tokens into floats in every run, were it left to nncf.
    small = _static(onnx.load(str(traced)), instructions, calibration, apart=["Gather"])
    onnx.save(_with_small_tables(small), str(graph))


def _static(model: Any, instructions: Instructions, calibration: Sequence[Feeds], apart: Sequence[str] = ()) -> Any:
    """By nncf: ranges found on the texts, outliers of activations moved into weights (SmoothQuant, arXiv:2211.10438).
    `apart` are kinds of operators that stay as they are."""
    import nncf  # noqa: PLC0415
    from nncf.quantization.advanced_parameters import OverflowFix  # noqa: PLC0415

    nncf.set_log_level(logging.ERROR)
    # Without VNNI two products of eight bits are added in sixteen and may overflow: weights get seven bits then.
    fix = OverflowFix.ENABLE if instructions == "avx2" else OverflowFix.DISABLE
    return nncf.quantize(
        model,
        nncf.Dataset(list(calibration)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(types=list(apart)) if apart else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )


def _with_small_tables(model: Any) -> Any:
    """The ONNX model with the tables it looks vectors up in as eight-bit rows, each with a scale of its own."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    graph = model.graph
    tables = {
        each.name: each for each in graph.initializer if len(each.dims) == 2 and each.data_type == TensorProto.FLOAT
    }
    nodes: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Gather" or node.input[0] not in tables or any(each.i for each in node.attribute):
            continue
        name, found = node.input[0], node.output[0]
        rows: NDArray[np.float32] = numpy_helper.to_array(tables[name])
        scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        graph.initializer.append(numpy_helper.from_array(np.rint(rows / scales).astype(np.int8), f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}.scales"))
        node.input[0], node.output[0] = f"{name}.int8", f"{found}.int8"
        nodes += [
            helper.make_node("Gather", [f"{name}.scales", node.input[1]], [f"{found}.scales"]),
            helper.make_node("Cast", [f"{found}.int8"], [f"{found}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{found}.float", f"{found}.scales"], [found]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _openvino_int4(traced: Path, graph: Path, _: Instructions, __: Sequence[Feeds]) -> None:
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    nncf.set_log_level(logging.ERROR)
    small = nncf.compress_weights(
        openvino.convert_model(str(traced)),
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        group_size=INT4_GROUP["openvino"],
        ratio=1.0,
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
    )
    openvino.save_model(small, str(graph), compress_to_fp16=False)


def _onnx_dynamic(traced: Path, graph: Path, instructions: Instructions, _: Sequence[Feeds]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    quantize_dynamic(
        str(traced),
        str(graph),
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        reduce_range=instructions == "avx2",
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )


def _onnx_int4(traced: Path, graph: Path, _: Instructions, __: Sequence[Feeds]) -> None:
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # noqa: PLC0415

    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.ERROR)  # it tells of every node
    group = INT4_GROUP["onnx"]
    tool = MatMulNBitsQuantizer(onnx.load(str(traced)), bits=4, block_size=group, is_symmetric=False, accuracy_level=4)
    tool.process()
    made: Any = tool.model
    onnx.save(made.model, str(graph))
