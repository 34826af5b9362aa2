"""What a route is about for a key that is bound to one user, and whom a front door works for."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, Request
from fastapi.routing import APIRoute, iter_route_contexts

from app.api import memory_schemas, schemas
from app.api.bounds import concern_of, open_to_bound_keys
from app.api.deps import Caller, resolve_user
from app.api.params import MemoryId, QueryUserId
from app.api.routing import make_router
from app.domain.errors import Forbidden, InvalidInput
from app.main import create_app

router = make_router("made for this test")


def _query(user_id: str) -> str:
    return user_id


@router.get("/of/{user_id}")
async def of_user(user_id: str) -> None: ...


@router.get("/query")
async def of_query(user_id: QueryUserId) -> None: ...


@router.get("/own-query")
async def of_own_query(user_id: Annotated[str, Depends(_query)]) -> None: ...


@router.post("/body")
async def of_body(body: memory_schemas.SearchIn) -> None: ...


@router.post("/bodies")
async def of_bodies(body: memory_schemas.MemoriesIn) -> None: ...


@router.get("/memory/{memory_id:uuid}")
async def of_memory(memory_id: MemoryId) -> None: ...


@router.post("/text")
@open_to_bound_keys
async def of_nobody(body: schemas.EmbedIn) -> None: ...


@router.post("/half")
async def of_half(body: schemas.EmbedIn | schemas.EnrichIn) -> None: ...


@router.get("/things/{thing_id}")
async def of_tenant(thing_id: str) -> None: ...


CONCERNS = {
    "of_user": "user",
    "of_query": "user",
    "of_own_query": "user",
    "of_body": "user",
    "of_bodies": "user",
    "of_memory": "memory",
    "of_nobody": "nobody",
    "of_half": "tenant",
    "of_tenant": "tenant",
}


def test_a_route_is_about_the_tenant_unless_it_names_a_user() -> None:
    """In path, query, or every body it takes; one with an id that nobody checks is the tenant's."""
    found = {route.name: concern_of(route) for route in router.routes if isinstance(route, APIRoute)}
    assert found == CONCERNS


def test_few_routes_are_open_without_naming_a_user() -> None:
    """Those that read no user's data, the import, which looks at each line, a job, whose user is looked at, the front
    doors, which ask the caller."""
    marked = {
        context.path_format
        for context in iter_route_contexts(create_app().routes)
        if isinstance(context.original_route, APIRoute)
        and getattr(context.original_route.endpoint, "is_open_to_bound_keys", False)
    }
    assert marked == {"/v1/embeddings", "/api/v1/embeddings", "/embed", "/v1/rerank", "/v1/memory/import"} | {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/jobs/{job_id}",
        "/v1/memories/quarantine/{item_id}/release",
        "/v1/recalls/{recall_id}",
        "/v1/recalls/{recall_id}/replay",
        "/v1/recalls/{recall_id}/feedback",
        "/mcp",
    }


BOUND = Caller("a", frozenset({"user"}), "ada")
UNBOUND = Caller("a", frozenset({"user"}))


def request(headers: Mapping[str, str] | None = None, own_header: str | None = None) -> Request:
    """A request with these headers, to a service whose settings name `own_header` for users."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    settings = SimpleNamespace(user_id_header=own_header)
    app = SimpleNamespace(state=SimpleNamespace(services=SimpleNamespace(settings=settings)))
    return Request({"type": "http", "headers": raw, "app": app})


def test_the_settings_may_name_the_header_of_users() -> None:
    """Beside X-User-ID, which comes first."""
    assert resolve_user(request({"X-Chat-User": "ada"}, "X-Chat-User"), UNBOUND) == "ada"
    assert resolve_user(request({"X-Chat-User": "ada", "X-User-ID": "bob"}, "X-Chat-User"), UNBOUND) == "bob"
    with pytest.raises(Forbidden):
        resolve_user(request({"X-Chat-User": "bob"}, "X-Chat-User"), BOUND)


@pytest.mark.parametrize(
    ("caller", "header", "named", "user"),
    [
        (BOUND, None, None, "ada"),
        (BOUND, "ada", "ada", "ada"),
        (UNBOUND, "bob", "carol", "bob"),
        (UNBOUND, "Zo%C3%AB%2F1", None, "Zoë/1"),
        (UNBOUND, "Zo\xc3\xab", None, "Zoë"),
        (UNBOUND, "50%", None, "50%"),
        (UNBOUND, None, "carol", "carol"),
    ],
)
def test_whose_the_front_door_is(caller: Caller, header: str | None, named: str | None, user: str) -> None:
    """The key's user, else the header's, else the field's."""
    headers = {"X-User-ID": header} if header is not None else {}
    assert resolve_user(request(headers), caller, named) == user


@pytest.mark.parametrize(
    ("caller", "header", "named", "error"),
    [
        (BOUND, "bob", None, Forbidden),
        (BOUND, None, "bob", Forbidden),
        (BOUND, "ada", "bob", Forbidden),
        (UNBOUND, None, None, InvalidInput),
        (UNBOUND, "", "carol", InvalidInput),
        (UNBOUND, "a%0Ab", None, InvalidInput),
        (UNBOUND, "%FF", None, InvalidInput),
        (UNBOUND, None, "a\nb", InvalidInput),
    ],
)
def test_whom_the_front_door_turns_away(
    caller: Caller, header: str | None, named: str | None, error: type[Exception]
) -> None:
    """A key bound to somebody else, nobody named, or a name that none can be."""
    headers: dict[str, Any] = {"X-User-ID": header} if header is not None else {}
    with pytest.raises(error):
        resolve_user(request(headers), caller, named)
