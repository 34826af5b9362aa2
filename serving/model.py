"""The model of a server through its life: not loaded, loading, ready, or refused for its golden vectors."""

import asyncio
import threading
import time
from collections.abc import Callable

import structlog

from serving.backend import Backend
from serving.engine import Engine
from serving.errors import ModelRefused, ModelUnavailable
from serving.golden import FILE, least_cosine, read_golden
from serving.metrics import Metrics
from serving.settings import ServeSettings

_log = structlog.stdlib.get_logger(__name__)


class ServedModel:
    """Loads a backend once, however many ask for it at a time, and checks it before anybody gets a vector."""

    def __init__(self, open_backend: Callable[[], Backend], settings: ServeSettings, metrics: Metrics) -> None:
        """Loads nothing. `open_backend` is called by a thread and raises ModelRefused."""
        self._open_backend = open_backend
        self._settings = settings
        self._metrics = metrics
        self._lock = threading.Lock()
        self._loading: asyncio.Task[None] | None = None
        self._engine: Engine | None = None
        self.fault: str | None = None
        """Why it is not served, in one line; None while nothing is known against it."""
        self.golden_cosine: float | None = None
        """The least cosine to the golden vectors; None where there are none."""

    @property
    def state(self) -> str:
        """`ready`, `failed` (see `fault`) or `loading`: not asked for yet, or on its way."""
        if self.fault is not None:
            return "failed"
        return "ready" if self._engine else "loading"

    def load(self) -> None:
        """Load and check the model unless it is there. Blocks; raises ModelRefused, and may be tried again then."""
        with self._lock:
            if self._engine is not None:
                return
            started = time.monotonic()
            try:
                backend = self._open_backend()
                self._check(backend)
            except ModelRefused as error:
                self.fault = str(error)
                raise
            self._engine = Engine(
                backend,
                concurrency=self._settings.concurrency,
                queue_tokens=self._settings.queue_tokens,
                on_run=self._metrics.on_run,
            )
            took_s = time.monotonic() - started
        info = backend.info
        self._metrics.load_seconds.set(took_s)
        self._metrics.ready.set(self.fault is None)
        self._metrics.watch_queue(lambda: self._engine.queued_tokens if self._engine else 0)
        _log.info(
            "llm_runtime_load",
            role="rerank" if info.kind == "cross-encoder" else "embedding",
            backend=info.backend,
            model=info.name,
            device=info.device,
            is_batchable=info.is_batchable,
            duration_ms=round(took_s * 1000),
        )
        if self.fault is not None:
            _log.error("golden_vectors_differed", reason=self.fault)

    async def engine(self) -> Engine:
        """The engine, its model loaded first where that was not done. Raises ModelUnavailable."""
        if self._engine is None:
            await self._load_once()
        if self.fault is not None or self._engine is None:
            raise ModelUnavailable(self.fault or "The model is shut down.")
        return self._engine

    async def aclose(self) -> None:
        """Free the model."""
        if self._engine is not None:
            await self._engine.aclose()

    async def _load_once(self) -> None:
        """Wait for the load that is on its way, or begin one; a caller who hangs up does not stop it."""
        if self._loading is None or self._loading.done():
            self.fault = None
            self._loading = asyncio.create_task(asyncio.to_thread(self.load))
        try:
            await asyncio.shield(self._loading)
        except ModelRefused as error:
            raise ModelUnavailable(str(error)) from None

    def _check(self, backend: Backend) -> None:
        """Compare with the golden vectors, where the folder has some."""
        folder = self._settings.model
        golden = read_golden(folder / FILE) if folder and backend.info.kind == "embedding" else None
        if golden is None:
            return
        try:
            self.golden_cosine = least_cosine(backend, golden)
        except ModelUnavailable as error:
            raise ModelRefused(f"{folder} does not run: {error}") from None
        if not self.golden_cosine >= golden.least_cosine:
            self.fault = (
                f"{FILE}: the model's vectors are not the golden ones (least cosine {self.golden_cosine:.4f}, "
                f"{golden.least_cosine:g} is asked for)."
            )
