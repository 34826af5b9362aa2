"""Routes: samples, datasets, training scripts, runs, and which adapter answers whom. All need an admin's key."""

import asyncio
import secrets
from typing import Annotated

from fastapi import Depends, Query, Response
from fastapi import Path as InPath

from app import request
from app.api import training_schemas as schemas
from app.api.deps import AdminCaller, Services, ServicesDep
from app.api.errors import responses
from app.api.routing import make_router
from app.domain.errors import InvalidInput, NotFound
from app.domain.runs import RUN_ID, dataset_for, is_run_id
from app.services.keys import DEFAULT_TENANT
from app.services.training.preparations import Prepared
from app.services.training.run_files import SCRIPT_NAME
from app.services.training.runs import code_version

router = make_router("training", "/v1/training")

MAX_WAIT_S = 60.0
_ABOUT = "A run, as `GET /v1/training/runs` names it."


def _run_id(run_id: Annotated[str, InPath(description=_ABOUT, json_schema_extra={"pattern": f"^{RUN_ID}$"})]) -> str:
    if not is_run_id(run_id):
        raise NotFound("no such training run")
    return run_id


PathRunId = Annotated[str, Depends(_run_id)]


@router.get("/stats", responses=responses())
async def training_stats(services: ServicesDep, caller: AdminCaller) -> schemas.TrainingStatsOut:
    """How many training samples of the tenant were collected."""
    stats = await asyncio.to_thread(services.collector.get_training_stats, caller.tenant_id)
    return schemas.TrainingStatsOut(**stats)


@router.get("/datasets", responses=responses())
async def get_datasets(services: ServicesDep, caller: AdminCaller) -> schemas.DatasetsOut:
    """The tenant's prepared datasets, and whether some are being prepared."""
    return _datasets_out(services.preparations.state(caller.tenant_id))


@router.post(
    "/datasets",
    responses={**responses(), 202: {"model": schemas.DatasetsOut, "description": "It takes longer: look again later."}},
)
async def prepare_datasets(
    body: schemas.DatasetsIn, services: ServicesDep, caller: AdminCaller, response: Response
) -> schemas.DatasetsOut:
    """Make datasets of the tenant's samples, in a process of its own. Done within the request's time: 200; else, and
    where one is under way already, 202, and `GET` tells when it is done."""
    wait_s = request.remaining_s(MAX_WAIT_S)
    prepared = await services.preparations.prepare(caller.tenant_id, body.flags(), wait_s)
    if prepared.state == "preparing":
        response.status_code = 202
    return _datasets_out(prepared)


@router.post("/scripts", responses=responses(404, 409))
async def write_script(body: schemas.ScriptIn, services: ServicesDep, caller: AdminCaller) -> schemas.ScriptOut:
    """Write the script of a training, to be read, changed and run by hand on the server."""
    options = body.options.options()
    options = await services.runs.with_reward(caller.tenant_id, options, body.reward_model)
    base_model = await _base_model(services, caller.tenant_id, body.model)
    output = services.settings.local_models_dir / (body.output or f"{body.method}-{secrets.token_hex(5)}")
    if is_run_id(output.name):
        raise InvalidInput("this is the form of a run's name: choose another", "output")
    if await asyncio.to_thread(output.exists):
        raise InvalidInput("there is a folder of this name already", "output")
    folder = services.runs.datasets_folder(caller.tenant_id)
    place = services.collector.directory if caller.tenant_id == DEFAULT_TENANT else folder
    path = await asyncio.to_thread(
        services.trainer.generate_training_script,
        folder / f"{dataset_for(body.method, body.dataset)}.jsonl",
        base_model,
        output,
        method=body.method,
        options=options,
        script_path=place / SCRIPT_NAME,
        code_version=await asyncio.to_thread(code_version),
    )
    return schemas.ScriptOut(path=str(path), script=await asyncio.to_thread(path.read_text, "utf-8"))


@router.get("/runs", responses=responses())
async def list_runs(
    services: ServicesDep, caller: AdminCaller, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> schemas.RunsOut:
    """The tenant's training runs, newest first."""
    runs = await services.runs.list(caller.tenant_id, limit)
    return schemas.RunsOut(runs=[schemas.RunOut.of(run) for run in runs])


@router.get("/runs/{run_id}", responses=responses(404))
async def get_run(run_id: PathRunId, services: ServicesDep, caller: AdminCaller) -> schemas.RunOut:
    """A training run: its data, settings, figures and judgement."""
    return schemas.RunOut.of(await services.runs.get(caller.tenant_id, run_id))


@router.post("/runs/{run_id}/promote", responses=responses(404, 409, 502))
async def promote_run(
    run_id: PathRunId, body: schemas.PromoteIn, services: ServicesDep, caller: AdminCaller
) -> schemas.DeploymentOut:
    """Have an accepted run's adapter answer a share of the tenant's users."""
    await services.runs.get(caller.tenant_id, run_id)
    return schemas.DeploymentOut.of(await services.deployments.promote(caller.tenant_id, run_id, body.share))


@router.post("/runs/{run_id}/rollback", responses=responses(404, 409))
async def rollback_run(
    run_id: PathRunId, body: schemas.RollbackIn, services: ServicesDep, caller: AdminCaller
) -> schemas.DeploymentOut:
    """Have the model of before answer again."""
    await services.runs.get(caller.tenant_id, run_id)
    return schemas.DeploymentOut.of(await services.deployments.rollback(caller.tenant_id, run_id, body.reason))


@router.get("/deployments", responses=responses())
async def get_deployments(services: ServicesDep, caller: AdminCaller) -> schemas.DeploymentsOut:
    """Which adapter answers whom, how a trial goes, and the changes there were."""
    now = await services.deployments.status(caller.tenant_id)
    history = await services.deployments.history(caller.tenant_id)
    return schemas.DeploymentsOut(
        now=schemas.RouteOut.of(now), history=[schemas.DeploymentOut.of(made) for made in history]
    )


def _datasets_out(prepared: Prepared) -> schemas.DatasetsOut:
    summary = None if prepared.summary is None else schemas.SummaryOut.of(prepared.summary)
    return schemas.DatasetsOut(status=prepared.state, summary=summary)


async def _base_model(services: Services, tenant_id: str, name: str | None) -> str:
    """The served model, a folder in LOCAL_MODELS_DIR, or a hub's name. Raises NotFound for another tenant's run."""
    if name is None:
        return services.settings.vllm_model_name
    if is_run_id(name):
        return str((await services.runs.get(tenant_id, name)).folder)
    if any(is_run_id(part) for part in name.split("/")):
        raise NotFound("no such training run")
    folder = services.settings.local_models_dir / name
    is_folder = "/" not in name and await asyncio.to_thread(folder.is_dir)
    return str(folder.absolute()) if is_folder else name
