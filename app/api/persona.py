"""Routes: how a user likes to be answered, and why the service thinks so."""

from collections.abc import Sequence

from app.api import schemas
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.params import PathFacet, PathUserId
from app.api.routing import make_router
from app.domain.persona import Facet, Persona
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
    """Set facets outright, as the user says, and pin them or let them go."""
    changed = await services.personas.correct(
        caller.tenant_id, user_id, body.facets, pins=body.pinned, version=body.version
    )
    return persona_out(changed)


@router.delete("/{user_id}/facets/{facet}", responses=responses(404))
async def delete_facet(
    user_id: PathUserId, facet: PathFacet, services: ServicesDep, caller: UserCaller
) -> schemas.PersonaOut:
    """Delete what is known of one facet, and why."""
    return persona_out(await services.personas.forget(caller.tenant_id, user_id, facet))


def persona_out(persona: Persona) -> schemas.PersonaOut:
    """A persona as the API shows it."""
    return schemas.PersonaOut(
        user_id=persona.user_id,
        facets={facet.name: facet_out(facet) for facet in persona.facets.values()},
        version=persona.version,
        vector=persona.vector.tolist() if persona.vector is not None else None,
        updated_at=persona.updated_at,
    )


def facet_out(facet: Facet) -> schemas.FacetOut:
    """A facet as the API shows it."""
    low, high = facet.interval
    return schemas.FacetOut(
        value=facet.value,
        uncertainty=facet.uncertainty,
        low=low,
        high=high,
        is_expressed=facet.is_expressed,
        evidence=facet.evidence,
        evidence_at=facet.evidence_at,
        updated_at=facet.updated_at,
        told_at=facet.told_at,
        is_pinned=facet.is_pinned,
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
