"""The application: `create_slm_app`, from the settings."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from fastapi import FastAPI
from prometheus_client import Gauge

from serving import VERSION
from serving.api import embeddings, errors
from serving.api.middleware import RequestMiddleware
from serving.backend import Backend
from serving.backends import open_backend
from serving.errors import ModelRefused
from serving.metrics import Metrics
from serving.model import ServedModel
from serving.settings import usable_cores
from serving.slm import routes
from serving.slm.chat import ChatModel
from serving.slm.settings import SlmSettings

_log = structlog.stdlib.get_logger(__name__)


def create_slm_app(settings: SlmSettings, open_embedding: Callable[[], Backend] | None = None) -> FastAPI:
    """A server of a chat model and an embedding model; `open_embedding` replaces the model of the settings.

    Both are loaded before the first request is taken. One that cannot be loaded is missing from then on, as `/readyz`
    says, and the other one is served.
    """
    serve = settings.for_embeddings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await asyncio.to_thread(_load, app, settings)
        _log.info("server_started", host=settings.host, port=settings.port)
        yield
        await asyncio.gather(app.state.chat.aclose(), app.state.model.aclose())
        _log.info("server_stopped")

    app = FastAPI(title="Embed Service SLM server", version=VERSION, lifespan=lifespan, redoc_url=None)
    app.state.settings = serve
    app.state.slm_settings = settings
    app.state.metrics = Metrics()
    app.state.model = ServedModel(open_embedding or partial(open_backend, serve), serve, app.state.metrics)
    chat = app.state.chat = ChatModel(settings.chat, settings.models_dir)
    figures = app.state.metrics.registry
    Gauge("serve_chats_in_flight", "Chats being answered or waiting.", registry=figures).set_function(
        lambda: chat.in_flight
    )
    Gauge("serve_chat_ready", "1 when the chat model was loaded.", registry=figures).set_function(
        lambda: chat.fault is None
    )
    for room in (embeddings, routes):
        app.include_router(room.router)
    errors.install(app)
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics)
    return app


def _load(app: FastAPI, settings: SlmSettings) -> None:
    cores, threads = usable_cores(), settings.embedding.threads + settings.chat.threads
    if threads > cores:
        _log.warning("threads_exceed_cores", threads=threads, cores=cores)
    for half in (app.state.model, app.state.chat):
        with suppress(ModelRefused):
            half.load()
        if half.fault is not None:
            _log.error("model_missing", reason=half.fault)
