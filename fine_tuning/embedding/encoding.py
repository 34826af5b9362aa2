"""Texts to vectors by what serves them: a model's folder as the server runs it, or a running server."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from fine_tuning.embedding.errors import FineTuningError, first_line
from serving.backend import Backend, RunLimits
from serving.batching import Backlog, Call
from serving.errors import ModelRefused
from serving.pooling import Vectors
from serving.settings import SettingsError, load_settings

ALONE = RunLimits(texts=1, tokens=1, padding=0)
"""Every text in a run of its own."""

_TEXTS_A_REQUEST = 64
_TIMEOUT_S = 300


def open_model(folder: Path, backend: str = "auto", device: str = "cpu") -> Backend:
    """The folder's model as the server runs it. Raises FineTuningError."""
    from serving.backends import open_backend  # noqa: PLC0415 - with it comes ONNX Runtime

    try:
        opened = open_backend(load_settings(model=folder, backend=backend, device=device))
    except (ModelRefused, SettingsError) as error:
        raise FineTuningError(str(error)) from None
    if opened.info.kind != "embedding":
        opened.close()
        raise FineTuningError(f"{folder} is a cross-encoder: it has no vectors.")
    return opened


def encode(backend: Backend, texts: Sequence[str], limits: RunLimits | None = None) -> Vectors:
    """The vectors of the texts in their order, with the model's default prompt, as the model gives them: in runs as
    the server would fill them, or of other `limits`. Raises ModelUnavailable."""
    prompt = backend.info.prompts.get(backend.info.default_prompt_name or "", "")
    ids = [backend.split(prompt + text).ids for text in texts]
    call = Call(ids, vectors=np.empty((len(ids), backend.info.dimension), np.float32), done=lambda _: None)
    backlog = Backlog(limits or backend.limits, concurrency=1)
    if ids:
        backlog.add(call)
    while seats := backlog.next_run():
        for seat, vector in zip(seats, backend.run([seat.ids for seat in seats]), strict=True):
            call.vectors[seat.position] = vector
    return call.vectors


class Encoder(AbstractContextManager["Encoder"]):
    """Whatever `source` names, a folder or the URL of an embedding server, as a function of texts."""

    def __init__(self, source: str) -> None:
        """Raises FineTuningError where the folder cannot be served."""
        self._is_remote = source.startswith(("http://", "https://"))
        self._url = source
        self._backend = None if self._is_remote else open_model(Path(source))

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dimension). Raises FineTuningError where a server gives something else than vectors."""
        return encode(self._backend, texts) if self._backend else _ask(self._url, texts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        """Free the model."""
        if self._backend:
            self._backend.close()
        return False


def _ask(url: str, texts: Sequence[str]) -> Vectors:
    """The vectors by an embedding server: the OpenAI request where the URL ends with /embeddings, else `inputs`."""
    import httpx2  # noqa: PLC0415

    is_openai = url.rstrip("/").endswith("/embeddings")
    rows: list[Any] = []
    with httpx2.Client(timeout=_TIMEOUT_S) as client:
        for start in range(0, len(texts), _TEXTS_A_REQUEST):
            some = list(texts[start : start + _TEXTS_A_REQUEST])
            try:
                answer = client.post(url, json={"input" if is_openai else "inputs": some})
                answer.raise_for_status()
                found: Any = answer.json()
                rows += [each["embedding"] for each in found["data"]] if is_openai else found["embeddings"]
            except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
                raise FineTuningError(f"{url} gave no vectors: {type(error).__name__}: {first_line(error)}") from None
    if len(rows) != len(texts):
        raise FineTuningError(f"{url} gave {len(rows)} vectors for {len(texts)} texts.")
    return np.array(rows, np.float32)
