"""Queries of whoever gives a user with very many memories a graph of its own.

From the moment at which a user's `graph` is below 0 every writer keeps the graph and the words of what is written (see
the triggers in `migrations/versions/0008_search_that_scales.py`); what was there before is added in batches. When
nothing lacks any more the number turns positive, and searches take the graph.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.spaces import GRAPHS, StoredSpace
from app.store.space_tables import PARTITIONS

FIRST = UUID(int=0)
"""Before every memory."""

_LARGE = text("""
SELECT user_id FROM users WHERE tenant_id = :tenant_id AND memories > :limit AND graph <= 0 ORDER BY memories DESC
""")

_OF_USERS = text("""
SELECT user_id FROM users
WHERE tenant_id = :tenant_id AND user_id = ANY(CAST(:users AS text[])) AND memories > :limit AND graph = 0
""")

_GRAPH = text("SELECT graph FROM users WHERE tenant_id = :tenant_id AND user_id = :user_id FOR NO KEY UPDATE")

_TAKE = text(f"""
INSERT INTO user_graphs (tenant_id, user_id, part, number)
SELECT CAST(:tenant_id AS text), CAST(:user_id AS text), part, CAST(:number AS smallint)
FROM generate_series(0, {PARTITIONS - 1}) AS part
WHERE satisfies_hash_partition('memory_words'::regclass, {PARTITIONS}, part, CAST(:tenant_id AS text),
                               CAST(:user_id AS text))
ON CONFLICT DO NOTHING RETURNING number
""")

_BEGIN = text("""
UPDATE users SET graph = -CAST(:number AS smallint) WHERE tenant_id = :tenant_id AND user_id = :user_id
RETURNING CAST(pg_current_xact_id() AS text) AS mark
""")

_MARK = text("SELECT CAST(pg_current_xact_id() AS text)")

_IS_PAST = text("SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(CAST(:mark AS text) AS xid8)")

# Who changes a memory holds its row, and is not waited for: it is looked at again. What is held here says the same
# until the words are written.
_ADD_WORDS = text("""
WITH part AS (
    SELECT memory_id FROM memories
    WHERE tenant_id = :tenant_id AND user_id = :user_id AND memory_id > :after
    ORDER BY memory_id LIMIT :count
), held AS (
    SELECT m.memory_id, m.terms, m.place FROM memories m JOIN part ON part.memory_id = m.memory_id
    WHERE m.tenant_id = :tenant_id AND m.user_id = :user_id AND cardinality(m.terms) > 0 AND NOT EXISTS (
        SELECT FROM memory_words w
        WHERE w.tenant_id = :tenant_id AND w.user_id = :user_id AND w.term = m.terms[1] AND w.memory_id = m.memory_id
    )
    FOR SHARE OF m SKIP LOCKED
), added AS (
    INSERT INTO memory_words (tenant_id, user_id, term, memory_id, place, words)
    SELECT CAST(:tenant_id AS text), CAST(:user_id AS text), word, held.memory_id, held.place,
           least(cardinality(held.terms), 9999)
    FROM held, unnest(held.terms) AS word
    ON CONFLICT DO NOTHING RETURNING memory_id
)
SELECT (SELECT memory_id FROM part ORDER BY memory_id DESC LIMIT 1) AS last
FROM (SELECT count(*) FROM added) AS written
""")

_LACKING_WORDS = text("""
SELECT EXISTS (
    SELECT FROM memories m
    WHERE m.tenant_id = :tenant_id AND m.user_id = :user_id AND cardinality(m.terms) > 0 AND NOT EXISTS (
        SELECT FROM memory_words w
        WHERE w.tenant_id = :tenant_id AND w.user_id = :user_id AND w.term = m.terms[1] AND w.memory_id = m.memory_id
    )
)
""")

_FINISH = text("""
UPDATE users SET graph = CAST(:number AS smallint), writes = writes + 1
WHERE tenant_id = :tenant_id AND user_id = :user_id AND graph = -CAST(:number AS smallint)
""")


def _move(space: StoredSpace) -> str:
    table = space.memory_table
    of_user = "tenant_id = :tenant_id AND user_id = :user_id"
    return f"""
