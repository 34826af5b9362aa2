"""How much memory a language model needs: its shape from config.json and safetensors headers, bytes by formulas.

Standard library only. Used by scripts/diagnose_unsloth.py. All sizes are bytes, all counts are of parameters or tokens.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

OVERHEAD = 700 * 2**20
"""What a CUDA process takes before any tensor: context, kernels, cuBLAS workspace; 0.5 to 0.8 GiB, by driver and card
(the difference that `nvidia-smi` shows beside torch.cuda.memory_reserved)."""

_HEADER_MOST = 100_000_000
"""Bytes of a header; the format's own bound."""
_BY_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `parameters` are counted in its weights where they are there, else computed of the sizes."""

    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    is_tied: bool
    experts: int
    window: int
    is_counted: bool

    @property
    def linear(self) -> int:
        """Parameters of the linear layers inside the decoder's layers, which 4-bit loading quantizes; embeddings, the
        head and norms are left as they are (transformers, `modules_to_not_convert`)."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate * max(1, self.experts))


def shape_of(config: Mapping[str, Any], counted: int | None = None) -> Shape:
    """The shape that a config.json tells (of its `text_config`, where it sees images too); `counted` are the
    parameters of the weights. Raises ValueError naming what is missing.

    Parameters of a Llama-like decoder (Touvron et al. 2023, arXiv:2302.13971): embeddings V h, a head of V h where it
    is not tied; in each layer q and o of h a d, k and v of h k d (grouped queries: Ainslie et al. 2023,
    arXiv:2305.13245), gate, up and down of h i each (for each expert, and a router), two norms of h; a norm at the end.
    """
    inner = config.get("text_config")
    config = {**config, **cast("dict[str, Any]", inner)} if isinstance(inner, dict) else config
    hidden = _size(config, "hidden_size", "n_embd", "d_model")
    layers = _size(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _size(config, "num_attention_heads", "n_head", "num_heads")
    vocabulary = _size(config, "vocab_size")
    intermediate = _size(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    kv_heads = _size(config, "num_key_value_heads", default=heads)
    head_size = _size(config, "head_dim", default=hidden // heads)
    experts = _size(config, "num_local_experts", "num_experts", default=1)
    is_tied = bool(config.get("tie_word_embeddings", True))
    shape = Shape(
        parameters=counted or 0,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        intermediate=intermediate,
        vocabulary=vocabulary,
        is_tied=is_tied,
        experts=experts,
        window=_size(config, "max_position_embeddings", "n_positions", default=2048),
        is_counted=counted is not None,
    )
    outside = vocabulary * hidden * (1 if is_tied else 2) + hidden
    router = layers * hidden * experts if experts > 1 else 0
    computed = shape.linear + layers * 2 * hidden + router + outside
    return shape if counted is not None else replace(shape, parameters=computed)


def parameters_in(folder: Path) -> int | None:
    """Parameters of the *.safetensors in a folder, from their headers alone; None without any, or where they are packed
    in bytes (4-bit files), which hide how many there are. Raises ValueError for a damaged file.

    A file begins with the header's length (8 bytes, little-endian), then JSON with every tensor's dtype and shape
    (https://huggingface.co/docs/safetensors, "Format").
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if length <= _HEADER_MOST else b""
        try:
            header = cast("dict[str, Any]", json.loads(content))
            tensors = [each for name, each in header.items() if name != "__metadata__"]
            if any(each["dtype"] in {"U8", "I8"} for each in tensors):
                return None
            total += sum(math.prod(each["shape"]) for each in tensors)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ValueError(f"{path} is no safetensors file, or is cut short") from None
    return total or None


def parameters_by_name(name: str) -> int | None:
    """The parameters that a model's name tells, as in Qwen2.5-3B or SmolLM2-135M; None where it does not."""
    found = _BY_NAME.findall(re.sub(r"[-_/]", " ", name))
    if not found:
        return None
    number, unit = found[-1]
    return round(float(number) * (1_000_000_000 if unit.lower() == "b" else 1_000_000))


def bytes_16bit(parameters: int) -> int:
    """Weights in bfloat16 or float16: two bytes each."""
    return 2 * parameters


def bytes_4bit(parameters: int, linear: int) -> int:
    """Weights loaded in NF4 with double quantization, what is not `linear` in 16 bits.

    4 bits each, and constants: one of 8 bits for 64 weights, and one of 32 bits for 256 of these, 0.127 bits in all
    (QLoRA, Dettmers et al. 2023, arXiv:2305.14314, section 3).
    """
    linear = min(linear, parameters)
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    return math.ceil(linear * bits / 8) + bytes_16bit(parameters - linear)


def bytes_kv_cache(shape: Shape, tokens: int) -> int:
    """Keys and values of `tokens` tokens in 16 bits: 2 (k and v) x layers x kv heads x head size x 2 bytes each
    (Kwon et al. 2023, arXiv:2309.06180, section 3, with the kv heads of grouped queries)."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * 2 * tokens


def lora_parameters(shape: Shape, rank: int) -> int:
    """Of adapters on q, k, v, o, gate, up and down in every layer: r (in + out) for each (Hu et al. 2021,
    arXiv:2106.09685, section 4)."""
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = 2 * (shape.hidden + query) + 2 * (shape.hidden + key)
    feed_forward = 3 * (shape.hidden + shape.intermediate) * max(1, shape.experts)
    return shape.layers * rank * (attention + feed_forward)


def bytes_lora_states(adapter_parameters: int) -> int:
    """An adapter in training, in 32 bits: weight, gradient and Adam's two moments, 4 bytes each (Rajbhandari et al.
    2020, arXiv:1910.02054, section 3.1)."""
    return 16 * adapter_parameters


def bytes_activations(shape: Shape, batch: int, length: int, is_checkpointed: bool = True) -> int:
    """What a training step keeps for going back, in 16 bits: for each token of each layer 11 h of attention computed in
    blocks, 4 h of the norms (Korthikanti et al. 2022, arXiv:2205.05198, section 4.1, without dropout's part of the
    feed-forward), and of a gated feed-forward its input, 2 h, and gate, up and their product, 2 i each. Checkpointing
    keeps each layer's input, 2 h, and one layer at a time (its section 5). The logits come on top: V in 16 bits, in 32
    bits, and their gradient in 32 bits; unsloth computes the loss without keeping them, so this is the most."""
    tokens = batch * length
    layer = tokens * (17 * shape.hidden + 6 * shape.intermediate)
    kept = shape.layers * 2 * tokens * shape.hidden + layer if is_checkpointed else shape.layers * layer
    return kept + 10 * tokens * shape.vocabulary


@dataclass(frozen=True)
class Needs:
    """Bytes by use, for one model. What its shape would have to tell is None where only its size is known."""

    serve_16bit: int
    serve_4bit: int
    train_16bit: int | None
    train_4bit: int | None
    kv_cache: int | None
    disk: int


def needs_of(shape: Shape, *, rank: int, batch: int, length: int) -> Needs:
    """What a model needs on a GPU: served with `length` tokens of cache, or trained with adapters of `rank` on batches
    of `batch` x `length` tokens. `disk` is for the base model, and merged and adapters of one training."""
    cache = bytes_kv_cache(shape, length)
    weights, packed = bytes_16bit(shape.parameters), bytes_4bit(shape.parameters, shape.linear)
    adapter = lora_parameters(shape, rank)
    training = bytes_lora_states(adapter) + bytes_activations(shape, batch, length) + OVERHEAD
    return Needs(
        serve_16bit=weights + cache + OVERHEAD,
        serve_4bit=packed + cache + OVERHEAD,
        train_16bit=weights + training,
        train_4bit=packed + training,
        kv_cache=cache,
        disk=2 * weights + 4 * adapter * 3,
    )


def needs_by_size(parameters: int) -> Needs:
    """The same of a model of which only the size is known: weights and disk, nine tenths of it in linear layers."""
    weights, packed = bytes_16bit(parameters), bytes_4bit(parameters, parameters * 9 // 10)
    return Needs(weights + OVERHEAD, packed + OVERHEAD, None, None, None, 2 * weights)


def _size(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    value = next((config[name] for name in names if config.get(name) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"config.json does not say {names[0]}")
    return value
