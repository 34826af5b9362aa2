"""A cross-encoder from a folder: its files, its tokenizer, and one run of it. Knows no queue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.clients.embeddings.batching import Pieces
from app.clients.embeddings.onnx import RUN_ERRORS, open_session
from app.clients.rerank.graph import ensure_graph
from app.domain.embeddings import Vectors
from app.domain.errors import ModelUnavailable

MAX_PIECES = 512
"""Most word pieces read of a pair, whatever more the model could."""

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_INPUTS = {"input_ids", "token_type_ids", "attention_mask", "lengths"}
_OFFSET_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2}
"""Position vectors that no piece uses, by `model_type`."""

_PROBES = (("a", "b"), ("what is it?", "it is this, and it is a good deal longer than the other one, 12345"), ("?", ""))


@dataclass(frozen=True)
class _Layout:
    """How a tokenizer puts two texts together: the special pieces (id, segment) before, between and after them, and
    the segment of either text."""

    around: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]], Sequence[tuple[int, int]]]
    segments: tuple[int, int]


class CrossEncoder:
    """Reads a query and a document together and says how well they go together, as a logit.

    The folder holds `tokenizer.json` and either `model.onnx` (also as `onnx/model.onnx`; inputs `input_ids`,
    `attention_mask` and where the model has segments `token_type_ids`; one output of shape (pairs, 1) or
    (pairs, 2)), or `config.json` and `model.safetensors` of a BertForSequenceClassification.
    """

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer, name: str, max_pieces: int) -> None:
        """Raises ModelUnavailable when the session's model is no cross-encoder."""
        self._session = session
        self._tokenizer = tokenizer
        self.name = name
        padding = cast("dict[str, Any]", tokenizer.padding or {})
        self._pad_id: int = (
            padding.get("pad_id") or tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
        )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._layout = _layout_of(tokenizer)
        self._room = max_pieces - sum(len(part) for part in self._layout.around)
        inputs = cast("list[Any]", session.get_inputs())
        self._inputs = {str(each.name): _DTYPES.get(each.type, np.float32) for each in inputs}
        if not {"input_ids"} <= self._inputs.keys() <= _INPUTS or np.float32 in self._inputs.values():
            raise ModelUnavailable(f"The model {name} asks for other inputs than a cross-encoder's.", "wrong_shape")
        outputs = [str(each.name) for each in cast("list[Any]", session.get_outputs())]
        self._output: str = "logits" if "logits" in outputs else outputs[0]
        self.is_batchable = self._probe()

    @classmethod
    def load(cls, folder: Path, data_dir: Path, threads: int = 1) -> Self:
        """The model in `folder`; a graph made of safetensors is kept in `data_dir`/models. Blocks, for 0.2 s and the
        first time for 1 s with a small model. Raises ModelUnavailable.
        """
        name = folder.resolve().name
        if not (folder / "tokenizer.json").is_file():
            raise ModelUnavailable(f"{folder} holds no reranking model: there is no tokenizer.json.", "unreachable")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more exact
            raise ModelUnavailable(f"{folder}/tokenizer.json cannot be read.", "wrong_shape") from error
        return cls(open_session(_graph_in(folder, data_dir), threads), tokenizer, name, _max_pieces_in(folder))

    def pairs_of(self, query: str, documents: Sequence[str]) -> list[Pieces]:
        """For each document its word pieces with the query's, and the segment of each: shape (pieces, 2). Of the
        longer text the end is left out where the model cannot read both, as transformers does."""
        asked = self._ids_of(query)
        return [self._pair(asked, self._ids_of(document)) for document in documents]

    def _ids_of(self, text: str) -> list[int]:
        # JSON can carry half a surrogate pair, which no UTF-8 text may.
        text = text.encode("utf-8", "replace").decode("utf-8")
        # The batch call is the one that lets other threads run meanwhile.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _pair(self, query: list[int], document: list[int]) -> Pieces:
        # Put together here: the library, when it cuts a pair, also makes every pair of the parts it cut off.
        first, second = kept_lengths(len(query), len(document), self._room)
        before, between, after = self._layout.around
        own, other = self._layout.segments
        asked, answered = ((each, own) for each in query[:first]), ((each, other) for each in document[:second])
        rows = [*before, *asked, *between, *answered, *after]
        return np.array(rows, np.int32)

    def logits_of(self, pairs: Sequence[Pieces]) -> Vectors:
        """One run of the model: shape (pairs, 1), a logit of the pair's relevance. Raises one of RUN_ERRORS."""
        lengths = np.array([len(pieces) for pieces in pairs])
        shape = (len(pairs), int(lengths.max()))
        ids = np.full(shape, self._pad_id)
        segments = np.zeros(shape, np.int64)
        for row, pieces in enumerate(pairs):
            ids[row, : len(pieces)], segments[row, : len(pieces)] = pieces.T
        mask = np.arange(shape[1]) < lengths[:, np.newaxis]
        values = {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask, "lengths": lengths}
        feeds: dict[str, NDArray[Any]] = {name: values[name].astype(dtype) for name, dtype in self._inputs.items()}
        output = cast("NDArray[Any]", self._session.run([self._output], feeds)[0])
        logits = output.reshape(len(pairs), -1).astype(np.float32)
        if logits.shape[1] == 2:  # softmax of two logits is the logistic function of what is between them
            logits = logits[:, 1:] - logits[:, :1]
        if logits.shape[1] != 1 or not np.isfinite(logits).all():
            raise RuntimeError("the model answered with something else than a finite logit for each pair")
        return logits

    def _probe(self) -> bool:
        """Whether pairs can share a run without one changing another's score, tried out: padding and neighbours must
        not matter, but do where a model rounds to eight bits by the largest number of the run."""
        pairs = [pair for query, document in _PROBES for pair in self.pairs_of(query, [document])]
        try:
            alone = np.concatenate([self.logits_of([pair]) for pair in pairs])
            together = self.logits_of(pairs)
        except RUN_ERRORS as error:
            raise ModelUnavailable(f"The model {self.name} does not run: {error}", "wrong_shape") from error
        return bool(np.abs(alone - together).max() <= 1e-4)


