"""The queue before a model and the one thread that runs it: `Engine`.

Nothing waits for a batch to fill: as soon as a run ends the next one takes what `batching` says of what waits.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog

from serving.backend import Backend
from serving.batching import Backlog, Call, Seat
from serving.errors import InvalidInput, ModelUnavailable, Overloaded, ServingError
from serving.pooling import Vectors
from serving.tokens import Split, Text, TokenIds

_INLINE_TEXTS = 16
_INLINE_CHARACTERS = 2000
"""Up to this much is split on the event loop, 0.5 ms at most; more goes to a thread."""

_TEXTS_PER_SPLIT = 64
"""Split at a time, so that a call that was given up stops soon."""

_SMOOTHING = 0.2
_FIRST_GUESS = 2000.0
"""Tokens a second, until a run has told."""

_log = structlog.stdlib.get_logger(__name__)

OnRun = Callable[[int, int, float], None]
"""Told of every run by the model thread: texts, tokens, seconds."""


@dataclass(frozen=True)
class Reading:
    """What the model made of the texts of one call."""

    vectors: Vectors
    """Shape (texts, dimension) in their order; of a cross-encoder (texts, 1)."""
    tokens: int
    """Read by the model, special ones included."""
    truncated: int
    """Texts of which the end was left out."""


class Engine:
    """Reads texts with a backend, those of several callers in shared runs. A vector does not depend on its run.
    Works for one event loop at a time."""

    def __init__(self, backend: Backend, *, concurrency: int, queue_tokens: int, on_run: OnRun | None = None) -> None:
        """Start the model thread. `queue_tokens`: most tokens accepted and not yet answered."""
        self.info = backend.info
        self._backend = backend
        self._concurrency = concurrency
        self._max_tokens = queue_tokens
        self._on_run = on_run
        self._tokens_per_s = _FIRST_GUESS
        self._is_closed = False
        self.queued_tokens = 0
        """Accepted and not yet answered; a text that is not split yet counts as one."""
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._splitter = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def read(self, texts: Sequence[Text], *, truncate: bool = True) -> Reading:
        """The vectors of the texts, in order.

        Cancelling the call takes its texts out of the queue. Raises Overloaded when the queue has no room now,
        InvalidInput when it never has room for so much or, unless `truncate`, for a text that is too long,
        ModelUnavailable after `aclose` or when a run failed.
        """
        self._check_open()
        admitted = 0
        try:
            self._admit(len(texts), of=len(texts))
            admitted = len(texts)
            splits = await self._split(texts)
            long = [position for position, split in enumerate(splits) if split.is_truncated]
            if long and not truncate:
                limit = f"is longer than the {self.info.max_tokens} tokens the model reads"
                raise InvalidInput(f"{len(long)} of {len(texts)} texts: the first, number {long[0]}, {limit}")
            tokens = sum(map(len, splits))
            self._admit(tokens - admitted, of=tokens)
            admitted = tokens
            return Reading(await self._run([split.ids for split in splits]), tokens, len(long))
        finally:
            self.queued_tokens -= admitted

    async def aclose(self) -> None:
        """Let the present run end, refuse what waits behind it, and free the model."""
        self._is_closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        self._splitter.shutdown(wait=False, cancel_futures=True)
        self._backend.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelUnavailable("The model is shut down.")

    def _admit(self, tokens: int, of: int) -> None:
        """Count the tokens as queued, or refuse them; the whole call has `of`."""
        if of > self._max_tokens:
            raise InvalidInput("these are too many texts for one call: split them over several")
        if self.queued_tokens + tokens > self._max_tokens:
            wait_s = max(1.0, self.queued_tokens / self._tokens_per_s / 2)
            raise Overloaded("too many texts wait for the model", retry_after_s=wait_s)
        self.queued_tokens += tokens

    async def _split(self, texts: Sequence[Text]) -> list[Split]:
        """The tokens of every text. A thread does it unless that would cost more than the work itself."""
        if len(texts) <= _INLINE_TEXTS and sum(map(_characters, texts)) <= _INLINE_CHARACTERS:
            return [self._backend.split(text) for text in texts]
        loop = asyncio.get_running_loop()
        splits: list[Split] = []
        for start in range(0, len(texts), _TEXTS_PER_SPLIT):
            some = texts[start : start + _TEXTS_PER_SPLIT]
            splits += await loop.run_in_executor(self._splitter, self._split_all, some)
        return splits

    def _split_all(self, texts: Sequence[Text]) -> list[Split]:
        return [self._backend.split(text) for text in texts]

    async def _run(self, texts: list[TokenIds]) -> Vectors:
        """Queue the texts for the model thread and wait for their vectors."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle(error: ServingError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def done(error: ServingError | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)

        call = Call(texts, vectors=np.empty((len(texts), self.info.dimension), np.float32), done=done)
        self._inbox.put(call)
        # The model thread may have ended just before; it marks the engine closed, then empties the inbox.
        self._check_open()
        try:
            await future
        finally:
            call.is_abandoned = True
        return call.vectors

    def _work(self) -> None:
        """The model thread: run after run, until it is told to stop."""
        backlog = Backlog(self._backend.limits, self._concurrency)
        seats: list[Seat] = []
        try:
            while self._receive(backlog):
                if seats := backlog.next_run():
                    self._run_once(seats)
        finally:
            # Also reached by an error nobody foresaw: no caller may be left waiting.
            self._is_closed = True
            _refuse(seat.call for seat in seats)
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

    def _run_once(self, seats: Sequence[Seat]) -> None:
        started = time.monotonic()
        try:
            rows = self._backend.run([seat.ids for seat in seats])
        except ModelUnavailable as error:
            _log.error("model_run_failed", texts=len(seats), error=str(error))
            for call in {seat.call for seat in seats}:
                call.is_abandoned = True
                call.done(ModelUnavailable("the model failed on these texts"))
            return
        took_s = max(time.monotonic() - started, 1e-6)
        tokens = sum(len(seat.ids) for seat in seats)
        self._tokens_per_s += _SMOOTHING * (tokens / took_s - self._tokens_per_s)
        if self._on_run:  # before who waits is told: whoever asks afterwards sees it counted
            self._on_run(len(seats), tokens, took_s)
        for seat, row in zip(seats, rows, strict=True):
            call = seat.call
            call.vectors[seat.position] = row
            call.unfinished -= 1
            if not call.unfinished:
                call.done(None)


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _refuse(calls: Iterable[Call]) -> None:
    """Tell the callers that no vectors will come; who has theirs already does not notice."""
    for call in calls:
        call.done(ModelUnavailable("the model is shut down"))
