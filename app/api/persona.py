"""Routes: how a user likes to be answered, and why the service thinks so."""

from collections.abc import Sequence

from app.api import schemas
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.params import PathUserId
from app.api.routing import make_router
from app.domain.persona import Persona
from app.store.tables import AnyRow

router = make_router("persona", "/v1/persona")


@router.get("/{user_id}/history", responses=responses(404))
async def get_persona_history(
    user_id: PathUserId, services: ServicesDep, caller: UserCaller
) -> schemas.PersonaHistoryOut:
    """Every move of every facet, with the signal behind it."""
    return history_out(await services.personas.history(caller.tenant_id, user_id))


@router.get("/{user_id}", responses=responses(404))
async def get_persona(user_id: PathUserId, services: ServicesDep, caller: UserCaller) -> schemas.PersonaOut:
    """The user's facets with their uncertainty."""
    return persona_out(await services.personas.get(caller.tenant_id, user_id))


@router.patch("/{user_id}", responses=responses(404, 409))
async def correct_persona(
    user_id: PathUserId, body: schemas.PersonaChangeIn, services: ServicesDep, caller: UserCaller
) -> schemas.PersonaOut:
    """Set facets outright, as the user says."""
    return persona_out(await services.personas.correct(caller.tenant_id, user_id, body.facets, version=body.version))


def persona_out(persona: Persona) -> schemas.PersonaOut:
    """A persona as the API shows it."""
    return schemas.PersonaOut(
        user_id=persona.user_id,
        facets={
            facet.name: schemas.FacetOut(
                value=facet.value, uncertainty=facet.uncertainty, is_expressed=facet.is_expressed
            )
            for facet in persona.facets.values()
        },
        version=persona.version,
        vector=persona.vector.tolist() if persona.vector is not None else None,
        updated_at=persona.updated_at,
    )


def history_out(rows: Sequence[AnyRow]) -> schemas.PersonaHistoryOut:
    """Changes of facets as the API shows them."""
    return schemas.PersonaHistoryOut(
        changes=[
            schemas.FacetChangeOut(
                facet=row.facet,
                before=row.before,
                after=row.after,
                uncertainty=row.uncertainty,
                reason=row.reason,
                signal_id=row.signal_id,
                version=row.version,
                changed_at=row.changed_at,
            )
            for row in rows
        ]
    )
