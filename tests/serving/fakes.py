"""A model for tests of what is around it: quick, exact, and held back at will."""

import threading
import zlib
from collections.abc import Sequence

import numpy as np

from serving.backend import ModelInfo, RunLimits
from serving.errors import ModelUnavailable
from serving.pooling import Vectors
from serving.tokens import Split, Text, TokenIds

MAX_TOKENS = 64
POISON = "poison"
"""A text with this word makes its run fail."""


class FakeBackend:
    """Words are tokens; a text's vector is drawn with its words as seed. `gate` closed: runs wait; `runs` are the
    lengths of the texts of every run."""

    def __init__(self, name: str = "fake-model", *, limits: RunLimits | None = None) -> None:
        self.limits = limits or RunLimits(texts=8, tokens=128, padding=3)
        self.info = ModelInfo(
            name=name,
            backend="fake",
            kind="embedding",
            dimension=16,
            max_tokens=MAX_TOKENS,
            device="cpu",
            precision="float",
            pooling="mean",
            is_normalised=False,
            is_batchable=True,
            prompts={"query": "query: ", "document": ""},
            is_matryoshka=True,
            matryoshka_dimensions=(4, 8),
        )
        self.gate = threading.Event()
        self.gate.set()
        self.runs: list[list[int]] = []
        self.is_closed = False

    def split(self, text: Text) -> Split:
        """A token for every word."""
        words = text.split() if isinstance(text, str) else [*text[0].split(), *text[1].split()]
        ids = [zlib.crc32(word.encode()) & 0x7FFFFFFF for word in words] or [0]
        kept = np.array([(each, 0) for each in ids[:MAX_TOKENS]], np.int32)
        return Split(kept, len(ids) > MAX_TOKENS)

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """Shape (texts, 16)."""
        assert self.gate.wait(timeout=30)
        self.runs.append([len(ids) for ids in texts])
        if any(zlib.crc32(POISON.encode()) & 0x7FFFFFFF in ids[:, 0] for ids in texts):
            raise ModelUnavailable("poisoned")
        return np.stack([np.random.default_rng(ids[:, 0].tolist()).normal(size=16) for ids in texts]).astype(np.float32)

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True
