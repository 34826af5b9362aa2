"""Run by EMBED_VENV's Python: the graphs of a folder, written into it."""

from pathlib import Path

from fine_tuning.embedding import graph


def export_graph(folder: str) -> None:
    """For ONNX Runtime, as `make embed-quantize` begins."""
    graph.export_graph(Path(folder))


def export_openvino(folder: str) -> None:
    """For OpenVINO, in float32."""
    graph.export_openvino(Path(folder))


def export_plain(folder: str) -> None:
    """Of plain operators, for the peers' own tools."""
    graph.trace(graph.load_weights(Path(folder)), Path(folder) / "model.onnx")
