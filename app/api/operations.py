"""Routes: is it alive, is it ready, how does it do, and what a tenant sets for itself."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import VERSION
from app.api import schemas, telemetry_schemas
from app.api.deps import AdminCaller, ServicesDep, UserCaller
from app.api.errors import responses
from app.api.routing import make_router
from app.domain.errors import DomainError
from app.domain.telemetry import Summary

router = make_router("operations")
probes = APIRouter(tags=["operations"], redirect_slashes=False)
"""What machines ask: without a key, and whatever else they put into the address."""

DEFAULT_WINDOW = timedelta(days=30)


@probes.get("/healthz")
@probes.get("/v1/healthz", operation_id="healthz_v1")
async def healthz() -> schemas.HealthOut:
    """Alive: the process answers."""
    return schemas.HealthOut()


@probes.get("/readyz", responses={503: {"model": schemas.ReadyOut, "description": "A part is missing."}})
async def readyz(services: ServicesDep, response: Response) -> schemas.ReadyOut:
    """Ready: the database and the embedding model answer, and the language model did of late. Without a model the
    service still answers, by words alone or by the built-in rules: `degraded`."""
    parts = {
        "database": await _state(services.database.ping()),
        "embedder": await _state(services.embedder.embed(["ready?"])),
        "slm": services.slm.name,
        "slm_breaker": services.slm.state,
        "reranker": services.ranking.reranker.model,
    }
    if parts["database"] != "ok":
        response.status_code = 503
        return schemas.ReadyOut(status="unready", parts=parts)
    is_whole = parts["embedder"] == "ok" and parts["slm_breaker"] == "closed"
    return schemas.ReadyOut(status="ready" if is_whole else "degraded", parts=parts)


async def _state(check: object) -> str:
    try:
        async with asyncio.timeout(2):
            await check  # pyright: ignore[reportGeneralTypeIssues]
    except TimeoutError:
        return "no answer in 2 s"
    except DomainError as error:
        return type(error).__name__
    return "ok"


@probes.get("/info")
async def info(services: ServicesDep) -> schemas.InfoOut:
    """What is running: versions and models, nothing about tenants or the machine."""
    space = services.embedder.space
    return schemas.InfoOut(
        name="embed-service",
        version=VERSION,
        slm=services.slm.name,
        model=space.model,
        dim=space.dimension,
        space=services.spaces.own_space.id,
        backend=services.embedder.backend,
        normalised=space.is_normalised,
    )


@probes.get(
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
    since: Annotated[schemas.Moment | None, Query(description="With a time zone; 30 days ago where absent.")] = None,
) -> telemetry_schemas.TelemetryOut:
    """Rates of decisions and choices since a moment."""
    start = since or datetime.now(UTC) - DEFAULT_WINDOW
    report = await services.telemetry.report(caller.tenant_id, start)
    return telemetry_schemas.TelemetryOut(
        since=start,
        **_figures(report.summary),
        calibration_version=report.calibration.version,
        policies=[
            telemetry_schemas.PolicyOut(
                policy=telemetry_schemas.Policy(**asdict(each.policy)),
                calibration_versions=[each.first, each.last],
                **_figures(each.summary),
            )
            for each in report.policies
        ],
    )


def _figures(summary: Summary) -> dict[str, Any]:
    """As a document has them."""
    figures = asdict(summary)
    renamed = {"chance_error": "chance_calibration_error", "chance_error_high": "chance_calibration_error_high"}
    return {renamed.get(name, name): value for name, value in figures.items()}


@router.get("/v1/settings", responses=responses(), response_model_exclude_none=True)
async def get_settings(services: ServicesDep, caller: AdminCaller) -> schemas.SettingsIn:
    """What the tenant set for itself."""
    return schemas.SettingsIn.model_validate(await services.catalogues.chosen(caller.tenant_id))


@router.put("/v1/settings", responses=responses(), response_model_exclude_none=True)
async def put_settings(body: schemas.SettingsIn, services: ServicesDep, caller: AdminCaller) -> schemas.SettingsIn:
    """Replace what the tenant set for itself: weights, budget, threshold, and intents of its own."""
    document = body.model_dump(exclude_unset=True, exclude_none=True)
    await services.catalogues.choose(caller.tenant_id, document)
    return body
