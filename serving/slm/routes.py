"""Routes of the SLM server beside those of embeddings: chat, and how both halves do."""

from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from serving import VERSION
from serving.api.errors import problem, request_id_of
from serving.api.routing import MetricsDep, ModelDep, make_router
from serving.errors import NotFound
from serving.model import ServedModel
from serving.slm.chat import ChatAnswer, ChatModel
from serving.slm.schemas import ChatIn
from serving.slm.settings import SlmSettings

router = make_router()


async def _chat(request: Request) -> ChatModel:
    return request.app.state.chat


async def _settings(request: Request) -> SlmSettings:
    return request.app.state.slm_settings


ChatDep = Annotated[ChatModel, Depends(_chat)]
SlmSettingsDep = Annotated[SlmSettings, Depends(_settings)]


class _Streamed(StreamingResponse):
    """An answer that is passed on as it comes, and ends for llama.cpp too when the caller hangs up."""

    def __init__(self, answer: ChatAnswer) -> None:
        super().__init__(answer.parts(), media_type=answer.media_type, headers={"Cache-Control": "no-cache"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


@router.post("/v1/chat/completions")
@router.post("/api/v1/chat/completions", operation_id="chat_api")
async def chat_completions(body: ChatIn, request: Request, chat: ChatDep) -> Response:
    """OpenAI's chat: `usage` with cached tokens, and llama.cpp's `timings`; streamed when asked for."""
    if chat.fault is None and body.model not in {None, chat.name}:
        raise NotFound(f"the chat model served here is {chat.name}")
    answer = await chat.ask(orjson.dumps(await request.json()))
    if body.stream:
        return _Streamed(answer)
    try:
        return Response(await answer.read(), media_type=answer.media_type)
    finally:
        await answer.aclose()


@router.get("/v1/models")
@router.get("/api/v1/models", operation_id="models_api")
async def models(model: ModelDep, chat: ChatDep) -> dict[str, Any]:
    """The models that answer, the chat model first."""
    names = [chat.name] if chat.fault is None else []
    if model.state == "ready":
        names.append((await model.engine()).info.name)
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in names],
    }


@router.get("/healthz")
@router.get("/v1/healthz", operation_id="healthz_v1")
async def healthz(model: ModelDep, chat: ChatDep) -> dict[str, Any]:
    """Alive: the process answers; `missing` says which half does not, and why."""
    return {"status": "ok", "missing": await _missing(model, chat)}


@router.get("/readyz", response_model=None)
async def readyz(model: ModelDep, chat: ChatDep, request: Request) -> dict[str, Any] | Response:
    """Ready: both halves answer. One that does goes on answering while the other does not."""
    missing = await _missing(model, chat)
    if missing:
        detail = "; ".join(f"{half}: {why}" for half, why in missing.items())
        return problem(request_id_of(request), 503, "not-ready", "Not ready", detail, headers={"Retry-After": "2"})
    return {"status": "ready"}


@router.get("/info")
async def info(model: ModelDep, chat: ChatDep, settings: SlmSettingsDep) -> dict[str, Any]:
    """What is served, and what it may take; a half that is missing says why."""
    missing = await _missing(model, chat)
    found: dict[str, Any] = {"version": VERSION}
    if why := missing.get("embedding"):
        found["embedding"] = {"missing": why}
    else:
        described = asdict((await model.engine()).info)
        found["embedding"] = {
            **described,
            "prompts": sorted(described["prompts"]),
            "threads": settings.embedding.threads,
        }
    if why := missing.get("chat"):
        found["chat"] = {"missing": why}
    else:
        limits = settings.chat.model_dump(mode="json", exclude={"model_path"})
        found["chat"] = {"name": chat.name, "backend": "llama.cpp", **limits}
    return found


@router.get("/metrics")
async def metrics(figures: MetricsDep, chat: ChatDep) -> Response:
    """Figures for Prometheus: this server's, then llama.cpp's own."""
    return Response(figures.exposition() + await chat.exposition(), media_type=CONTENT_TYPE_LATEST)


async def _missing(model: ServedModel, chat: ChatModel) -> dict[str, str]:
    """Why a half does not answer, by its name."""
    found: dict[str, str] = {}
    if model.state != "ready":
        found["embedding"] = model.fault or "the embedding model is being loaded"
    if (why := await chat.state()) is not None:
        found["chat"] = why
    return found
