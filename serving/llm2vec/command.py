"""Start the LLM2Vec service from the command line: flags, the manifest, the port, then requests."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.command import listening, serve
from serving.errors import ModelRefused
from serving.llm2vec.main import create_llm2vec_app
from serving.llm2vec.settings import load_runtime_settings
from serving.logs import configure_logs
from serving.runtime import UnifiedLLMRuntime
from serving.settings import SettingsError, load_settings

_LEVELS = ("debug", "info", "warning", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 2, after one line on stderr, when that is not possible."""
    flags = _flags(argv)
    configure_logs(logging.getLevelNamesMapping()[flags.pop("log_level", "info").upper()])
    model = {name: flags.pop(name) for name in ("quantize_4bit", "prefer_merged", "device") if name in flags}
    try:
        runtime = UnifiedLLMRuntime(flags["model"], load_runtime_settings(**model))
        settings = load_settings(**flags)
        with listening(settings.host, settings.port, "SERVE_HOST") as listener:
            app = create_llm2vec_app(runtime, settings)
            print(f"serving {settings.model} on http://{settings.host}:{settings.port}", file=sys.stderr)
            serve(app, listener)
    except (SettingsError, ModelRefused, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 2
    return 0


def _flags(argv: Sequence[str] | None) -> dict[str, Any]:
    """What was given as flags, by the names of the settings' fields."""
    parser = argparse.ArgumentParser(
        prog="run_llm2vec_service.py",
        description="Serve chat and embeddings of one checkpoint. Flags win over SERVE_* and MODEL__* variables.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model-dir", dest="model", type=Path, required=True, help="the folder with the manifest")
    parser.add_argument("--host", help="127.0.0.1")
    parser.add_argument("--port", help="8000")
    parser.add_argument(
        "--prefer-merged", action="store_true", help="the merged weights, also where 4 bits and adapters are"
    )
    parser.add_argument(
        "--force-4bit", dest="quantize_4bit", action="store_true", help="weights of 4 bits, where there is CUDA"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--log-level", choices=_LEVELS, help="info")
    return vars(parser.parse_args(argv))
