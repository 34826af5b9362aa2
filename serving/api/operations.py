"""Routes: is it alive, is it ready, what is it, how does it do."""

from dataclasses import asdict
from typing import Any

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving import VERSION
from serving.api.errors import problem, request_id_of
from serving.api.routing import MetricsDep, ModelDep, SettingsDep, make_router
from serving.model import ServedModel

router = make_router()


@router.get("/healthz")
@router.get("/v1/healthz", operation_id="healthz_v1")
async def healthz(model: ModelDep) -> dict[str, Any]:
    """Alive: the process answers. `model` is `ready`, `loading` or `failed`, and then `reason` says why."""
    return {"status": "ok", **_state(model)}


@router.get("/readyz", response_model=None)
async def readyz(model: ModelDep, request: Request) -> dict[str, Any] | Response:
    """Ready: the model is loaded and its golden vectors are right. A model that loads with the first request is."""
    if model.state == "failed" or (model.state == "loading" and not request.app.state.is_lazy):
        detail = model.fault or "the model is being loaded"
        return problem(request_id_of(request), 503, "not-ready", "Not ready", detail, headers={"Retry-After": "2"})
    return {"status": "ready", **_state(model)}


@router.get("/info")
async def info(model: ModelDep, settings: SettingsDep) -> dict[str, Any]:
    """What is served; loads the model where that was not done."""
    found = (await model.engine()).info
    return {
        "version": VERSION,
        "model": found.name,
        "dim": found.dimension,
        **{name: value for name, value in asdict(found).items() if name not in {"name", "dimension", "prompts"}},
        "prompts": sorted(found.prompts),
        "normalised": found.is_normalised or settings.normalize,
        "rerank": "cross-encoder" if found.kind == "cross-encoder" else "cosine of embeddings",
        "golden_cosine": model.golden_cosine,
        "concurrency": settings.concurrency,
        "batch_size": settings.batch_size,
        "queue_tokens": settings.queue_tokens,
    }


@router.get("/v1/models")
@router.get("/api/v1/models", operation_id="models_api")
async def models(model: ModelDep) -> dict[str, Any]:
    """The one model, as OpenAI lists them."""
    name = (await model.engine()).info.name
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "local"}]}


@router.get("/metrics")
async def metrics(figures: MetricsDep) -> Response:
    """Figures for Prometheus."""
    return Response(figures.exposition(), media_type=CONTENT_TYPE_LATEST)


def _state(model: ServedModel) -> dict[str, Any]:
    return {"model": model.state, **({"reason": model.fault} if model.fault else {})}
