"""Keys that are bound to one user: what they open, settled here for every route."""

import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import QueryParams

from app.api.deps import USER_HEADER, Caller, services_of, user_in_header
from app.api.paths import user_in_segment
from app.domain.errors import Forbidden

Concern = Literal["user", "memory", "nobody", "tenant"]
"""What a route is about: a user that its path, query or body names; a memory; nobody, or a user that it settles itself;
all users of the tenant."""

E = TypeVar("E", bound=Callable[..., Any])


def open_to_bound_keys(endpoint: E) -> E:
    """Mark an endpoint that names no user and that a key bound to one may call all the same: it is about nobody, or
    takes the user from the caller itself."""
    endpoint.is_open_to_bound_keys = True  # pyright: ignore[reportFunctionMemberAccess]
    return endpoint


def concern_of(route: APIRoute) -> Concern:
    """What a route is about. One that nobody thought of here is about the whole tenant."""
    path = set(re.findall(r"{(\w+)", route.path))
    query = {field.alias for field in route.dependant.query_params}
    for below in route.dependant.dependencies:
        query |= {field.alias for field in below.query_params}
    if "user_id" in path | query or names_user_in_body(route):
        return "user"
    if "memory_id" in path:
        return "memory"
    return "nobody" if getattr(route.endpoint, "is_open_to_bound_keys", False) else "tenant"


def names_user_in_body(route: APIRoute) -> bool:
    """Whether every body that a route takes has the field `user_id`."""
    if route.body_field is None:
        return False
    models = _models(route.body_field.field_info.annotation)
    return bool(models) and all("user_id" in model.model_fields for model in models)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in _models(part)]


async def bind(request: Request, caller: Caller, concern: Concern, *, has_query: bool, has_body: bool) -> None:
    """Hold a request to the one user of its caller's key: who names another one is refused, and where the query or the
    body may name a user and does not, it is this one. Raises Forbidden, and NotFound for another user's memory."""
    own = caller.user_id
    if own is None:
        return
    if concern == "tenant" and "admin" not in caller.scopes:
        raise Forbidden("this key is bound to one user, and this is about the whole tenant: it needs the scope `admin`")
    check_named(own, f"the header {USER_HEADER}", user_in_header(request))
    check_named(own, "the path", _unescaped(request.path_params.get("user_id")))
    if has_query:
        _name_in_query(request, own)
    if has_body and await request.body():
        body: Any = await request.json()
        if isinstance(body, dict):
            document = cast(dict[str, Any], body)
            check_named(own, "the body", document.get("user_id"))
            document.setdefault("user_id", own)
    memory_id = request.path_params.get("memory_id")
    if isinstance(memory_id, UUID):
        services = await services_of(request)
        await services.memories.get(caller.tenant_id, memory_id, own)


def check_named(own: str, where: str, named: object) -> None:
    """Raise Forbidden where another user than the key's `own` is named."""
    if isinstance(named, str) and named != own:
        raise Forbidden(f"this key is bound to another user than {where} names: leave the user out, or use another key")


def _unescaped(named: object) -> str | None:
    return user_in_segment(str(named)) if named is not None else None


def _name_in_query(request: Request, own: str) -> None:
    given: bytes = request.scope["query_string"]
    named = QueryParams(given).get("user_id")
    check_named(own, "the query", named)
    if named is None:
        request.scope["query_string"] = b"&".join(
            part for part in (given, urlencode({"user_id": own}).encode()) if part
        )
