"""One model for chat and embeddings: `UnifiedLLMRuntime`.

    runtime = UnifiedLLMRuntime(Path("local-models/mine"), load_runtime_settings())
    runtime.generate([{"role": "user", "content": "Where is the lamp?"}], max_new_tokens=64).text
    runtime.embed(["where is the lamp", "the lamp is on the table"])

Every method blocks and may be called by several threads at a time; a server calls them by threads. The weights of a
folder are in memory once per process, however many runtimes there are of it.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from serving.backend import ModelInfo, RunLimits
from serving.batching import Backlog, Call
from serving.errors import InvalidInput, LLMRuntimeError, ModelRefused, ServingError
from serving.llm2vec.manifest import Manifest, read_manifest
from serving.llm2vec.settings import RuntimeSettings, load_runtime_settings
from serving.llm2vec.weights import Weights, make_plan
from serving.llm2vec.writing import FinishReason, Sampling, Token, Writing
from serving.pooling import Vectors, normalised
from serving.tokens import Split, Text, TokenIds

Messages = Sequence[Mapping[str, str]]
"""`role` and `content` of each, as the model's chat template takes them."""

RETRY_S = 5.0
"""After a load that failed nobody tries again for so long: a large checkpoint takes minutes to fail."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Generated:
    """A whole answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(eq=False)
class _Shared:
    """Weights and how many runtimes use them."""

    weights: Weights
    users: int = 0


_loading = threading.Lock()
_loaded: dict[object, _Shared] = {}
"""What is in this process' memory, by folder, manifest and plan."""


class UnifiedLLMRuntime:
    """A checkpoint that talks and embeds. It is loaded by `load`, or by the first call that needs it."""

    def __init__(self, model_dir: Path, settings: RuntimeSettings | None = None) -> None:
        """Reads the manifest and loads nothing. Raises ModelRefused."""
        self.manifest: Manifest = read_manifest(model_dir)
        self.settings = (settings or load_runtime_settings()).model
        self.folder = model_dir.resolve()
        self.name = self.folder.name
        self._shared: _Shared | None = None
        self._key: object = None
        self._fault: tuple[str, float] | None = None
        """Why the last load failed, and when."""
        self._is_closed = False

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory for this runtime."""
        return self._shared is not None

    @property
    def info(self) -> ModelInfo:
        """What is loaded. Raises as `load`."""
        return self._weights.info

    @property
    def limits(self) -> RunLimits:
        """What one `run` may hold. Raises as `load`."""
        return self._weights.limits

    def load(self) -> None:
        """Have the weights in memory; whoever calls meanwhile waits for the same load. Raises LLMRuntimeError in one
        line, and tries again RETRY_S later."""
        with _loading:
            if self._is_closed:
                raise LLMRuntimeError("the model is shut down")
            if self._shared is not None:
                return
            started = time.monotonic()
            if self._fault is not None and started - self._fault[1] < RETRY_S:
                raise LLMRuntimeError(self._fault[0])
            try:
                plan = make_plan(self.folder, self.manifest, self.settings)
                self._key = (self.folder, self.manifest, plan, self.settings.cores)
                shared = _loaded.get(self._key)
                is_first = shared is None
                if shared is None:
                    weights = Weights(self.folder, self.manifest, plan, self.settings.cores)
                    shared = _loaded[self._key] = _Shared(weights)
            except ModelRefused as error:
                self._fault = str(error), time.monotonic()
                _log.error("llm_runtime_failed", model=self.name, reason=str(error))
                raise LLMRuntimeError(str(error)) from None
            shared.users += 1
            self._shared = shared
        info = shared.weights.info
        _log.info(
            "llm_runtime_load",
            role="chat and embedding",
            backend=info.backend,
            model=self.name,
            source=plan.source,
            device=info.device,
            precision=info.precision,
            is_batchable=info.is_batchable,
            is_shared=not is_first,
            duration_ms=_ms_since(started),
        )

    def generate(
        self,
        messages_or_prompt: Messages | str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Generated:
        """A whole answer; arguments and errors as of `stream`."""
        written = self.stream(
            messages_or_prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            schema=schema,
        )
        text = "".join(written)
        assert written.finish_reason is not None
        return Generated(text, written.prompt_tokens, written.completion_tokens, written.finish_reason)

    def stream(
        self,
        messages_or_prompt: Messages | str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        has_logprobs: bool = False,
        request_id: str | None = None,
    ) -> "Answer":
        """An answer piece by piece, from messages in the model's template or from a text as it is.

        What is None is as the manifest says; `temperature` 0 always takes the most probable token. The answer has at
        most `settings.model.max_new_tokens`, and what is left of the model's context. With a JSON `schema`
        it is a document that keeps to it, or the beginning of one; `has_logprobs` keeps its `tokens`. `request_id` goes
        into the log.
        Raises InvalidInput for what the model cannot read, LLMRuntimeError where it fails.
        """
        weights, chat = self._weights, self.manifest.chat
        prompt = _prompt_tokens(weights, messages_or_prompt)
        room = weights.context - len(prompt)
        if room < 1 or not prompt:
            said = f"has {len(prompt)} tokens and the model reads {weights.context}" if prompt else "is empty"
            raise InvalidInput(f"the conversation {said}", "messages")
        default = chat.temperature if chat.do_sample else 0.0
        sampling = Sampling(
            max_new_tokens=min(max_new_tokens or chat.max_new_tokens, self.settings.max_new_tokens, room),
            temperature=default if temperature is None else temperature,
            top_p=chat.top_p if top_p is None else top_p,
            seed=seed,
            stop=tuple(stop),
            has_logprobs=has_logprobs,
        )
        guide = None if schema is None else weights.grammars.of(schema)
        return Answer(Writing(weights, prompt, sampling, guide), weights.info, request_id)

    def embed(self, texts: Sequence[str], normalise: bool | None = None) -> Vectors:
        """Shape (len(texts), dimension), float32, in order: each text behind the manifest's prompt and cut at its
        `max_length`. `normalise` None: as the manifest says. A vector does not depend on the other texts. Raises
        LLMRuntimeError."""
        weights, stated = self._weights, self.manifest.embedding
        started = time.monotonic()
        splits = [weights.split(stated.prompt + text) for text in texts]
        failures: list[ServingError | None] = []
        vectors = np.empty((len(texts), stated.dimension), np.float32)
        call = Call([split.ids for split in splits], vectors, failures.append)
        backlog = Backlog(weights.limits, 1)
        if texts:
            backlog.add(call)
        while seats := backlog.next_run():
            for seat, row in zip(seats, weights.run([seat.ids for seat in seats]), strict=True):
                vectors[seat.position] = row
        _log_embedding(weights.info, len(texts), sum(map(len, splits)), started)
        return normalised(vectors) if (stated.normalise if normalise is None else normalise) else vectors

    def split(self, text: Text) -> Split:
        """The tokens of a text, without the manifest's prompt: the Backend's half of `embed`."""
        return self._weights.split(text)

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """One run of the model, within `limits`: the Backend's other half. Raises LLMRuntimeError."""
        weights = self._weights
        started = time.monotonic()
        vectors = weights.run(texts)
        _log_embedding(weights.info, len(texts), sum(map(len, texts)), started)
        return vectors

    def close(self) -> None:
        """Let go of the weights; the last runtime that does frees them. Later calls raise LLMRuntimeError."""
        with _loading:
            self._is_closed = True
            shared, self._shared = self._shared, None
            if shared is not None:
                shared.users -= 1
                if not shared.users:
                    del _loaded[self._key]
                    shared.weights.close()

    @property
    def _weights(self) -> Weights:
        if (shared := self._shared) is None:
            self.load()
            shared = self._shared
        if shared is None:
            raise LLMRuntimeError("the model is shut down")
        return shared.weights


