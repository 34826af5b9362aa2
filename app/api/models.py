"""Routes: which model plays which role, and that it is there. They need an admin's key."""

from fastapi import Response

from app import request
from app.api import model_schemas as schemas
from app.api.deps import AdminCaller, ServicesDep
from app.api.errors import responses
from app.api.routing import make_router

router = make_router("models", "/api/v1/models")

MAX_WAIT_S = 60.0


@router.get("", responses=responses())
async def list_role_models(services: ServicesDep, caller: AdminCaller) -> schemas.ModelsOut:
    """The active profile with its overrides, what is known of its models, and all profiles of the manifest."""
    listing = await services.models.list()
    return schemas.ModelsOut.of(listing, services.models.manifest.overrides)


@router.post(
    "/provision",
    responses={**responses(404), 202: {"model": schemas.ProvisionOut, "description": "It takes longer: ask again."}},
)
async def provision_models(
    body: schemas.ProvisionIn, services: ServicesDep, caller: AdminCaller, response: Response
) -> schemas.ProvisionOut:
    """See that the models of some roles, or all, are there, and bring those that are not. Done within the request's
    time: 200, with what was done for each; else 202, and it goes on: ask again, or `GET /api/v1/models`."""
    wait_s = request.remaining_s(MAX_WAIT_S)
    made = await services.models.provision(body.roles, force=body.force, wait_s=wait_s)
    if made.status == "provisioning":
        response.status_code = 202
    return schemas.ProvisionOut.of(made)
