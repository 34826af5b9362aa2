"""Weights of eight or four bits by bitsandbytes: for a GPU, and loaded by sentence-transformers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fine_tuning.embedding.errors import FineTuningError, first_line


def check_gpu() -> None:
    """Raises FineTuningError without CUDA or without bitsandbytes."""
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise FineTuningError(
            "bitsandbytes is for a GPU, and torch sees none: take --dtype int8. On a CPU its models run, several "
            "times slower than float32."
        )
    if find_spec("bitsandbytes") is None:
        raise FineTuningError("bitsandbytes is not installed: make train-deps installs it where there is a GPU.")


def write_weights(source: Path, folder: Path, dtype: str) -> None:
    """Write the whole sentence-transformers folder with smaller weights; `dtype` is bnb-int8 or bnb-int4 (NF4). Raises
    FineTuningError."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    if dtype == "bnb-int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    try:
        options = {"quantization_config": config}
        model: Any = SentenceTransformer(str(source), local_files_only=True, model_kwargs=options)
        model.save_pretrained(str(folder), create_model_card=False)
    except Exception as error:
        raise FineTuningError(f"bitsandbytes cannot make {dtype} of this model: {first_line(error)}") from error
