"""ONNX Runtime: float32, static and dynamic int8 graphs."""

import mmap
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.backends.graph import GraphBackend, Output
from serving.errors import ModelRefused, ModelUnavailable
from serving.folder import ModelFolder
from serving.settings import ServeSettings

_DTYPES: Mapping[str, Any] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
}
_PRECISIONS = (
    (b"DynamicQuantize", "int8-dynamic"),
    (b"MatMulIntegerToFloat", "int8-dynamic"),
    (b"MatMulNBits", "weights of few bits"),
    (b"QLinear", "int8-static"),
    (b"QuantizeLinear", "int8-static"),
    (b"DequantizeLinear", "int8 weights"),
)
"""Operators by which a quantized graph is known."""

_ort = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # compiled, without types
_ERRORS: tuple[type[Exception], ...] = (
    _ort.Fail,
    _ort.RuntimeException,
    _ort.InvalidArgument,
    _ort.EPFail,
    _ort.InvalidProtobuf,
    _ort.InvalidGraph,
    _ort.NotImplemented,
    _ort.NoSuchFile,
    RuntimeError,
    MemoryError,
)


def load(folder: ModelFolder, settings: ServeSettings) -> GraphBackend:
    """The backend on the folder's graph. Raises ModelRefused."""
    assert folder.graph is not None
    return GraphBackend(OnnxSession(folder.graph, settings.device, settings.cores), folder, settings.batch_size)


class OnnxSession:
    """The Session of ONNX Runtime. Keeps little memory: what a run needed is given back after it."""

    backend = "onnx"
    compiles_shapes = False

    def __init__(self, graph: Path, device: str, threads: int) -> None:
        """Raises ModelRefused when the graph cannot be loaded on the device."""
        options: Any = _ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # Waiting threads sleep instead of spinning: others need the cores as well.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.device, providers = _providers_for(device)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        except _ERRORS as error:
            raise ModelRefused(f"ONNX Runtime cannot load {graph}: {_first_line(error)}") from None
        self.inputs = {str(each.name): _DTYPES.get(each.type, np.int64) for each in self._session.get_inputs()}
        self.outputs = [Output(str(each.name), len(each.shape)) for each in self._session.get_outputs()]
        self.precision = _precision_of(graph)

    def run(self, feeds: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """One output. Raises ModelUnavailable."""
        try:
            return cast("NDArray[Any]", self._session.run([output], dict(feeds))[0])
        except _ERRORS as error:
            raise ModelUnavailable(f"ONNX Runtime failed ({type(error).__name__}).") from error

    def close(self) -> None:
        """Free the graph."""
        self._session = None


def _providers_for(device: str) -> tuple[str, list[Any]]:
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_cuda):
        return "cpu", ["CPUExecutionProvider"]
    if not has_cuda:
        raise ModelRefused(f"SERVE_DEVICE={device} is not usable: this ONNX Runtime has no CUDA.")
    number = int(device.partition(":")[2] or 0)
    return f"cuda:{number}", [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def _precision_of(graph: Path) -> str:
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return next((name for operator, name in _PRECISIONS if content.find(operator) >= 0), "float")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