def kept_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many pieces to keep of two texts so that both have `room`: the longer one gives way, until they are equal
    (`longest_first` in transformers)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


def _layout_of(tokenizer: Tokenizer) -> _Layout:
    """Read off a pair that the tokenizer put together itself."""
    pair = tokenizer.encode("a", "b")
    places: dict[int, list[int]] = {0: [], 1: []}
    for place, text in enumerate(pair.sequence_ids):
        if text is not None:
            places[text].append(place)
    if not places[0] or not places[1] or places[0][0] > places[1][0]:
        raise ModelUnavailable("The tokenizer does not put two texts together.", "wrong_shape")
    special = list(zip(pair.ids, pair.type_ids, strict=True))
    (start, stop), (start_2, stop_2) = ((found[0], found[-1] + 1) for found in places.values())
    segments = (pair.type_ids[start], pair.type_ids[start_2])
    return _Layout((special[:start], special[stop:start_2], special[stop_2:]), segments)


def _graph_in(folder: Path, data_dir: Path) -> Path:
    for graph in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if graph.is_file():
            return graph
    if not (folder / "model.safetensors").is_file():
        raise ModelUnavailable(
            f"{folder} holds no reranking model: there is neither model.onnx nor model.safetensors.", "unreachable"
        )
    return ensure_graph(folder, data_dir / "models")


def _max_pieces_in(folder: Path) -> int:
    """The most pieces of a pair: MAX_PIECES, or less where the model's files say so. What tokenizer.json says of
    cutting is how the model was trained or last saved, not what it can read."""
    config, tokenizer = (_object_in(folder / name) for name in ("config.json", "tokenizer_config.json"))
    limits = [MAX_PIECES]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int):
        limits.append(positions - _OFFSET_POSITIONS.get(str(config.get("model_type")), 0))
    stated = tokenizer.get("model_max_length")
    if isinstance(stated, int):
        limits.append(stated)
    return max(8, min(limits))


def _object_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    try:
        found = json.loads(file.read_text("utf8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
