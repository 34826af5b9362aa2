"""The built-in model behind ONNX Runtime: `OnnxEmbedder`.

One thread of its own reads texts with the model, so neither the event loop nor a second run is ever in its way;
`batching` says in which order, and nothing waits for a batch to fill. A short text costs 0.3 to 0.4 ms more than
its run of the model: 0.1 for its word pieces, the rest for two changes of thread with caches the model has emptied
(0.07 ms in all when they are warm).
"""

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import onnxruntime
import structlog
from tokenizers import Tokenizer

from app.clients.embeddings import minilm
from app.clients.embeddings.batching import Backlog, Call, Pieces, Seat
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import InvalidInput, ModelUnavailable, Overloaded

MAX_QUEUED_TEXTS = 8192
MAX_QUEUED_TOKENS = 400_000
"""About 100 s of work for one core, and room for a call of 1,000 texts of the greatest length."""

PIECES_PER_SECOND = 4000.0
"""What one core reads; used only to tell a refused caller when to come back."""

_INLINE_TEXTS = 16
_INLINE_CHARACTERS = 2000
"""Up to this much is split into pieces on the event loop, 0.5 ms at most; more goes to a thread."""

_HEAD_CHARACTERS = 4096

_ort = import_module("onnxruntime.capi.onnxruntime_pybind11_state")  # compiled, without types
RUN_ERRORS: tuple[type[Exception], ...] = (
    _ort.Fail,
    _ort.RuntimeException,
    _ort.InvalidArgument,
    _ort.EPFail,
    RuntimeError,
    MemoryError,
)
_LOAD_ERRORS: tuple[type[Exception], ...] = (
    *RUN_ERRORS,
    _ort.InvalidProtobuf,
    _ort.InvalidGraph,
    _ort.NotImplemented,
    _ort.NoSuchFile,
)

_log = structlog.stdlib.get_logger(__name__)


