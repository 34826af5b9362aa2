"""Folders of checkpoints as the pipeline leaves them: SmolLM2, and a tiny random one made on the spot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.llm2vec.manifest import TRAINED, Artifacts, Embedding, Manifest, Quantization

ROOT = Path(__file__).parents[3]
SMOLLM2 = ROOT / "local-models" / "smollm2-135m-instruct"
"""Made by scripts/unpack_smollm2.py."""

WIDTH = 64
CONTEXT = 256
VOCABULARY = 512
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SEEN = ["where is the lamp of the table", "the boat lies beside the river", "a violin and a candle in the garden"]


def write_smollm2(folder: Path, **changes: Any) -> Path:
    """SmolLM2 as a merged snapshot; its files are links. `changes` are fields of the manifest."""
    (folder / "merged").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    for file in SMOLLM2.iterdir():
        (folder / "merged" / file.name).symlink_to(file)
    for name in TOKENIZER_FILES:
        shutil.copyfile(SMOLLM2 / name, folder / "tokenizer" / name)
    artifacts = Artifacts(merged="merged")
    manifest = Manifest(base_model=str(SMOLLM2), embedding=Embedding(dimension=576), artifacts=artifacts)
    replace(manifest, **changes).write(folder / TRAINED)
    return folder


def write_tiny(folder: Path, **changes: Any) -> Path:
    """A random Llama of two layers with an adapter that moves its vectors, and the same merged. Needs torch, peft."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = _make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    base = transformers.LlamaForCausalLM(config)
    base.save_pretrained(folder / "base")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, lora)
    adapted.save_pretrained(str(folder / "adapters"))
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("base", "merged", "tokenizer"):
        tokenizer.save_pretrained(folder / name)
    manifest = Manifest(
        base_model=str(folder / "base"),
        embedding=Embedding(dimension=WIDTH, max_length=64),
        artifacts=Artifacts(merged="merged", adapters="adapters"),
        dtype="float32",
        quantization=Quantization(load_in_4bit=True),
    )
    replace(manifest, **changes).write(folder / TRAINED)
    return folder


def change_manifest(folder: Path, **changes: Any) -> None:
    """Set fields of the manifest, as in JSON."""
    file = folder / TRAINED
    file.write_text(json.dumps({**json.loads(file.read_text("utf8")), **changes}), "utf8")


def _make_tokenizer() -> Any:
    """A byte-level BPE with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        SEEN, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = TEMPLATE
    return made
