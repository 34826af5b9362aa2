"""The models behind the server, one file per runtime; only ONNX Runtime has to be installed."""

from importlib import import_module

from serving.backend import Backend
from serving.errors import ModelRefused
from serving.folder import read_folder
from serving.settings import ServeSettings

_OPTIONAL = {"openvino": "openvino", "sentence-transformers": "sentence_transformers"}
"""Backends whose package may be missing: the module of each, here and there."""


def open_backend(settings: ServeSettings) -> Backend:
    """The model in `settings.model`, loaded. Blocks; raises ModelRefused in one line."""
    if settings.model is None:
        raise ModelRefused("No model is named: give --model FOLDER or set SERVE_MODEL.")
    folder = read_folder(settings.model, settings.backend)
    module = _OPTIONAL.get(folder.backend)
    if module is not None:
        try:
            import_module(module)
        except ImportError:
            raise ModelRefused(
                f"{folder.path} needs the package {folder.backend}, which is not installed: make install-serving."
            ) from None
    return import_module(f"serving.backends.{module or 'onnx'}").load(folder, settings)
