"""What the server needs of a model: `Backend`. Its contract suite is `tests/serving/test_backends.py`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from serving.folder import Kind
from serving.pooling import Vectors, normalised
from serving.tokens import Split, Text, TokenIds

BATCH_TOLERANCE = 1e-5
"""A unit vector may move by so much when others share its run: float32 stays far below, eight-bit activations
that are scaled by the whole run do not."""

_PROBES = ("a", "what is it?", "it is this, and it is a good deal longer than the other one, 12345", "?!", "zq " * 40)


def as_long(length: int) -> int:
    """The width of a run where every length will do."""
    return length


def in_steps(length: int) -> int:
    """The width of a run where few are wanted: multiples of 4 from 8 to 32, of 8 up to 64, of 16 above."""
    step = 4 if length <= 32 else 8 if length <= 64 else 16
    return max(8, -(-length // step) * step)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run of the model may hold."""

    texts: int
    tokens: int
    """Most tokens, padding included; a longer text runs alone."""
    padding: int
    """A text whose own width is less than the run's by more than this does not join it."""
    width: Callable[[int], int] = as_long
    """Tokens a row has in a run, by the length of the run's longest text; never falls."""


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model is."""

    name: str
    backend: str
    kind: Kind
    dimension: int
    max_tokens: int
    device: str
    precision: str
    """The quantization as far as the files tell: a heuristic for people, nothing depends on it."""
    pooling: str
    is_normalised: bool
    """Whether the model itself makes unit vectors."""
    is_batchable: bool
    """Whether texts share runs: not where a vector would depend on its neighbours."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt_name: str | None = None
    is_matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()


class Backend(Protocol):
    """A loaded model. `split` may be called by any thread; `run` and `close` by one at a time."""

    @property
    def info(self) -> ModelInfo:
        """What it is."""
        ...

    @property
    def limits(self) -> RunLimits:
        """What one run may hold."""
        ...

    def split(self, text: Text) -> Split:
        """The tokens of a text, or of a pair where the model is a cross-encoder."""
        ...

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """One run: shape (texts, dimension), of a cross-encoder (texts, 1): logits. Raises ModelUnavailable."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def is_batchable(kind: Kind, split: Callable[[Text], Split], run: Callable[[Sequence[TokenIds]], Vectors]) -> bool:
    """Whether texts may share a run, tried out: neighbours and padding must not move a vector. Raises as `run`."""
    texts: list[Text] = [(_PROBES[1], each) for each in _PROBES] if kind == "cross-encoder" else list(_PROBES)
    ids = [split(text).ids for text in texts]
    alone = np.concatenate([run([each]) for each in ids])
    together = run(ids)
    if kind == "embedding":
        alone, together = normalised(alone), normalised(together)
    return bool(np.abs(alone - together).max() <= BATCH_TOLERANCE * max(1.0, float(np.abs(alone).max())))
