"""sentence-transformers on torch: weights as they were saved, on the CPU or a GPU. Needs that package and torch.

Computes in float32. The tokens are the server's own, from tokenizer.json, so that they are counted and cut in one way
whatever runs the model.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from serving.backend import ModelInfo, RunLimits, is_batchable
from serving.errors import ModelRefused, ModelUnavailable
from serving.folder import ModelFolder
from serving.pooling import Vectors
from serving.settings import ServeSettings
from serving.tokens import Split, Splitter, Text, TokenIds

_TOKENS_PER_RUN, _PADDING = {"cpu": 512, "cuda": 16_384}, {"cpu": 8, "cuda": 32}


def load(folder: ModelFolder, settings: ServeSettings) -> "TorchBackend":
    """The backend on the folder's weights. Raises ModelRefused."""
    return TorchBackend(folder, settings.device, settings.cores, settings.batch_size)


class TorchBackend:
    """The Backend on a SentenceTransformer, or on a CrossEncoder of sentence-transformers."""

    def __init__(self, folder: ModelFolder, device: str, threads: int, batch_size: int) -> None:
        """Raises ModelRefused when sentence-transformers cannot load the folder."""
        library: Any = import_module("sentence_transformers")
        self._torch: Any = import_module("torch")
        import_module("transformers").utils.logging.disable_progress_bar()
        self._device = _device_for(device, has_cuda=bool(self._torch.cuda.is_available()))
        self._is_scoring = folder.kind == "cross-encoder"
        self._threads = threads
        make = library.CrossEncoder if self._is_scoring else library.SentenceTransformer
        try:
            model: Any = make(str(folder.path), device=self._device, local_files_only=True)
        except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
            raise ModelRefused(f"sentence-transformers cannot load {folder.path}: {_first_line(error)}") from None
        self._model: Any = model.float().eval()
        self._splitter = Splitter.load(folder.tokenizer, folder.max_tokens, is_lower_cased=folder.is_lower_cased)
        self._has_segments = "token_type_ids" in model.tokenizer.model_input_names
        try:
            can_share = is_batchable(folder.kind, self.split, self.run)
            sample = self.run([self.split(("a", "b") if self._is_scoring else "a").ids])
        except ModelUnavailable as error:
            raise ModelRefused(f"{folder.path} does not run: {error}") from None
        family = self._device.partition(":")[0]
        self.limits = RunLimits(batch_size if can_share else 1, _TOKENS_PER_RUN[family], _PADDING[family])
        self.info = ModelInfo(
            name=folder.name,
            backend="sentence-transformers",
            kind=folder.kind,
            dimension=sample.shape[1],
            max_tokens=folder.max_tokens,
            device=self._device,
            precision="float",
            pooling="none" if self._is_scoring else "+".join(folder.pooling) or "of the model",
            is_normalised=not self._is_scoring and folder.is_normalised,
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
        """One run of the model: shape (texts, dimension). Raises ModelUnavailable."""
        lengths = np.array([len(ids) for ids in texts])
        shape = (len(texts), int(lengths.max()))
        ids, segments = np.full(shape, self._splitter.pad_id, np.int64), np.zeros(shape, np.int64)
        for row, own in enumerate(texts):
            ids[row, : len(own)], segments[row, : len(own)] = own.T
        features = {"input_ids": ids, "attention_mask": (np.arange(shape[1]) < lengths[:, np.newaxis]).astype(np.int64)}
        if self._has_segments:
            features["token_type_ids"] = segments
        self._torch.set_num_threads(self._threads)  # holds for the thread that sets it
        try:
            with self._torch.inference_mode():
                tensors = {name: self._torch.from_numpy(each).to(self._device) for name, each in features.items()}
                found = self._model(tensors)
                vectors = found["scores" if self._is_scoring else "sentence_embedding"].float().cpu().numpy()
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelUnavailable(f"torch failed ({type(error).__name__}).") from error
        vectors = vectors.reshape(len(texts), -1)
        if not np.isfinite(vectors).all() or (self._is_scoring and vectors.shape[1] != 1):
            raise ModelUnavailable("The model answered with something else than finite numbers for each text.")
        return vectors

    def close(self) -> None:
        """Free the model."""
        self._model = None


def _device_for(device: str, *, has_cuda: bool) -> str:
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    if device != "cpu" and not has_cuda:
        raise ModelRefused(f"SERVE_DEVICE={device} is not usable: torch sees no GPU.")
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
