"""The application: `create_app`, from a factory of the model and the settings."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI

from serving import VERSION
from serving.api import embeddings, errors, operations, rerank
from serving.api.middleware import RequestMiddleware
from serving.backend import Backend
from serving.metrics import Metrics
from serving.model import ServedModel
from serving.settings import ServeSettings

_log = structlog.stdlib.get_logger(__name__)


def create_app(open_backend: Callable[[], Backend], settings: ServeSettings, *, is_lazy: bool = False) -> FastAPI:
    """A server of the model that `open_backend` loads. `app.state.model` is its ServedModel.

    The model is loaded before the first request is taken or, when `is_lazy`, by the first one that needs it. A model
    that cannot be loaded stops the start with ModelRefused; one whose golden vectors differ is served as not ready.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        model: ServedModel = app.state.model
        if not is_lazy:
            model.load()
        yield
        await model.aclose()
        _log.info("server_stopped")

    app = FastAPI(title="Embed Service model server", version=VERSION, lifespan=lifespan, redoc_url=None)
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.model = ServedModel(open_backend, settings, app.state.metrics)
    app.state.is_lazy = is_lazy
    for room in (embeddings, rerank, operations):
        app.include_router(room.router)
    errors.install(app)
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics)
    return app
