"""Making the tables of an embedding space while others write: what takes long waits for nobody and nobody for it."""

from app.domain.embeddings import EmbeddingSpace
from app.domain.spaces import StoredSpace, storage_of
from app.store.brief import briefly
from app.store.engine import Database
from app.store.spaces import SpaceStore


async def make_space(database: Database, store: SpaceStore, space: EmbeddingSpace, endpoint: str | None) -> StoredSpace:
    """The space with its tables, made where there are none. First the tables with their indexes, which nobody knows of
    yet; then, each for itself, the foreign keys, for which whoever writes memories or users waits a moment. Broken
    off, the next call goes on. Raises NotReady."""
    async with database.begin("default") as connection:
        made = await store.register(connection, space, storage=storage_of(space), endpoint=endpoint)
    while await briefly(database, "default", lambda connection: store.tie(connection, made)):
        pass
    return made
