"""What a checkpoint's consumers get, as JSON: vectors by the wrapper and by sentence-transformers, and answers.

venv-train/bin/python tests/training/llm2vec_answers.py FOLDER [FOLDER ...] < a JSON list of texts

Each folder's wrapper is the file in the folder. One that cannot be loaded gives `error`.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

QUESTION = "I work with Go. Please build api number 3"


def load_module(folder: Path) -> Any:
    """The exported wrapper."""
    spec = importlib.util.spec_from_file_location("llm2vec_wrapper", folder / "wrapper/llm2vec_wrapper.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(folder: Path, texts: list[str]) -> dict[str, Any]:
    """All that is compared of one folder."""
    module = load_module(folder)
    try:
        wrapper = module.LLM2VecWrapper(folder)
        adapted = module.LLM2VecWrapper(folder, prefer_merged=False)
    except module.WrapperError as error:
        return {"error": str(error)}
    pipeline = SentenceTransformer(str(folder / "merged"), device="cpu")
    together = wrapper.embed(texts, batch_size=len(texts))
    try:
        wrapper.embed(["a", ""])
        empty = None
    except module.WrapperError as error:
        empty = str(error)
    return {
        "kinds": [wrapper.kind, adapted.kind],
        "pipeline": pipeline.encode(texts, normalize_embeddings=True).tolist(),
        "pipeline_as_it_is": pipeline.encode(texts).tolist(),
        "together": together.tolist(),
        "as_it_is": wrapper.embed(texts, normalise=False).tolist(),
        "alone": wrapper.embed(texts, batch_size=1).tolist(),
        "backwards": wrapper.embed(texts[::-1], batch_size=3)[::-1].tolist(),
        "loaded_again": module.embed(texts).tolist(),
        "adapters": adapted.embed(texts).tolist(),
        "cut": wrapper.embed(["boat " * 5000]).tolist(),
        "cut_where": wrapper.embed(["boat " * 600]).tolist(),
        "empty": empty,
        "answer": module.generate(QUESTION, do_sample=False, max_new_tokens=12),
        "answer_adapters": adapted.generate([{"role": "user", "content": QUESTION}], temperature=0, max_new_tokens=12),
    }


def main() -> None:
    """See the module's text."""
    torch.set_num_threads(1)
    texts = json.load(sys.stdin)
    print(json.dumps([answers(Path(folder), texts) for folder in sys.argv[1:]]))


if __name__ == "__main__":
    main()
