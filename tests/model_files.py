"""Files of weights, tiny and whole, in the formats whose headers are read."""

import json
import random
import struct


def safetensors(weights: int = 1000, seed: int = 0) -> bytes:
    """A safetensors file with one tensor of so many float32."""
    tensor = {"dtype": "F32", "shape": [weights], "data_offsets": [0, 4 * weights]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(4 * weights)


def gguf(weights: int = 64, kind: int = 0, block: tuple[int, int] = (1, 4)) -> bytes:
    """A GGUF file with a text, a list of texts, a list of numbers, and one tensor of ggml's type `kind`."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    values = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 64),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1, 2),
    ]
    tensor = text("w") + struct.pack("<IQIQ", 1, weights, kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + b"".join(values) + tensor
    head += bytes(-len(head) % 64)
    return head + bytes(weights // block[0] * block[1])