class OnnxEmbedder:
    """Vectors of all-MiniLM-L6-v2: 384 float32 of unit length, the same in any batch (to 1e-6).

    A text is read up to 256 word pieces, as sentence-transformers does with this model; the empty text has a
    vector too. Works for one event loop.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        *,
        max_queued_texts: int = MAX_QUEUED_TEXTS,
        max_queued_tokens: int = MAX_QUEUED_TOKENS,
    ) -> None:
        """Start the model thread. `session` and `tokenizer` are made from what `minilm` provides."""
        self._session: onnxruntime.InferenceSession | None = session
        self._tokenizer = tokenizer
        self._max_texts = max_queued_texts
        self._max_tokens = max_queued_tokens
        self._queued_texts = 0
        self._queued_tokens = 0
        self._is_closed = False
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._splitter = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, data_dir: Path, threads: int = 1) -> Self:
        """The embedder on the model in `data_dir`/models, which is made there the first time.

        Blocks for 0.2 s, the first time for 1 s. `threads` is how many cores one run uses. Raises ModelUnavailable
        when the model's package is missing or damaged.
        """
        started = time.monotonic()
        session = open_session(minilm.ensure_model(data_dir / "models"), threads)
        embedder = cls(session, minilm.load_tokenizer())
        _log.info(
            "llm_runtime_load",
            role="embedding",
            backend=embedder.backend,
            space=embedder.space.id,
            threads=threads,
            duration_ms=round((time.monotonic() - started) * 1000),
        )
        return embedder

    @property
    def space(self) -> EmbeddingSpace:
        """The space of the built-in model."""
        return minilm.SPACE

    @property
    def backend(self) -> str:
        """`onnx`."""
        return "onnx"

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), 384), in order.

        Cancelling the call takes its texts out of the queue. Raises Overloaded when the queue has no room now,
        InvalidInput when it never has room for so much, ModelUnavailable after `aclose` or when a run failed.
        """
        if not texts:
            return np.empty((0, self.space.dimension), np.float32)
        self._check_open()
        self._admit(len(texts), 0)
        tokens = 0
        try:
            pieces = await self._split(texts)
            count = sum(map(len, pieces))
            self._admit(0, count)
            tokens = count
            return await self._read(pieces)
        finally:
            self._queued_texts -= len(texts)
            self._queued_tokens -= tokens

    def count_tokens(self, texts: Sequence[str]) -> int:
        """The word pieces the model reads of the texts, [CLS], [SEP] and the limit of 256 included."""
        return sum(len(self._pieces(text)) for text in texts)

    async def aclose(self) -> None:
        """Let the present run end, refuse what waits behind it, and free the model."""
        self._is_closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._splitter.shutdown(wait=False, cancel_futures=True)
        self._session = None

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelUnavailable("The embedding model is shut down.")

    def _admit(self, texts: int, tokens: int) -> None:
        """Count the texts or tokens as queued, or refuse them."""
        if texts > self._max_texts or tokens > self._max_tokens:
            raise InvalidInput("These are too many texts for one call: split them over several.")
        is_full = self._queued_texts + texts > self._max_texts or self._queued_tokens + tokens > self._max_tokens
        if is_full:
            wait_s = max(1.0, self._queued_tokens / PIECES_PER_SECOND / 2)
            raise Overloaded("Too many texts wait for the embedding model.", retry_after_s=wait_s)
        self._queued_texts += texts
        self._queued_tokens += tokens

    async def _split(self, texts: Sequence[str]) -> list[Pieces]:
        """The word pieces of every text. A thread does it unless that would cost more than the work itself."""
        if len(texts) <= _INLINE_TEXTS and sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return [self._pieces(text) for text in texts]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._splitter, lambda: [self._pieces(text) for text in texts])

    def _pieces(self, text: str) -> Pieces:
        # JSON can carry half a surrogate pair, which no UTF-8 text may.
        text = text.encode("utf-8", "replace").decode("utf-8")
        # Of a long text only the head is read. Pieces never cross a space, so a head that was cut at one and
        # fills the limit gives the very pieces of the whole text.
        size = _HEAD_CHARACTERS
        while size < len(text):
            cut = text.rfind(" ", 0, size)
            if cut > 0 and len(ids := self._encode(text[:cut])) == minilm.MAX_PIECES:
                return ids
            size *= 2
        return self._encode(text)

    def _encode(self, text: str) -> Pieces:
        # The batch call is the one that lets other threads run meanwhile.
        return np.array(self._tokenizer.encode_batch_fast([text])[0].ids, np.int32)

    async def _read(self, pieces: list[Pieces]) -> Vectors:
        """Queue the texts for the model thread and wait for their vectors."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Vectors] = loop.create_future()
        vectors = np.empty((len(pieces), self.space.dimension), np.float32)

        def settle(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(vectors)
            else:
                future.set_exception(error)

        def done(error: Exception | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)

        call = Call(pieces, due_s=time.monotonic(), vectors=vectors, done=done)
        self._inbox.put(call)
        # The model thread may have ended just before; it marks the embedder closed, then empties the inbox.
        self._check_open()
        try:
            return await future
        finally:
            call.is_abandoned = True

    def _work(self) -> None:
        """The model thread: run after run, until it is told to stop."""
        backlog = Backlog()
        seats: list[Seat] = []
        try:
            while self._receive(backlog):
                if seats := backlog.next_run():
                    self._run(backlog, seats)
        finally:
            # Also reached by an error nobody foresaw: no caller may be left waiting.
            self._is_closed = True
            _refuse([seat.call for seat in seats])
            _refuse(backlog.clear())
            _refuse(self._drain_inbox())

    def _receive(self, backlog: Backlog) -> bool:
        """Put arrivals in line, waiting for one when the line is empty; False when it is time to stop."""
        try:
            while (call := self._inbox.get(block=not backlog)) is not None:
                backlog.add(call)
        except queue.Empty:
            return True
        return False

    def _drain_inbox(self) -> list[Call]:
        calls: list[Call] = []
        try:
            while True:
                if (call := self._inbox.get_nowait()) is not None:
                    calls.append(call)
        except queue.Empty:
            return calls

    def _run(self, backlog: Backlog, seats: list[Seat]) -> None:
        started = time.monotonic()
        try:
            rows = self._vectors_of([seat.pieces for seat in seats])
        except RUN_ERRORS as error:
            _log.error("embedding_run_failed", texts=len(seats), error=type(error).__name__)
            for call in {seat.call for seat in seats}:
                call.is_abandoned = True
                call.done(ModelUnavailable("The embedding model failed on these texts."))
            return
        for seat, row in zip(seats, rows, strict=True):
            call = seat.call
            call.vectors[seat.position] = row
            call.unfinished -= 1
            if not call.unfinished:
                call.done(None)
        now = time.monotonic()
        backlog.charge(seats, now - started, now)

    def _vectors_of(self, texts: list[Pieces]) -> Vectors:
        """One run of the model: shape (len(texts), 384)."""
        assert self._session is not None, "the model thread ends before the session is freed"
        lengths = np.array([len(pieces) for pieces in texts], np.int32)
        if len(texts) == 1:
            ids = texts[0][np.newaxis]
        else:
            ids = np.zeros((len(texts), lengths.max()), np.int32)
            for row, pieces in zip(ids, texts, strict=True):
                row[: len(pieces)] = pieces
        outputs = cast("list[Vectors]", self._session.run(None, {"input_ids": ids, "lengths": lengths}))
        return outputs[0]


def open_session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session for `model` that keeps little memory. Raises ModelUnavailable.

    Without the arena and the memory patterns, what a run needed is given back after it. They would not make the
    small runs that `batching` makes faster by more than 2 %.
    """
    options: Any = _ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Waiting threads sleep instead of spinning: the cores belong to the database and the API as well.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise ModelUnavailable(f"ONNX Runtime cannot load {model}: {error}") from error


def _refuse(calls: list[Call]) -> None:
    """Tell the callers that no vectors will come; who has theirs already does not notice."""
    for call in calls:
        call.done(ModelUnavailable("The embedding model is shut down."))
