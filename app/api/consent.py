"""Routes: whether what a user does may become training data."""

from app.api import schemas
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.params import PathUserId
from app.api.routing import make_router

router = make_router("consent", "/v1/users")


@router.get("/{user_id}/consent", responses=responses(404))
async def get_consent(user_id: PathUserId, services: ServicesDep, caller: UserCaller) -> schemas.ConsentOut:
    """Whether training samples of the user are kept, where they are collected at all."""
    return schemas.ConsentOut(training=await services.consent.get(caller.tenant_id, user_id))


@router.put("/{user_id}/consent", responses=responses(409))
async def put_consent(
    user_id: PathUserId, body: schemas.ConsentIn, services: ServicesDep, caller: UserCaller
) -> schemas.ConsentOut:
    """Opt out of training, or in again. Opting out erases the samples that were kept and the rows of
    datasets made of them; the answer names the adapters that were trained on them."""
    is_kept, left = await services.consent.set(caller.tenant_id, user_id, has_consent=body.training)
    return schemas.ConsentOut(
        training=is_kept,
        erased=dict(left.erased),
        trained_adapters=list(left.trained_adapters),
        unsure_adapters=list(left.unsure_adapters),
        deleted_datasets=left.has_deleted_datasets,
    )
