"""Golden vectors: what the model has to answer, kept beside it by whoever exported it, checked at every start.

`golden.json` in the model's folder:

    {"texts": [...], "vectors": ["base64 of little-endian float32", ...], "least_cosine": 0.999}

The vectors are those of the texts with the model's default prompt, as sentence-transformers' `encode` gives them.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.backend import Backend
from serving.errors import ModelRefused
from serving.pooling import Vectors, normalised

FILE = "golden.json"
LEAST_COSINE = 0.999
"""Where the file states no other: what float32 keeps on any runtime."""


@dataclass(frozen=True)
class Golden:
    """What the model has to answer."""

    texts: Sequence[str]
    vectors: Vectors
    """Shape (texts, dimension)."""
    least_cosine: float


def write_golden(folder: Path, texts: Sequence[str], vectors: Vectors, least_cosine: float = LEAST_COSINE) -> Path:
    """Keep the vectors of `texts`, of shape (texts, dimension), in the folder; the path of the file."""
    document = {
        "texts": list(texts),
        "vectors": [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors],
        "least_cosine": least_cosine,
    }
    file = folder / FILE
    file.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf8")
    return file


def read_golden(file: Path) -> Golden | None:
    """The golden vectors; None where there is no such file. Raises ModelRefused for one that cannot be understood."""
    if not file.is_file():
        return None
    try:
        document: Any = json.loads(file.read_text("utf8"))
        texts = [str(text) for text in document["texts"]]
        rows = [np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in document["vectors"]]
        vectors = np.stack(rows).astype(np.float32)
        golden = Golden(texts, vectors, float(document.get("least_cosine", LEAST_COSINE)))
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        raise ModelRefused(f"{file} holds no golden vectors.") from None
    if len(golden.texts) != len(vectors) or not golden.texts or not 0 < golden.least_cosine <= 1:
        raise ModelRefused(f"{file} holds no golden vectors.")
    return golden


def least_cosine(backend: Backend, golden: Golden) -> float:
    """The least cosine of the model's vectors to the golden ones; 0 for another dimension. Raises ModelUnavailable."""
    if backend.info.dimension != golden.vectors.shape[1]:
        return 0.0
    prompt = backend.info.prompts.get(backend.info.default_prompt_name or "", "")
    vectors = np.concatenate([backend.run([backend.split(prompt + text).ids]) for text in golden.texts])
    return float((normalised(vectors) * normalised(golden.vectors)).sum(axis=1).min())
