"""Model servers: one small ASGI app around a model in a folder. Knows nothing of `app`; they meet over HTTP."""

import os

VERSION = "0.1.0"

# ONNX Runtime reports its use to its maker unless this is set before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A model is read from its folder and from nowhere else.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
