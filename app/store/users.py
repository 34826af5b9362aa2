"""Queries about users and their personas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import Vector
from app.domain.errors import UserErased
from app.domain.persona import Facet, FacetChange, Persona
from app.store.engine import Statements
from app.store.facets import facets_document, facets_of
from app.store.tables import USER_TABLES, AnyRow, facet_changes, tenants, users
from app.store.vectors import vector_from_bytes, vector_literal

_ERASE_JOBS = text(
    "DELETE FROM procrastinate_jobs WHERE args ->> 'tenant_id' = :tenant_id AND args ->> 'user_id' = :user_id"
)

_RETIRE_KEYS = text("""
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), user_id = NULL, name = ''
WHERE tenant_id = :tenant_id AND user_id = :user_id
""")
"""A key that opened this user alone opens nothing more and says nothing of them. It stays as a row: without any key the
service would be open to its machine."""

_FIRST_SAID = """
INSERT INTO users (
    tenant_id, user_id, created_at, updated_at, vector, vector_space, vector_weight, vector_at
) VALUES ($1::text, $2::text, $3::timestamptz, $3, $4::text::vector, $5::text, $6::float8, $7::timestamptz)
ON CONFLICT DO NOTHING
RETURNING true
"""

_REMEMBER_SAID = """
UPDATE users SET vector = $3::text::vector, vector_space = $4::text, vector_weight = $5::float8,
                 vector_at = $6::timestamptz
WHERE tenant_id = $1::text AND user_id = $2::text
  AND created_at = $7::timestamptz AND vector_at IS NOT DISTINCT FROM $8::timestamptz
