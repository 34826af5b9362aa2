"""Which embedding space serves a tenant, and what embeds in each: every vector of the service is made here."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.embeddings import AS_TOLD, EmbeddingSpace, Labels, Vector, address_of
from app.domain.errors import ModelUnavailable, Overloaded, StaleSpace
from app.domain.spaces import PROBE, WRITTEN, Embedded, StoredSpace, TenantSpaces
from app.ports import Clock, Embedder
from app.request import remaining_s
from app.services.fingerprints import Fingerprints
from app.services.space_making import make_space
from app.store.engine import Database
from app.store.spaces import SpaceStore

log = structlog.get_logger(__name__)

KNOWN = timedelta(seconds=5)
"""How long what a tenant's spaces are for is taken as known. Nothing depends on it: the database refuses what is not
true any more, and then it is read again."""

SECOND_S = 1.0
"""How long a write waits for the vector in a space that does not serve; it is made later otherwise."""

REST = timedelta(seconds=5)
"""How long an embedder that failed is left alone by writes that can do without it."""

TRIES = 4

MAX_CACHED = 1024

P = ParamSpec("P")
T = TypeVar("T")


class Spaces:
    """The embedding spaces as a request needs them."""

    def __init__(
        self,
        database: Database,
        store: SpaceStore,
        own: Embedder,
        open_embedder: Callable[[str], Embedder],
        clock: Clock,
        *,
        built_in: Embedder,
        endpoint: str | None = None,
        labels: Labels = AS_TOLD,
    ) -> None:
        """`own`: what tenants begin with, answering at `endpoint` (None: in this process), of which a person says
        `labels`; `built_in`: what embeds in spaces without an endpoint, closed with this; `open_embedder` makes the
        Embedder of another endpoint, and connects to nothing yet."""
        self._database = database
        self._store = store
        self._own = own
        self._built_in = built_in
        self._endpoint = endpoint
        self._labels = labels
        self._open_embedder = open_embedder
        self._clock = clock
        self._fingerprints = Fingerprints(database, store, clock)
        self._own_stored: StoredSpace | None = None
        self._registering = asyncio.Lock()
        self._known: dict[str, tuple[datetime, TenantSpaces]] = {}
        self._stored: dict[str, StoredSpace] = {}
        self._embedders: dict[str, Embedder] = {}
        self._resting: dict[int, datetime] = {}

    @property
    def own_space(self) -> EmbeddingSpace:
        """The space that tenants begin with. Raises ModelUnavailable before what embeds in it has answered once."""
        return self._labels.of(self._own.space)

    async def of(self, tenant_id: str) -> TenantSpaces:
        """The tenant's spaces; before its first write, the service's own one serves."""
        now = self._clock.now()
        held = self._known.get(tenant_id)
        if held is None or not timedelta(0) <= now - held[0] < KNOWN:
            async with self._database.begin(tenant_id) as connection:
                found = await self._store.of_tenant(connection, tenant_id)
            held = (now, found or TenantSpaces(await self.own()))
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            self._known[tenant_id] = held
        return held[1]

    async def own(self) -> StoredSpace:
        """The space that tenants begin with, with its tables."""
        async with self._registering:
            try:
                current = self.own_space
            except ModelUnavailable:  # it answers for the first time
                await self._own.embed([PROBE])
                current = self.own_space
            if self._own_stored is None or self._own_stored.space != current:
                self._own_stored = await make_space(self._database, self._store, current, self._endpoint)
            return self._own_stored

    async def stored(self, space_id: str) -> StoredSpace:
        """A space with tables, by its name. Raises StaleSpace where it has none (any more)."""
        if space_id not in self._stored:
            async with self._database.begin("default") as connection:
                found = await self._store.registered(connection, space_id)
            if found is None:
                raise StaleSpace(f"the embedding space {space_id} was given up")
            self._stored[space_id] = found
        return self._stored[space_id]

    async def look_at(self, endpoint: str, labels: Labels = AS_TOLD) -> EmbeddingSpace:
        """The space of what answers at an endpoint, of which a person says `labels`. Raises ModelUnavailable, of it
        OtherSpace where that space is of another model."""
        told, vector = await self._probe(endpoint, labels)
        space = labels.of(told)
        async with self._database.begin("default") as connection:
            held = await self._store.registered(connection, space.id)
        if held is not None:
            await self._fingerprints.compare(held, told, vector, address_of(endpoint))
        return space

    async def register(self, endpoint: str, labels: Labels = AS_TOLD) -> StoredSpace:
        """The space of an endpoint, with its tables. Raises as `look_at`."""
        told, vector = await self._probe(endpoint, labels)
        made = await make_space(self._database, self._store, labels.of(told), endpoint)
        await self._fingerprints.compare(made, told, vector, address_of(endpoint))
        return made

    def forget(self, tenant_id: str) -> None:
        """Read anew what the tenant's spaces are for, and whether the one that tenants begin with is still there."""
        self._known.pop(tenant_id, None)
        self._own_stored = None

    async def embed(self, tenant_id: str, texts: Sequence[str]) -> Embedded:
        """Vectors in the space that serves the tenant. Raises ModelUnavailable and Overloaded."""
        spaces = await self.of(tenant_id)
        return await self.embed_in(spaces.serving, texts)

    async def embed_also(self, tenant_id: str, texts: Sequence[str]) -> list[Embedded]:
        """Vectors in the other spaces that are to have what is written, as far as they can be had soon."""
        spaces = await self.of(tenant_id)
        wanted = [space for space in spaces.of_role(*(WRITTEN - {"serving"})) if not self._is_resting(space)]
        made = await asyncio.gather(*(self._embed_soon(space, texts) for space in wanted))
        return [each for each in made if each is not None]

    async def embed_in(
        self, space: StoredSpace, texts: Sequence[str], connection: AsyncConnection | None = None
    ) -> Embedded:
        """Vectors in a space, its prefix before each text. `connection`: the transaction that the caller has open, if
        one has to be open meanwhile. Raises ModelUnavailable, of it OtherSpace where what embeds in it has another
        model by now, and Overloaded."""
        embedder, address = self._what_embeds_in(space)
        await self._fingerprints.recognise(space, embedder, address, connection)
        try:
            vectors = await embedder.embed([space.space.prefix + each for each in texts])
        except ModelUnavailable:
            self._fingerprints.doubt(space)
            raise
        self._fingerprints.check(space, embedder.space, address)
        return Embedded(space, vectors)

    async def hold(
        self, connection: AsyncConnection, tenant_id: str, serving: StoredSpace | None = None
    ) -> tuple[StoredSpace, ...]:
        """Every space in which the tenant has vectors, the serving one first; nobody changes what they are for until
        the transaction ends. `serving` begins to serve where none does yet; raises StaleSpace where another one
        does."""
        await self._store.hold_roles(connection, tenant_id)
        spaces = await self._store.of_tenant(connection, tenant_id)
        if spaces is None:
            if serving is None:
                return ()
            self.forget(tenant_id)
            await self._store.begin_to_serve(connection, tenant_id, serving)
            spaces = await self._store.of_tenant(connection, tenant_id)
        if spaces is None or (serving is not None and spaces.serving.number != serving.number):
            raise StaleSpace("another embedding space began to serve at this moment")
        return spaces.every

    async def aclose(self) -> None:
        """Close the connections to endpoints, and the built-in model where it is not the own embedder, which is its
        owner's to close."""
        for embedder in self._embedders.values():
            await embedder.aclose()
        self._embedders.clear()
        if self._built_in is not self._own:
            await self._built_in.aclose()

    def embedder_at(self, endpoint: str) -> Embedder:
        """What embeds at an endpoint, without any prefix."""
        if endpoint not in self._embedders:
            self._embedders[endpoint] = self._open_embedder(endpoint)
        return self._embedders[endpoint]

    async def _probe(self, endpoint: str, labels: Labels) -> tuple[EmbeddingSpace, Vector]:
        """What a model calls its own space, and the vector of the probe as it is embedded with these labels."""
        embedder = self.embedder_at(endpoint)
        (vector,) = await embedder.embed([labels.prefix + PROBE])
        return embedder.space, vector

    def _what_embeds_in(self, space: StoredSpace) -> tuple[Embedder, str | None]:
        """What embeds in a space, and its address as it may be shown: its endpoint, or where it has none, the built-in
        model, which has no address."""
        if space.endpoint == self._endpoint or self._is_own(space):
            return self._own, self._endpoint and address_of(self._endpoint)
        if space.endpoint is None:
            return self._built_in, None
        return self.embedder_at(space.endpoint), address_of(space.endpoint)

    async def _embed_soon(self, space: StoredSpace, texts: Sequence[str]) -> Embedded | None:
        try:
            async with asyncio.timeout(min(SECOND_S, remaining_s(SECOND_S))):
                return await self.embed_in(space, texts)
        except TimeoutError:
            cause, reason = "timeout", f"no answer within {SECOND_S:g} s"
        except (ModelUnavailable, Overloaded) as error:
            cause, reason = getattr(error, "cause", "busy"), str(error)
        self._resting[space.number] = self._clock.now() + REST
        log.warning("space_unavailable", space=space.id, cause=cause, reason=reason)
        return None

    def _is_own(self, space: StoredSpace) -> bool:
        try:
            return self.own_space.id == space.id
        except ModelUnavailable:  # it has not answered once
            return False

    def _is_resting(self, space: StoredSpace) -> bool:
        ends_at = self._resting.get(space.number)
        return ends_at is not None and self._clock.now() < ends_at


class HasSpaces(Protocol):
    """A service that embeds."""

    @property
    def spaces(self) -> Spaces:
        """Where it does."""
        ...


S = TypeVar("S", bound=HasSpaces)


def follows_switch(
    work: Callable[Concatenate[S, str, P], Awaitable[T]],
) -> Callable[Concatenate[S, str, P], Awaitable[T]]:
    """A use case of a tenant that is done anew, TRIES times at most, where another space began to serve in the middle
    of it: the database took nothing of what was tried."""

    @wraps(work)
    async def done(self: S, tenant_id: str, *arguments: P.args, **named: P.kwargs) -> Any:
        for is_last in (*[False] * (TRIES - 1), True):
            try:
                return await work(self, tenant_id, *arguments, **named)
            except StaleSpace as error:
                if is_last:
                    raise
                log.info("space_switched_meanwhile", reason=str(error))
                self.spaces.forget(tenant_id)
        raise AssertionError("the last try returns or raises")

    return done
