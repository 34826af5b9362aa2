"""The state before the change: memories with vectors in the old space, written in bulk."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from rich.progress import Progress
from sqlalchemy import text

from app.clients.embeddings.http import HttpEmbedder
from app.domain.embeddings import Vectors
from app.domain.spaces import StoredSpace
from app.services.keys import DEFAULT_TENANT
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.spaces import SpaceStore
from app.store.users import UserStore
from app.store.vectors import vector_literal
from app.wiring import build_keys, build_spaces
from benchmarks.space_switch.texts import uses

PER_USER = 100
CHUNK = 2000
CHANGES = 500
CHANGE = 0.25
"""Length of the random change of a vector of length 1 for each further use of its sentence: cosine 0.97 to it."""

_MEMORIES = text("""
INSERT INTO memories (tenant_id, memory_id, user_id, type, content, confidence, tags, source, slots, created_at,
                      updated_at, valid_from)
SELECT :tenant_id, memory_id, user_id, 'HISTORY', content, 1, '{}', 'benchmark', '{}', now(), now(), now()
FROM fresh
""")


def users(memories: int) -> list[str]:
    """Who remembers them, PER_USER each."""
    return [f"user-{number:05d}" for number in range(max(1, memories // PER_USER))]


async def load(settings: Settings, texts: Sequence[str], memories: int, progress: Progress) -> StoredSpace:
    """Write the memories. The vector of a sentence's first use is the model's, of its further ones that one with a
    small change. The space they are in."""
    database = await open_database(settings)
    assert settings.embed_endpoint is not None
    embedder = HttpEmbedder(settings.embed_endpoint)
    try:
        await build_keys(database).ensure_default_tenant()
        spaces = build_spaces(settings, database, embedder)
        space = await spaces.own()
        vectors = np.concatenate([await embedder.embed(texts[at : at + 64]) for at in range(0, len(texts), 64)])
        async with database.begin(DEFAULT_TENANT) as connection:
            await SpaceStore().begin_to_serve(connection, DEFAULT_TENANT, space)
            for user_id in users(memories):
                await UserStore().ensure(connection, DEFAULT_TENANT, user_id, datetime.now(UTC))
        await _write(database, space, texts, vectors, memories, progress)
        async with database.engine.connect() as connection:
            await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("ANALYZE"))
    finally:
        await embedder.aclose()
        await database.aclose()
    return space


async def _write(
    database: Database, space: StoredSpace, texts: Sequence[str], vectors: Vectors, memories: int, progress: Progress
) -> None:
    """Chunk by chunk; the vectors' arithmetic is done where they are kept."""
    dice = np.random.default_rng(3)
    changes = dice.standard_normal((CHANGES, space.space.dimension))
    changes *= CHANGE / np.linalg.norm(changes, axis=1, keepdims=True)
    endings, owners = uses(), users(memories)
    bar = progress.add_task(f"loading {memories:,} memories", total=memories)
    async with database.engine.connect() as connection:
        for name, rows in (("sentence", vectors), ("change", changes)):
            await connection.execute(text(f"CREATE TEMP TABLE {name} (number int PRIMARY KEY, vector vector)"))
            await connection.execute(
                text(
                    f"INSERT INTO {name} SELECT n - 1, v::vector FROM unnest(CAST(:rows AS text[])) WITH ORDINALITY "  # noqa: S608
                    "AS given(v, n)"
                ),
                {"rows": [vector_literal(row) for row in rows]},
            )
        await connection.execute(
            text("CREATE TEMP TABLE fresh (number int, memory_id uuid, user_id text, content text)")
        )
        await connection.commit()
        for start in range(0, memories, CHUNK):
            numbers = range(start, min(start + CHUNK, memories))
            await connection.execute(
                text("SELECT set_config('app.tenant_id', :tenant_id, true)"), {"tenant_id": DEFAULT_TENANT}
            )
            await connection.execute(
                text(
                    "INSERT INTO fresh SELECT n, gen_random_uuid(), u, c FROM "
                    "unnest(CAST(:numbers AS int[]), CAST(:users AS text[]), CAST(:contents AS text[])) AS g(n, u, c)"
                ),
                {
                    "numbers": list(numbers),
                    "users": [owners[number // PER_USER % len(owners)] for number in numbers],
                    "contents": [texts[number % len(texts)] + endings[number // len(texts)] for number in numbers],
                },
            )
            await connection.execute(_MEMORIES, {"tenant_id": DEFAULT_TENANT})
            await connection.execute(
                text(f"""
                INSERT INTO {space.memory_table} (tenant_id, user_id, memory_id, embedding)
                SELECT :tenant_id, user_id, memory_id,
                       CASE WHEN fresh.number < {len(texts)} THEN sentence.vector
                            ELSE l2_normalize(sentence.vector + change.vector) END::{space.column_type}
                FROM fresh JOIN sentence ON sentence.number = fresh.number % {len(texts)}
                JOIN change ON change.number = fresh.number * 7919 % {CHANGES}
                """),  # noqa: S608
                {"tenant_id": DEFAULT_TENANT},
            )
            await connection.execute(text("TRUNCATE fresh"))
            await connection.commit()
            progress.advance(bar, len(numbers))
