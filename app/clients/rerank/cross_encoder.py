"""A cross-encoder in this process, for RERANK_MODEL: `CrossEncoderReranker`.

The queue in front of the model is the embedding model's (`batching`): pairs of like length share a run of 128 word
pieces, a call of 1,000 documents does not hold up one of three, and nothing waits for a batch to fill. Runs take tens
of milliseconds, so unlike there the event loop itself hands them to a thread, one after the other.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path
from typing import Self

import numpy as np
import structlog

from app.clients.embeddings.batching import TOKENS_PER_RUN, Backlog, Call, Pieces, Seat
from app.clients.rerank.model import RUN_ERRORS, CrossEncoder
from app.domain.errors import ModelUnavailable
from app.request import remaining_s

MAX_QUEUED_PIECES = 520_000
"""Room for a call of 1,000 documents of the greatest length; two minutes of work for one core with a small model."""

_PAIRS_PER_SPLIT = 16
"""Split into pieces at a time, so that a call that was given up stops soon."""

_SMOOTHING = 0.2

_PIECES_THAT_TELL = TOKENS_PER_RUN // 2
"""Runs of fewer pieces say more of the cost of a run than of the model's speed."""

_HOPE = 2.0
"""A call is begun unless it needs more than so many times what is left: other work may just have slowed the model."""

_log = structlog.stdlib.get_logger(__name__)


class CrossEncoderReranker:
    """The Reranker port on a `CrossEncoder`: the logistic function of each pair's logit, the same whatever documents
    it is scored with (to 1e-5). Works for one event loop.
    """

    def __init__(self, encoder: CrossEncoder, *, max_queued_pieces: int = MAX_QUEUED_PIECES) -> None:
        self._encoder = encoder
        self._max_pieces = max_queued_pieces
        self._queued_pieces = 0
        self._pieces_per_s = math.inf
        self._backlog = Backlog(TOKENS_PER_RUN if encoder.is_batchable else 0)
        self._is_closed = False
        self._working: asyncio.Task[None] | None = None
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="reranker")
        self._splitter = ThreadPoolExecutor(1, thread_name_prefix="rerank-tokenizer")

    @classmethod
    def load(cls, folder: Path, data_dir: Path, threads: int = 1) -> Self:
        """The reranker on the model in `folder`; see `CrossEncoder`. `threads` is how many cores one run uses.

        Blocks; raises ModelUnavailable when the folder holds no such model.
        """
        started = time.monotonic()
        model = CrossEncoder.load(folder, data_dir, threads)
        _log.info(
            "llm_runtime_load",
            role="rerank",
            backend="onnx",
            model=model.name,
            is_batchable=model.is_batchable,
            threads=threads,
            duration_ms=round((time.monotonic() - started) * 1000),
        )
        return cls(model)

    @property
    def model(self) -> str:
        """The name of the model's folder."""
        return self._encoder.name

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """One relevance in 0..1 per document, in order.

        Raises ModelUnavailable, with `cause` `timeout` when the request's budget is used up or is by far not
        enough, `busy` when the queue is full, `failed` when a run fails or after `aclose`. Cancelling the call takes
        its documents out of the queue.
        """
        if not documents:
            return []
        wait_s = remaining_s(otherwise=math.inf)
        try:
            async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                ends_at = time.monotonic() + wait_s
                pairs = await self._split(query, documents)
                return await self._score(pairs, ends_at - time.monotonic())
        except TimeoutError as error:
            raise ModelUnavailable(f"The reranking model did not answer within {wait_s:.3g} s.", "timeout") from error

    async def aclose(self) -> None:
        """Let the present run end, refuse what waits behind it, and stop the threads."""
        self._is_closed = True
        if self._working is not None:
            await asyncio.wait([self._working])
        self._runner.shutdown(wait=False, cancel_futures=True)
        self._splitter.shutdown(wait=False, cancel_futures=True)

    async def _split(self, query: str, documents: Sequence[str]) -> list[Pieces]:
        """The word pieces of every pair."""
        loop = asyncio.get_running_loop()
        pairs: list[Pieces] = []
        for start in range(0, len(documents), _PAIRS_PER_SPLIT):
            self._check_open()
            some = documents[start : start + _PAIRS_PER_SPLIT]
            pairs += await loop.run_in_executor(self._splitter, self._encoder.pairs_of, query, some)
        self._check_open()
        return pairs

    async def _score(self, pairs: list[Pieces], wait_s: float) -> list[float]:
        """The relevances of the pairs, once the model has read them."""
        count = sum(map(len, pairs))
        if self._queued_pieces + count > self._max_pieces:
            raise ModelUnavailable("Too many documents wait for the reranking model.", "busy")
        if count > _HOPE * self._pieces_per_s * wait_s:
            raise ModelUnavailable("The reranking model cannot read so much in the time that is left.", "timeout")
        logits = np.empty((len(pairs), 1), np.float32)
        self._queued_pieces += count
        try:
            await self._read(pairs, logits)
        finally:
            self._queued_pieces -= count
        return [0.5 * (1.0 + math.tanh(logit / 2.0)) for logit in logits[:, 0].tolist()]

    async def _read(self, pairs: list[Pieces], logits: "np.typing.NDArray[np.float32]") -> None:
        """Put the pairs in line and wait until their logits are in place."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        call = Call(pairs, due_s=time.monotonic(), vectors=logits, done=done)
        self._backlog.add(call)
        if self._working is None or self._working.done():
            # Not in the context of the call that happens to start it: it serves others, too.
            self._working = asyncio.create_task(self._work(), context=Context())
        try:
            await future
        finally:
            call.is_abandoned = True

    async def _work(self) -> None:
        """Run after run, until nobody waits."""
        seats: list[Seat] = []
        try:
            while not self._is_closed and (seats := self._backlog.next_run()):
                await self._run(seats)
        finally:
            # Also reached by an error nobody foresaw: no caller may be left waiting. Who is served does not notice.
            for call in (*(seat.call for seat in seats), *self._backlog.clear()):
                call.done(ModelUnavailable("The reranking model is shut down."))

    async def _run(self, seats: list[Seat]) -> None:
        started = time.monotonic()
        pairs = [seat.pieces for seat in seats]
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._runner, self._encoder.logits_of, pairs)
        except RUN_ERRORS as error:
            _log.error("reranking_run_failed", documents=len(seats), error=type(error).__name__)
            for call in {seat.call for seat in seats}:
                call.is_abandoned = True
                call.done(ModelUnavailable("The reranking model failed on these documents."))
            return
        for seat, row in zip(seats, rows, strict=True):
            seat.call.vectors[seat.position] = row
            seat.call.unfinished -= 1
            if not seat.call.unfinished:
                seat.call.done(None)
        now = time.monotonic()
        self._learn_speed(sum(map(len, pairs)), max(now - started, 1e-6))
        self._backlog.charge(seats, now - started, now)

    def _learn_speed(self, pieces: int, took_s: float) -> None:
        """Follow the speed of recent runs."""
        if pieces < _PIECES_THAT_TELL:
            return
        if math.isinf(self._pieces_per_s):
            self._pieces_per_s = pieces / took_s
        self._pieces_per_s += _SMOOTHING * (pieces / took_s - self._pieces_per_s)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelUnavailable("The reranking model is shut down.")
