"""A replica's application, whose model can be changed while it answers: `SwitchingApp`.

The new model is loaded beside the old one. From one moment on requests go to the new one; the old one answers those it
has and is freed. A request is answered by one model as a whole, and none is refused for the change.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import structlog
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from serving.backend import Backend, ModelInfo, RunLimits
from serving.command import STOP_TIMEOUT_S
from serving.errors import ModelRefused, ModelUnavailable, Overloaded, ServingError
from serving.model import ServedModel
from serving.pooling import Vectors
from serving.ray.registry import Choice, Registry
from serving.tokens import Split, Text, TokenIds

RETRY_S = 30.0
"""After a model that could not be loaded nobody tries again for so long, unless the registry changes."""

_PROBE = "ok"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Served:
    """What a replica serves, for whoever asks all of them."""

    model: str
    """The name in its answers: the `run_id` of an adapter, or the base model's folder."""
    wanted: str | None
    """What the registry asks for; None while that cannot be said."""
    fault: str | None
    """Why `model` is not what is wanted, in one line."""


@dataclass(eq=False)
class _Generation:
    """One model in service."""

    choice: Choice
    app: FastAPI
    stack: AsyncExitStack
    in_flight: int = 0
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)


class SwitchingApp:
    """An ASGI application in front of the application of the model that serves now. Works for one event loop."""

    def __init__(self, open_app: Callable[[Choice], FastAPI], registry: Registry, watch_s: float) -> None:
        """Loads nothing. `open_app` makes the application of a model, as `serving.main.create_app`; it is called by a
        thread and raises ModelRefused. `watch_s`: how often the registry is looked at, in seconds."""
        self._open_app = open_app
        self._registry = registry
        self._watch_s = watch_s
        self._now: _Generation | None = None
        self._mark = ""
        self._wanted: str | None = None
        self._fault: str | None = None
        self._failed_at = 0.0
        self._looking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None

    @property
    def served(self) -> Served:
        """What it serves."""
        return Served(self._serving.choice.name, self._wanted, self._fault)

    async def start(self) -> None:
        """Load what the registry says and watch it from then on. Raises ModelRefused."""
        self._mark = await asyncio.to_thread(self._registry.mark)
        choice = await asyncio.to_thread(self._registry.choose)
        self._now = await self._opened(choice)
        self._wanted = choice.name
        self._watching = asyncio.create_task(self._watch())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; the end of the lifespan frees the model. Ray's proxy adds the request's id to the
        answer, the one that it gave to the application, too."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        with self._held() as generation:
            await generation.app(scope, receive, send_without_id)

    async def look(self) -> Served:
        """Serve what the registry says now, where that is another model; what cannot be served leaves the present one
        in service and is said in `served`."""
        async with self._looking:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 - whatever a model's code raises, the present one stays
                reason = str(error) if isinstance(error, ServingError) else f"{type(error).__qualname__} while loading"
                if reason != self._fault:
                    _log.error("adapter_switch_failed", model=self._serving.choice.name, reason=reason)
                self._fault, self._failed_at = reason, time.monotonic()
            return self.served

    async def check(self) -> None:
        """Have the model read a word; a full queue counts as alive. Raises ModelUnavailable."""
        with self._held() as generation, suppress(Overloaded):
            model: ServedModel = generation.app.state.model
            await (await model.engine()).read([_PROBE])

    async def aclose(self) -> None:
        """Watch no more and free the models."""
        if self._watching is not None:
            self._watching.cancel()
        if self._retiring is not None:
            await asyncio.wait([self._retiring])
        if self._now is not None:
            await self._now.stack.aclose()

    @property
    def _serving(self) -> _Generation:
        if self._now is None:
            raise ModelUnavailable("no model is loaded yet")
        return self._now

    @contextmanager
    def _held(self) -> Generator[_Generation]:
        """What serves now; it is not freed meanwhile."""
        generation = self._serving
        generation.in_flight += 1
        try:
            yield generation
        finally:
            generation.in_flight -= 1
            if not generation.in_flight:
                generation.is_idle.set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            await self.look()

    async def _follow(self) -> None:
        mark = await asyncio.to_thread(self._registry.mark)
        is_due = self._fault is not None and time.monotonic() - self._failed_at >= RETRY_S
        if mark == self._mark and not is_due:
            return
        self._mark, self._wanted = mark, None
        choice = await asyncio.to_thread(self._registry.choose)
        self._wanted = choice.name
        old = self._serving
        if choice != old.choice:
            if self._retiring is not None:
                await asyncio.wait([self._retiring])  # three models at a time may be more than there is memory for
            self._now = await self._opened(choice)
            self._retiring = asyncio.create_task(self._retire(old))
            _log.info("adapter_switched", model=choice.name, before=old.choice.name)
        self._fault = None

    async def _opened(self, choice: Choice) -> _Generation:
        """The model, loaded and checked. Raises ModelRefused."""
        app = await asyncio.to_thread(self._open_app, choice)
        model: ServedModel = app.state.model
        stack = AsyncExitStack()
        try:
            await asyncio.to_thread(model.load)
            if model.fault is not None:
                raise ModelRefused(model.fault)
            await stack.enter_async_context(app.router.lifespan_context(app))
        except BaseException:
            await model.aclose()
            raise
        return _Generation(choice, app, stack)

    async def _retire(self, old: _Generation) -> None:
        """Free a model as soon as it has answered what it has."""
        if old.in_flight:
            old.is_idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(old.is_idle.wait(), STOP_TIMEOUT_S)
        await old.stack.aclose()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


class NamedBackend:
    """A backend under another name: an adapter's `run_id` instead of its folder's name."""

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self.info: ModelInfo = replace(backend.info, name=name)

    @property
    def limits(self) -> RunLimits:
        """Those of the backend."""
        return self._backend.limits

    def split(self, text: Text) -> Split:
        """The tokens of a text."""
        return self._backend.split(text)

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """One run of the model."""
        return self._backend.run(texts)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()
