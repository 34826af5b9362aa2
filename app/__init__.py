"""Embed Service: personalisation middleware for chat frontends."""

import os

VERSION = "0.1.0"

# ONNX Runtime reports its use to its maker unless this is set before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