class Answer:
    """Iterates over the pieces of an answer, which may be empty. Close it, read or not: it keeps memory until then."""

    def __init__(self, writing: Writing, info: ModelInfo, request_id: str | None) -> None:
        self._writing = writing
        self._info = info
        self._request_id = request_id
        self._started = time.monotonic()
        self._is_closed = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the conversation, its template included."""
        return self._writing.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens written so far, the one that ends it included."""
        return self._writing.completion_tokens

    @property
    def tokens(self) -> Sequence[Token]:
        """Those written so far, but the one that ends the answer; none unless they were asked for."""
        return self._writing.tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it is being written."""
        return self._writing.finish_reason

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next piece. Raises LLMRuntimeError."""
        try:
            return next(self._writing)
        except (StopIteration, LLMRuntimeError):
            self.close()
            raise

    def close(self) -> None:
        """Write no further; the event says how far it came."""
        if self._is_closed:
            return
        self._is_closed = True
        self._writing.close()
        _log.info(
            "llm_generate",
            request_id=self._request_id,
            model=self._info.name,
            device=self._info.device,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=self.finish_reason or "broken_off",
            duration_ms=_ms_since(self._started),
        )


def _prompt_tokens(weights: Weights, given: Messages | str) -> list[int]:
    """The tokens of a text as it is, or of messages in the model's template. Raises InvalidInput."""
    tokenizer: Any = weights.tokenizer
    if isinstance(given, str):
        return tokenizer.backend_tokenizer.encode(given).ids
    if not tokenizer.chat_template:
        raise InvalidInput("the model has no chat template: give it a text, not messages", "messages")
    try:
        text: str = tokenizer.apply_chat_template(list(given), tokenize=False, add_generation_prompt=True)
    except Exception:  # noqa: BLE001 - a template may raise what it likes
        raise InvalidInput("the model's chat template does not take these messages", "messages") from None
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def _log_embedding(info: ModelInfo, texts: int, tokens: int, started: float) -> None:
    _log.info(
        "llm_embed", model=info.name, device=info.device, texts=texts, tokens=tokens, duration_ms=_ms_since(started)
    )


def _ms_since(started: float) -> int:
    return round(1000 * (time.monotonic() - started))
