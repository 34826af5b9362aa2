"""The built-in model gives the vectors of sentence-transformers, from which `scripts/make_reference_vectors.py`
made the stored ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from app.clients.embeddings.onnx import OnnxEmbedder

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.slow
async def test_a_thousand_real_texts_have_their_reference_vectors(tmp_path: Path) -> None:
    texts = json.loads((DATA / "reference_sentences.json").read_text("utf8"))
    with np.load(DATA / "reference_vectors.npz") as stored:
        expected = stored["vectors"].astype(np.float64)
    embedder = OnnxEmbedder.load(tmp_path)

    vectors = await embedder.embed(texts)
    alone = np.concatenate([await embedder.embed([text]) for text in texts[::10]])
    await embedder.aclose()

    cosines = (vectors * expected).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(vectors, axis=1)
    assert len(texts) == len(vectors) == 1000
    assert sum(count == 256 for count in (embedder.count_tokens([text]) for text in texts)) > 60
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(alone, vectors[::10], rtol=0, atol=1e-6)
