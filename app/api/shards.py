"""Which shard answers a request: the one that has its user, and no other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import UUID

from fastapi import FastAPI, Request

from app.api import chat
from app.api.deps import Caller, Services, get_services
from app.api.paths import user_in_segment
from app.domain.errors import NotFound
from app.domain.shards import shard_of
from app.services.shards import ShardTenants
from app.store.engine import Database


@dataclass(frozen=True)
class Shards:
    """The use cases on each database, in the order of their places; what is about no user is the first one's."""

    stacks: Sequence[Services]
    tenants: ShardTenants

    @property
    def home(self) -> Services:
        """The first one's, which also do what is about several."""
        return self.stacks[0]

    @property
    def database(self) -> Database:
        """The home's, which knows keys and tenants."""
        return self.home.database

    def install(self, app: FastAPI) -> None:
        """Have every route work with the services of its request's shard, where there are several. Keys are looked up
        at home."""
        if len(self.stacks) > 1:
            app.dependency_overrides[get_services] = self.of_request
            app.state.services_of_user = self.of_user

    async def of_request(self, request: Request) -> Services:
        """The services that have what a request is about. Raises StoreUnavailable."""
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:
            return self.stacks[0]
        if caller.user_id is not None and _OWNERS.keys() & set(request.path_params):
            return await self.of_user(caller.tenant_id, caller.user_id)
        for name, owner_of in _OWNERS.items():
            item_id = request.path_params.get(name)
            if isinstance(item_id, UUID):
                return await self._having(caller.tenant_id, partial(owner_of, caller.tenant_id, item_id))
        user_id = await _user_of(request, caller)
        return self.stacks[0] if user_id is None else await self.of_user(caller.tenant_id, user_id)

    async def of_user(self, tenant_id: str, user_id: str) -> Services:
        """The services that have a user. Raises StoreUnavailable."""
        index = shard_of(tenant_id, user_id, len(self.stacks))
        await self.tenants.bring(tenant_id, index)
        return self.stacks[index]

    async def _having(self, tenant_id: str, find_owner: Callable[[Services], Awaitable[str]]) -> Services:
        """The services that have something by its id: nothing in it says whose it is, so all are asked; the first one
        where nobody has it. Raises what a shard that did not answer raised."""
        answers = await asyncio.gather(*(find_owner(each) for each in self.stacks), return_exceptions=True)
        for index, answer in enumerate(answers):
            # Until a split shard is tidied, its old half has copies.
            if not isinstance(answer, BaseException) and index == shard_of(tenant_id, answer, len(self.stacks)):
                return self.stacks[index]
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, NotFound):
                raise answer
        return self.stacks[0]


async def _owner_of_memory(tenant_id: str, memory_id: UUID, services: Services) -> str:
    return (await services.memories.get(tenant_id, memory_id)).user_id


async def _owner_of_job(tenant_id: str, job_id: UUID, services: Services) -> str:
    return (await services.ingest.status(tenant_id, job_id))[0].user_id


async def _owner_of_recall(tenant_id: str, recall_id: UUID, services: Services) -> str:
    return (await services.recalls.get(tenant_id, recall_id)).user_id


async def _owner_of_statement(tenant_id: str, item_id: UUID, services: Services) -> str:
    return (await services.gate.get(tenant_id, item_id)).user_id


_OWNERS: Mapping[str, Callable[[str, UUID, Services], Awaitable[str]]] = {
    "memory_id": _owner_of_memory,
    "job_id": _owner_of_job,
    "recall_id": _owner_of_recall,
    "item_id": _owner_of_statement,
}
"""Whose something is, by the name that its id has in a path."""


async def _user_of(request: Request, caller: Caller) -> str | None:
    """The user that a request names in its path, its query or its body; one that cannot be read is refused later."""
    if request.scope["path"] == chat.PATH:
        return (await chat.asked(request, caller)).user_id
    if (named := request.path_params.get("user_id")) is not None:
        return user_in_segment(str(named))
    if (named := request.query_params.get("user_id")) is not None:
        return named
    if getattr(request.scope.get("route"), "body_field", None) is None:
        return None
    body: Any = await request.json()
    user_id = cast(dict[str, Any], body).get("user_id") if isinstance(body, dict) else None
    return user_id if isinstance(user_id, str) else None