WITH part AS (
    SELECT memory_id, graph FROM {table} WHERE {of_user} AND memory_id > :after ORDER BY memory_id LIMIT :count
), held AS (
    SELECT memory_id FROM {table}
    WHERE {of_user} AND graph <> :number AND memory_id = ANY(ARRAY(SELECT memory_id FROM part WHERE graph <> :number))
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE {table} SET graph = :number
    WHERE {of_user} AND memory_id = ANY(ARRAY(SELECT memory_id FROM held)) RETURNING memory_id
)
SELECT (SELECT memory_id FROM part ORDER BY memory_id DESC LIMIT 1) AS last
"""


class GraphStore:
    """What is asked and written about the graphs of large users."""

    async def large(self, connection: AsyncConnection, tenant_id: str, limit: int) -> list[str]:
        """Users with more than `limit` memories who have no graph yet."""
        return list((await connection.execute(_LARGE, {"tenant_id": tenant_id, "limit": limit})).scalars())

    async def large_among(
        self, connection: AsyncConnection, tenant_id: str, users: Sequence[str], limit: int
    ) -> list[str]:
        """Those of some users."""
        arguments = {"tenant_id": tenant_id, "users": list(users), "limit": limit}
        return list((await connection.execute(_OF_USERS, arguments)).scalars())

    async def graph(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> int | None:
        """The user's graph (0: none, below 0: being made), which nobody else changes until the transaction ends; None
        for no such user."""
        own = {"tenant_id": tenant_id, "user_id": user_id}
        return (await connection.execute(_GRAPH, own)).scalar_one_or_none()

    async def take(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> int | None:
        """The lowest number that nobody has in the user's partition; None where all are taken. Numbers are unique among
        all tenants: the constraint sees them, this connection does not."""
        own = {"tenant_id": tenant_id, "user_id": user_id}
        for number in range(1, GRAPHS + 1):
            if (await connection.execute(_TAKE, {**own, "number": number})).first() is not None:
                return number
        return None

    async def begin(self, connection: AsyncConnection, tenant_id: str, user_id: str, number: int) -> str:
        """Have writers keep the graph from now on; the mark of this transaction."""
        arguments = {"tenant_id": tenant_id, "user_id": user_id, "number": number}
        return (await connection.execute(_BEGIN, arguments)).scalar_one()

    async def mark(self, connection: AsyncConnection) -> str:
        """A mark of this transaction."""
        return (await connection.execute(_MARK)).scalar_one()

    async def is_past(self, connection: AsyncConnection, mark: str) -> bool:
        """Whether every transaction that wrote when the marked one did has ended: what it wrote is to be seen."""
        return (await connection.execute(_IS_PAST, {"mark": mark})).scalar_one()

    async def move_vectors(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        user_id: str,
        space: StoredSpace,
        *,
        number: int,
        after: UUID,
        count: int,
    ) -> UUID | None:
        """Move those of the next `count` vectors into the graph that are not in it; the last one looked at, None at
        the end. One that somebody else holds is left out."""
        arguments = {"tenant_id": tenant_id, "user_id": user_id, "number": number, "after": after, "count": count}
        return (await connection.execute(text(_move(space)), arguments)).scalar_one()

    async def add_words(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, *, after: UUID, count: int
    ) -> UUID | None:
        """Write the words of those of the next `count` memories that lack them; as `move_vectors`."""
        arguments = {"tenant_id": tenant_id, "user_id": user_id, "after": after, "count": count}
        return (await connection.execute(_ADD_WORDS, arguments)).scalar_one()

    async def is_lacking(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, spaces: Sequence[StoredSpace], number: int
    ) -> bool:
        """Whether a vector is not in the graph yet, or the words of a memory are missing."""
        own = {"tenant_id": tenant_id, "user_id": user_id}
        for space in spaces:
            query = text(
                f"SELECT EXISTS (SELECT FROM {space.memory_table} "
                "WHERE tenant_id = :tenant_id AND user_id = :user_id AND graph <> :number)"
            )
            if (await connection.execute(query, {**own, "number": number})).scalar_one():
                return True
        return (await connection.execute(_LACKING_WORDS, own)).scalar_one()

    async def finish(self, connection: AsyncConnection, tenant_id: str, user_id: str, number: int) -> bool:
        """Have searches take the graph; False where the user is another one by now."""
        arguments = {"tenant_id": tenant_id, "user_id": user_id, "number": number}
        return (await connection.execute(_FINISH, arguments)).rowcount == 1
