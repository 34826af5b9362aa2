"""A model as a graph of tensors: feeding it, pooling what it gives. What runs the graph is a `Session`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.backend import ModelInfo, RunLimits, in_steps, is_batchable
from serving.errors import ModelRefused, ModelUnavailable
from serving.folder import ModelFolder
from serving.pooling import Vectors, normalised, pool
from serving.tokens import Split, Splitter, Text, TokenIds

_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "lengths"}
"""What can be fed; `lengths` are the texts' tokens, where a graph asks for that instead of a mask."""

_POOLED = ("sentence_embedding", "embeddings")
"""Outputs that are vectors of whole texts already."""

_TOKENS_PER_RUN = 192
"""On a core the products are bound by arithmetic from 64 tokens on: more only makes a run longer."""

_WARM_UP_S = 5.0
"""Longest time spent on running shapes before anybody asks; a MiniLM's take less than one."""


@dataclass(frozen=True)
class Output:
    """One output of a graph; `rank` is how many axes it has."""

    name: str
    rank: int


class Session(Protocol):
    """A loaded graph."""

    backend: str
    device: str
    precision: str
    compiles_shapes: bool
    """Whether the first run of a shape takes longer and its kernels stay in memory: few shapes are run then."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The dtype of each input by its name."""
        ...

    @property
    def outputs(self) -> Sequence[Output]:
        """What it gives."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """One output. Raises ModelUnavailable."""
        ...

    def close(self) -> None:
        """Free the graph."""
        ...


class GraphBackend:
    """The Backend on a Session: vectors are pooled as the folder says, or by the graph itself."""

    def __init__(self, session: Session, folder: ModelFolder, batch_size: int) -> None:
        """Raises ModelRefused when the graph is none that the folder describes."""
        self._session = session
        self._splitter = Splitter.load(folder.tokenizer, folder.max_tokens, is_lower_cased=folder.is_lower_cased)
        self._max_tokens = folder.max_tokens
        self._is_scoring = folder.kind == "cross-encoder"
        if unknown := set(session.inputs) - _INPUTS or {"input_ids"} - set(session.inputs):
            raise ModelRefused(f"{folder.graph} has inputs that cannot be fed: {', '.join(sorted(unknown))}.")
        self._output = _output_of(session, folder)
        is_pooled = self._is_scoring or self._output.rank == 2
        self._pooling = () if is_pooled else folder.pooling
        self._is_normalising = folder.is_normalised and not self._is_scoring
        try:
            can_share = is_batchable(folder.kind, self.split, self.run)
            sample = self.run([self.split(("a", "b") if self._is_scoring else "a").ids])
        except ModelUnavailable as error:
            raise ModelRefused(f"{folder.graph} does not run: {error}") from None
        self.limits = RunLimits(batch_size if can_share else 1, _TOKENS_PER_RUN, padding=0, width=in_steps)
        self.info = ModelInfo(
            name=folder.name,
            backend=session.backend,
            kind=folder.kind,
            dimension=sample.shape[1],
            max_tokens=folder.max_tokens,
            device=session.device,
            precision=session.precision,
            pooling="none" if self._is_scoring else "+".join(self._pooling) or "in the graph",
            is_normalised=not self._is_scoring and (folder.is_normalised or _is_unit(sample, is_pooled)),
            is_batchable=can_share,
            prompts=folder.prompts,
            default_prompt_name=folder.default_prompt_name,
            is_matryoshka=folder.is_matryoshka,
            matryoshka_dimensions=folder.matryoshka_dimensions,
        )

    def split(self, text: Text) -> Split:
        """The tokens of a text or a pair."""
        return self._splitter.split(text)

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """One run of the graph: shape (texts, dimension). Raises ModelUnavailable."""
        lengths = np.array([len(ids) for ids in texts], np.int64)
        longest = int(lengths.max())
        shape = (len(texts), min(in_steps(longest), self._max_tokens) if self._session.compiles_shapes else longest)
        ids, segments = np.full(shape, self._splitter.pad_id, np.int64), np.zeros(shape, np.int64)
        for row, own in enumerate(texts):
            ids[row, : len(own)], segments[row, : len(own)] = own.T
        mask = np.arange(shape[1]) < lengths[:, np.newaxis]
        values = {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask, "lengths": lengths}
        feeds = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._session.inputs.items()}
        found = self._session.run(feeds, self._output.name).astype(np.float32, copy=False)
        vectors = pool(found, lengths, self._pooling) if self._pooling else found.reshape(len(texts), -1)
        if self._is_scoring and vectors.shape[1] == 2:  # softmax of two logits is the logistic function of their gap
            vectors = vectors[:, 1:] - vectors[:, :1]
        if not np.isfinite(vectors).all() or (self._is_scoring and vectors.shape[1] != 1):
            raise ModelUnavailable("The model answered with something else than finite numbers for each text.")
        return normalised(vectors) if self._is_normalising else vectors

    def warm_up(self) -> None:
        """Run every shape that runs may have, as far as time allows. Raises ModelRefused when one fails."""
        ends = time.monotonic() + _WARM_UP_S
        widths = sorted({in_steps(length) for length in range(1, self._max_tokens + 1)})
        most = {width: min(self.limits.texts, max(1, self.limits.tokens // width)) for width in widths}
        shapes = sorted((count, width) for width in widths for count in range(1, most[width] + 1))
        try:
            for count, width in shapes:
                if time.monotonic() > ends:
                    return
                self.run([np.zeros((min(width, self._max_tokens), 2), np.int32)] * count)
        except ModelUnavailable as error:
            raise ModelRefused(f"{self.info.name} does not run: {error}") from None

    def close(self) -> None:
        """Free the graph."""
        self._session.close()


def _output_of(session: Session, folder: ModelFolder) -> Output:
    """The output to read: token vectors where the folder says how to pool them, else vectors pooled in the graph."""
    if folder.kind == "cross-encoder":
        return next((each for each in session.outputs if each.name == "logits"), session.outputs[0])
    hidden = [each for each in session.outputs if each.rank == 3]
    if hidden and folder.pooling:
        return hidden[0]
    for name in _POOLED:
        if found := next((each for each in session.outputs if each.name == name and each.rank == 2), None):
            return found
    if hidden:
        raise ModelRefused(
            f"{folder.path} does not say how tokens are pooled: modules.json with a Pooling module is missing."
        )
    raise ModelRefused(f"{folder.graph} has neither vectors of tokens nor an output {' or '.join(_POOLED)}.")


def _is_unit(sample: Vectors, is_pooled: bool) -> bool:
    """Whether a graph that pools also normalises."""
    return is_pooled and bool(abs(np.linalg.norm(sample) - 1) < 1e-4)
