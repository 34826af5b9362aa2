"""OpenVINO: graphs in its own form, e.g. static int8 made by nncf. Needs the package `openvino`."""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.backends.graph import GraphBackend, Output
from serving.errors import ModelRefused, ModelUnavailable
from serving.folder import ModelFolder
from serving.settings import ServeSettings


def load(folder: ModelFolder, settings: ServeSettings) -> GraphBackend:
    """The backend on the folder's graph, warm. Raises ModelRefused."""
    assert folder.graph is not None
    session = OpenvinoSession(folder.graph, settings.device, settings.cores)
    backend = GraphBackend(session, folder, settings.batch_size)
    backend.warm_up()
    return backend


class OpenvinoSession:
    """The Session of OpenVINO, on the CPU, computing in float32 whatever the processor would like better."""

    backend = "openvino"
    compiles_shapes = True
    device = "cpu"

    def __init__(self, graph: Path, device: str, threads: int) -> None:
        """Raises ModelRefused when the graph cannot be loaded on the device."""
        if device not in {"auto", "cpu"}:
            raise ModelRefused(f"SERVE_DEVICE={device} is not usable: OpenVINO runs on the CPU here.")
        openvino: Any = import_module("openvino")
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": True})
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            model = core.read_model(str(graph))
            self._request: Any = core.compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise ModelRefused(f"OpenVINO cannot load {graph}: {str(error).strip().splitlines()[-1]}") from None
        self.inputs = {str(each.get_any_name()): each.get_element_type().to_dtype() for each in model.inputs}
        self.outputs = [
            Output(str(each.get_any_name()), each.get_partial_shape().rank.get_length()) for each in model.outputs
        ]
        is_quantized = re.search(r'type="FakeQuantize"', graph.read_text("utf8")) is not None
        self.precision = "int8-static" if is_quantized else "float"

    def run(self, feeds: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """One output, copied: the runtime writes over its own in the next run. Raises ModelUnavailable."""
        try:
            self._request.infer(dict(feeds))
            return np.array(self._request.get_tensor(output).data)
        except RuntimeError as error:
            raise ModelUnavailable(f"OpenVINO failed ({type(error).__name__}).") from error

    def close(self) -> None:
        """Free the graph."""
        self._request = None
