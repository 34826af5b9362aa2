"""The application. `uvicorn app.main:app` starts the service."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI

from app import VERSION
from app.api import (
    chat,
    consent,
    embeddings,
    errors,
    hypotheses,
    memories,
    models,
    operations,
    persona,
    recalls,
    rerank,
    training,
)
from app.api.document import build_document
from app.api.mcp import http as mcp
from app.api.middleware import RequestMiddleware
from app.domain.errors import DomainError
from app.logs import configure_logs
from app.settings import Settings, load_settings_or_exit
from app.wiring import open_services
from app.wiring_jobs import running_worker
from app.wiring_shards import open_shards

log = structlog.get_logger(__name__)

MAX_IMPORT_BYTES = 512 * 1024 * 1024
"""An export of a user with many memories is far larger than any other body."""

MAX_CHAT_BYTES = 64 * 1024 * 1024
"""A chat may hold images."""


def create_app(load: Callable[[], Settings] = load_settings_or_exit) -> FastAPI:
    """The application; nothing is read, opened or started before it is served."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        settings = load()
        configure_logs(settings.log_dir, settings.log_level)
        try:
            async with (
                open_services(settings) as services,
                open_shards(settings, services, settings.database_shard_urls or ()) as shards,
            ):
                app.state.services = services
                shards.install(app)
                app.state.max_body_bytes = int(settings.max_body_mb * 1024 * 1024)
                app.state.request_budget_s = settings.request_budget_s
                is_open = not await services.keys.has_any()
                log.info(
                    "service_started",
                    version=VERSION,
                    slm=services.slm.name,
                    space=services.spaces.own_space.id,
                    serves="this machine only, until a key is made" if is_open else "callers with a key",
                )
                async with running_worker(settings, services):
                    yield
                log.info("service_stopped")
        except DomainError as error:
            log.error("service_cannot_start", reason=str(error))
            raise SystemExit(f"cannot start: {error}") from None

    app = FastAPI(
        title="Embed Service",
        version=VERSION,
        summary="Remembers users, proposes what a vague input means, and turns the choice into one enriched prompt.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    for room in (
        hypotheses,
        recalls,
        memories,
        persona,
        chat,
        consent,
        embeddings,
        rerank,
        training,
        models,
        operations,
    ):
        app.include_router(room.router)
    app.include_router(operations.probes)
    app.include_router(mcp.router)
    errors.install(app)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=lambda: getattr(app.state, "max_body_bytes", 16 * 1024 * 1024),
        max_body_bytes_by_path={"/v1/memory/import": MAX_IMPORT_BYTES, chat.PATH: MAX_CHAT_BYTES},
        budget_s=lambda: getattr(app.state, "request_budget_s", 10.0),
    )
    app.openapi = lambda: _openapi(app)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = build_document(app)
    return app.openapi_schema


app = create_app()
