"""Whether what embeds in a space is still the model that its vectors were made with.

A server may load another model under the same name. Each space keeps the vector of one text (PROBE) from when it was
first used; a process that begins to use an endpoint for a space has that text embedded again and compares.
"""

from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import EmbeddingSpace, Vector
from app.domain.errors import ModelUnavailable, OtherSpace
from app.domain.spaces import PROBE, SAME_MODEL, Fingerprint, StoredSpace, is_told_by, likeness
from app.ports import Clock, Embedder
from app.store.engine import Database
from app.store.spaces import SpaceStore

log = structlog.get_logger(__name__)

TRUSTED = timedelta(minutes=1)
"""How long an endpoint that was recognised is taken to have the same model; a server that is restarted between two
requests is noticed by nothing else."""

REST = timedelta(seconds=5)
"""How long one that has another model is not asked again."""


class Fingerprints:
    """What each space is recognised by, and which of them were recognised in this process."""

    def __init__(self, database: Database, store: SpaceStore, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._held: dict[int, Fingerprint] = {}
        self._recognised: dict[int, datetime] = {}
        self._refused: dict[int, tuple[datetime, str]] = {}

    async def recognise(
        self, space: StoredSpace, embedder: Embedder, address: str | None, connection: AsyncConnection | None = None
    ) -> None:
        """Return where `embedder`, at an address (None: built in, which stays what it is), is what the space's vectors
        were made with; at the space's first use it is. `connection`: a transaction to look it up in, for who holds one
        and must not wait for a second.

        Raises OtherSpace, StaleSpace where the space was dropped, and what embedding raises.
        """
        now = self._clock.now()
        if _is_within(REST, self._refused.get(space.number, (None,))[0], now):
            raise OtherSpace(self._refused[space.number][1])
        seen = self._recognised.get(space.number)
        if seen is not None:
            if address is None or _is_within(TRUSTED, seen, now):
                return
            self._recognised[space.number] = now  # the others go on meanwhile
        try:
            (vector,) = await embedder.embed([space.space.prefix + PROBE])
        except ModelUnavailable:
            self.doubt(space)
            raise
        await self.compare(space, embedder.space, vector, address, connection)

    async def compare(
        self,
        space: StoredSpace,
        told: EmbeddingSpace,
        vector: Vector,
        address: str | None,
        connection: AsyncConnection | None = None,
    ) -> None:
        """As `recognise`, for who has the probe's vector already, by a model that calls its own space `told`."""
        self.check(space, told, address)
        found = Fingerprint(told.id, vector)
        held = self._held.get(space.number) or await self._kept(space, found, connection)
        like = likeness(held, found)
        if like is None or like < SAME_MODEL:
            self.doubt(space)
            reason = _reason(space, told, like, address)
            self._refused[space.number] = (self._clock.now(), reason)
            log.warning("space_refused", space=space.id, reason=reason)
            raise OtherSpace(reason)
        self._refused.pop(space.number, None)
        if space.number in self._held:
            self._recognised[space.number] = self._clock.now()

    def check(self, space: StoredSpace, told: EmbeddingSpace, address: str | None) -> None:
        """Raise OtherSpace where a model that calls its own space `told` cannot embed in this one: it has another name
        or dimension, or another revision than it told before."""
        held = self._held.get(space.number)
        if not is_told_by(space.space, told) or (held is not None and held.told != told.id):
            raise OtherSpace(_reason(space, told, None, address))

    def doubt(self, space: StoredSpace) -> None:
        """Look again before the next text: it did not answer, and what does by then may be another model."""
        self._recognised.pop(space.number, None)

    async def _kept(self, space: StoredSpace, found: Fingerprint, connection: AsyncConnection | None) -> Fingerprint:
        """What the space keeps; what was found, where it keeps nothing yet."""
        if connection is None:
            async with self._database.begin("default") as own:
                held, _ = await self._store.keep_fingerprint(own, space, found)
            self._held[space.number] = held
            return held
        held, is_new = await self._store.keep_fingerprint(connection, space, found)
        if not is_new:  # else the transaction may be undone yet
            self._held[space.number] = held
        return held


def _is_within(limit: timedelta, since: datetime | None, now: datetime) -> bool:
    return since is not None and timedelta(0) <= now - since < limit


def _reason(space: StoredSpace, told: EmbeddingSpace, like: float | None, address: str | None) -> str:
    """One line: which space, which endpoint, what to do."""
    place, mend = "The built-in model", "embed-service space create"
    if address is not None:
        place, mend = address, f"embed-service space create --endpoint {address} --revision NEW"
    what = f"gives vectors of {told.id} now"
    if like is not None:
        what = f"has another model now under the same name (the vector of a text has a cosine of {like:.2f} to before)"
    return f"{place} {what}, and those of {space.id} are of another: bring it back, or change to the new one: {mend}"
