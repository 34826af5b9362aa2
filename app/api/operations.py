"""Routes: is it alive, is it ready, how does it do, and what a tenant sets for itself."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import VERSION
from app.api import schemas
from app.api.deps import AdminCaller, Services, ServicesDep, UserCaller
from app.api.errors import responses
from app.domain.errors import DomainError, InvalidInput

router = APIRouter(tags=["operations"])

DEFAULT_WINDOW = timedelta(days=30)


@router.get("/healthz")
@router.get("/v1/healthz")
async def healthz() -> schemas.HealthOut:
    """Alive: the process answers."""
    return schemas.HealthOut()


@router.get("/readyz", responses={503: {"model": schemas.ReadyOut, "description": "A part is missing."}})
async def readyz(services: ServicesDep, response: Response) -> schemas.ReadyOut:
    """Ready: the database and the embedding model answer. Without the model the service still answers,
    by words alone: `degraded`."""
    parts = {
        "database": await _state(services.database.ping()),
        "embedder": await _state(services.embedder.embed(["ready?"])),
        "slm": services.slm_name,
    }
    if parts["database"] != "ok":
        response.status_code = 503
        return schemas.ReadyOut(status="unready", parts=parts)
    return schemas.ReadyOut(status="ready" if parts["embedder"] == "ok" else "degraded", parts=parts)


async def _state(check: object) -> str:
    try:
        async with asyncio.timeout(2):
            await check  # pyright: ignore[reportGeneralTypeIssues]
    except TimeoutError:
        return "no answer in 2 s"
    except DomainError as error:
        return type(error).__name__
    return "ok"


@router.get("/info", responses=responses())
async def info(services: ServicesDep, caller: UserCaller) -> schemas.InfoOut:
    """What is running."""
    return _info(services)


def _info(services: Services) -> schemas.InfoOut:
    space = services.embedder.space
    return schemas.InfoOut(
        name="embed-service",
        version=VERSION,
        slm=services.slm_name,
        model=space.model,
        dim=space.dimension,
        space=space.id,
        backend=services.embedder.backend,
        normalised=space.is_normalised,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics() -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/telemetry", responses=responses())
async def telemetry(
    services: ServicesDep,
    caller: UserCaller,
    since: Annotated[datetime | None, Query(description="With a time zone; 30 days ago where absent.")] = None,
) -> schemas.TelemetryOut:
    """Rates of decisions and choices since a moment."""
    if since is not None and since.tzinfo is None:
        raise InvalidInput("since needs a time zone, e.g. 2026-01-31T12:00:00Z", "since")
    start = since or datetime.now(UTC) - DEFAULT_WINDOW
    if not 1 < start.year < 9999:
        raise InvalidInput("since is outside the years 2 to 9998", "since")
    summary, calibration = await services.telemetry.summary(caller.tenant_id, start)
    return schemas.TelemetryOut(
        since=start,
        sets=summary.sets,
        answered=summary.answered,
        auto_advance_rate=summary.auto_advance_rate,
        selection_rate=summary.selection_rate,
        mrr=summary.mrr,
        calibration_error=summary.calibration_error,
        calibration_version=calibration.version,
    )


@router.get("/v1/training/stats", responses=responses())
async def training_stats(services: ServicesDep, caller: AdminCaller) -> schemas.TrainingStatsOut:
    """How many training samples were collected."""
    stats = await asyncio.to_thread(services.collector.get_training_stats)
    return schemas.TrainingStatsOut(**stats)


@router.get("/v1/settings", responses=responses())
async def get_settings(services: ServicesDep, caller: AdminCaller) -> schemas.SettingsIn:
    """What the tenant set for itself."""
    return schemas.SettingsIn.model_validate(await services.catalogues.document(caller.tenant_id))


@router.put("/v1/settings", responses=responses())
async def put_settings(body: schemas.SettingsIn, services: ServicesDep, caller: AdminCaller) -> schemas.SettingsIn:
    """Replace what the tenant set for itself: weights, budget, threshold, and intents of its own."""
    await services.catalogues.save_document(caller.tenant_id, body.model_dump(exclude_none=True))
    return body