RETURNING true
"""

_CENTROID = """
SELECT created_at, vector_send(vector) AS vector, vector_space, vector_weight, vector_at FROM users
WHERE tenant_id = $1::text AND user_id = $2::text
"""


_FACETS = "SELECT facets, created_at FROM users WHERE tenant_id = $1::text AND user_id = $2::text"


@dataclass(frozen=True)
class Centroid:
    """The recency-weighted mean of what a user said, its space and weight, when it last moved, and since
    when the user is known (None before the first contact)."""

    vector: Vector | None
    space: str | None
    weight: float
    moved_at: datetime | None
    known_since: datetime | None


@dataclass(frozen=True)
class Locked:
    """A user whose memories nobody else writes meanwhile: how many there are, and the graph they are searched in (0:
    none)."""

    memories: int
    graph: int


def centroid_of(row: Any) -> Centroid:
    """A driver's row with the user's columns as a value; of an unknown user, an empty one."""
    vector = vector_from_bytes(row["vector"]) if row["vector"] is not None else None
    return Centroid(vector, row["vector_space"], row["vector_weight"] or 0.0, row["vector_at"], row["created_at"])


class UserStore:
    """What is asked and written about users."""

    async def ensure(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        now: datetime,
        *,
        known_since: datetime | None = None,
    ) -> None:
        """Create the user unless they exist, and hold them. Raises UserErased when the one who was
        `known_since` a moment is no more."""
        if known_since is not None:
            if not await self.hold(connection, tenant_id, user_id, known_since=known_since):
                raise UserErased("the user was erased meanwhile")
            return
        while not await self.hold(connection, tenant_id, user_id):
            await self._create(connection, tenant_id, user_id, now)

    async def ensure_locked(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        now: datetime,
        *,
        known_since: datetime | None = None,
    ) -> Locked:
        """As `ensure`, for whoever writes the user's memories: see `lock`."""
        while (locked := await self.lock(connection, tenant_id, user_id, known_since=known_since)) is None:
            if known_since is not None:
                raise UserErased("the user was erased meanwhile")
            await self._create(connection, tenant_id, user_id, now)
        return locked

    async def lock(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, known_since: datetime | None = None
    ) -> Locked | None:
        """Let nobody else write this user's memories, or erase the user, until the transaction ends; None where the
        tenant knows no such user.

        Every write of a memory raises the user's counts, and so locks this row; before it comes no lock on any other
        row of the user, or two writers wait for each other.
        """
        query = select(users.c.memories, users.c.graph).where(
            users.c.tenant_id == tenant_id, users.c.user_id == user_id
        )
        if known_since is not None:
            query = query.where(users.c.created_at == known_since)
        row = (await connection.execute(query.with_for_update(key_share=True))).one_or_none()
        return None if row is None else Locked(row.memories, max(0, row.graph))

    async def _create(self, connection: AsyncConnection, tenant_id: str, user_id: str, now: datetime) -> None:
        query = upsert(users).values(tenant_id=tenant_id, user_id=user_id, created_at=now, updated_at=now)
        await connection.execute(query.on_conflict_do_nothing())

    async def hold(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, known_since: datetime | None = None
    ) -> bool:
        """Whether the tenant knows this user, who then cannot be erased until the transaction ends.

        Comes before the locks on any other row of the user, as in `erase`, or the two wait for each other.
        """
        query = select(users.c.user_id).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        if known_since is not None:
            query = query.where(users.c.created_at == known_since)
        return (await connection.execute(query.with_for_update(read=True, key_share=True))).first() is not None

    async def consents(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> bool:
        """Whether what this user does may be kept as training samples: neither they nor their tenant opted out."""
        is_open = func.coalesce(tenants.c.settings["collect_training_data"].as_boolean(), True)
        query = (
            select(and_(users.c.has_consent, is_open))
            .join(tenants, tenants.c.tenant_id == users.c.tenant_id)
            .where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        )
        return (await connection.execute(query)).scalar_one_or_none() or False

    async def set_consent(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, has_consent: bool
    ) -> None:
        """Write whether a user consents. The user has to be held."""
        await connection.execute(
            update(users)
            .where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
            .values(has_consent=has_consent)
        )

    async def exists(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> bool:
        """Whether the tenant knows this user."""
        query = select(users.c.user_id).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        return (await connection.execute(query)).first() is not None

    async def persona(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, lock: bool = False
    ) -> Persona | None:
        """The user's persona, or None for an unknown user; `lock` holds the row until the transaction ends."""
        query = select(
            users.c.facets,
            users.c.version,
            users.c.updated_at,
            users.c.created_at,
            func.vector_send(users.c.vector).label("vector"),
        ).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        row = (await connection.execute(query.with_for_update(key_share=True) if lock else query)).one_or_none()
        if row is None:
            return None
        vector = vector_from_bytes(row.vector) if row.vector is not None else None
        return Persona(user_id, facets_of(row.facets), row.version, vector, row.updated_at, row.created_at)

    async def facets(
        self, statements: Statements, tenant_id: str, user_id: str
    ) -> tuple[Mapping[str, Facet], datetime | None]:
        """The user's facets, and since when the user is known; the default ones and None for an unknown user."""
        rows = await statements.fetch(_FACETS, tenant_id, user_id)
        return (facets_of(rows[0]["facets"]), rows[0]["created_at"]) if rows else (facets_of({}), None)

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

    async def remember_said(
        self, statements: Statements, tenant_id: str, user_id: str, *, seen: Centroid, said: Centroid, now: datetime
    ) -> bool:
        """Move the user's centroid from `seen` to `said`, creating the user at first contact; False, and
        nothing changed, when another input has moved it since it was seen. Holds the user."""
        after = (None if said.vector is None else vector_literal(said.vector), said.space, said.weight, said.moved_at)
        if seen.known_since is None:
            rows = await statements.fetch(_FIRST_SAID, tenant_id, user_id, now, *after)
        else:
            rows = await statements.fetch(_REMEMBER_SAID, tenant_id, user_id, *after, seen.known_since, seen.moved_at)
        return bool(rows)

    async def centroid(self, statements: Statements, tenant_id: str, user_id: str, seen: Centroid) -> Centroid:
        """Where the user's centroid is now. Raises UserErased when the user of `seen` is no more."""
        rows = await statements.fetch(_CENTROID, tenant_id, user_id)
        if not rows or seen.known_since not in {None, rows[0]["created_at"]}:
            raise UserErased("the user was erased meanwhile")
        return centroid_of(rows[0])

    async def hold_alone(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> bool:
        """Whether the tenant knows this user, whom nobody else holds from then on until the transaction ends."""
        query = select(users.c.user_id).where(users.c.tenant_id == tenant_id, users.c.user_id == user_id)
        return (await connection.execute(query.with_for_update())).first() is not None

    async def erase(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> dict[str, int]:
        """Delete every row of a user who is held alone, and the jobs about them, and revoke the keys that are bound to
        them; the rows deleted, by table.

        A job about them that is running finds itself gone, and keeps nothing of what it did.
        """
        whose = {"tenant_id": tenant_id, "user_id": user_id}
        await connection.execute(_ERASE_JOBS, whose)
        await connection.execute(_RETIRE_KEYS, whose)
        erased: dict[str, int] = {}
        for table in USER_TABLES:
            query = delete(table).where(table.c.tenant_id == tenant_id, table.c.user_id == user_id)
            erased[table.name] = (await connection.execute(query)).rowcount
        return erased
