"""Queries about users and their personas."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector
from app.domain.persona import DEFAULT_FACETS, Facet, FacetChange, Persona
from app.store.memories import vector_from_bytes
from app.store.tables import USER_TABLES, AnyRow, facet_changes, users

_LOCK_USER = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant_id || chr(31) || :user_id, 0))")


def facets_document(facets: Mapping[str, Facet]) -> dict[str, Any]:
    """Facets as they are stored."""
    return {name: {"value": facet.value, "strength": facet.strength} for name, facet in facets.items()}


def facets_of(document: Mapping[str, Any]) -> dict[str, Facet]:
    """Stored facets, with the default ones where nothing is stored yet."""
    facets = {name: Facet(name) for name in DEFAULT_FACETS}
    return facets | {name: Facet(name, body["value"], body["strength"]) for name, body in document.items()}


class UserStore:
    """What is asked and written about users."""

    async def ensure(self, connection: AsyncConnection, tenant_id: str, user_id: str, now: datetime) -> bool:
        """Create the user unless they exist; whether they are new."""
        query = upsert(users).values(tenant_id=tenant_id, user_id=user_id, created_at=now, updated_at=now)
        return (await connection.execute(query.on_conflict_do_nothing())).rowcount == 1

    async def exists(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> bool:
        """Whether the tenant knows this user."""
        query = select(users.c.user_id).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        return (await connection.execute(query)).first() is not None

    async def lock(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> None:
        """Let no other writer decide about this user's memories until the transaction ends."""
        await connection.execute(_LOCK_USER, {"tenant_id": tenant_id, "user_id": user_id})

    async def persona(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, lock: bool = False
    ) -> Persona | None:
        """The user's persona, or None for an unknown user; `lock` holds the row until the transaction ends."""
        query = select(
            users.c.facets, users.c.version, users.c.updated_at, func.vector_send(users.c.vector).label("vector")
        ).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            return None
        vector = vector_from_bytes(row.vector) if row.vector is not None else None
        return Persona(user_id, facets_of(row.facets), row.version, vector, row.updated_at)

    async def save_persona(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        persona: Persona,
        changes: Sequence[FacetChange],
        *,
        signal_id: UUID | None,
        now: datetime,
    ) -> None:
        """Write facets and version, and one history row per change."""
        await connection.execute(
            update(users)
            .where(users.c.tenant_id == tenant_id, users.c.user_id == persona.user_id)
            .values(facets=facets_document(persona.facets), version=persona.version, updated_at=now)
        )
        rows = [
            {
                "tenant_id": tenant_id,
                "change_id": uuid4(),
                "user_id": persona.user_id,
                "facet": change.facet,
                "before": change.before,
                "after": change.after,
                "uncertainty": change.uncertainty,
                "reason": change.reason,
                "signal_id": signal_id,
                "version": persona.version,
                "changed_at": now,
            }
            for change in changes
        ]
        if rows:
            await connection.execute(insert(facet_changes), rows)

    async def facet_history(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> Sequence[AnyRow]:
        """Every change of every facet, oldest first."""
        query = (
            select(facet_changes)
            .where(facet_changes.c.tenant_id == tenant_id, facet_changes.c.user_id == user_id)
            .order_by(facet_changes.c.version, facet_changes.c.facet)
        )
        return (await connection.execute(query)).all()

    async def centroid(
        self, connection: AsyncConnection, tenant_id: str, user_id: str
    ) -> tuple[Vector | None, str | None, float, datetime | None]:
        """(vector, its space, weight, moved at) of what the user said; holds the row until the end."""
        query = (
            select(
                func.vector_send(users.c.vector).label("vector"),
                users.c.vector_space,
                users.c.vector_weight,
                users.c.vector_at,
            )
            .where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
            .with_for_update()
        )
        row = (await connection.execute(query)).one()
        vector = vector_from_bytes(row.vector) if row.vector is not None else None
        return vector, row.vector_space, row.vector_weight, row.vector_at

    async def save_centroid(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector,
        space: str,
        weight: float,
        now: datetime,
    ) -> None:
        """Write the persona vector."""
        await connection.execute(
            update(users)
            .where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
            .values(vector=vector, vector_space=space, vector_weight=weight, vector_at=now)
        )

    async def erase(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> dict[str, int]:
        """Delete every row of the user; the rows deleted, by table."""
        erased: dict[str, int] = {}
        for table in USER_TABLES:
            query = delete(table).where(table.c.tenant_id == tenant_id, table.c.user_id == user_id)
            erased[table.name] = (await connection.execute(query)).rowcount
        return erased
