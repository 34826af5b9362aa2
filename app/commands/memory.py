"""`embed-service memory`: what is remembered of a user."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from app.api.memories import added_out, draft_of, memory_out, search_out
from app.api.schemas import OneMemoryIn, SearchIn
from app.commands import memory_tables as tables
from app.commands.terminal import Json, Tenant, on_services, parsed, print_document
from app.commands.users import export_user, import_user
from app.domain.memory import MemoryType
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest

memory = typer.Typer(no_args_is_help=True, help="What is remembered of a user.")
memory.command("export")(export_user)
memory.command("import")(import_user)

DATE_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

Type = Annotated[MemoryType | None, typer.Option("--type", case_sensitive=False, help="Only memories of this type.")]
Tag = Annotated[str | None, typer.Option(help="Only memories with this tag.")]


@memory.command()
def add(
    user_id: str,
    content: str,
    kind: Annotated[MemoryType, typer.Option("--type", case_sensitive=False, help="What kind of fact it is.")],
    confidence: Annotated[float, typer.Option(min=0, max=1)] = 0.8,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="May be given several times.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=DATE_FORMATS, help="When it became true, in UTC.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Remember one fact; what it repeats is merged, what it contradicts is superseded."""
    draft = parsed(
        OneMemoryIn,
        {
            "user_id": user_id,
            "type": kind,
            "content": content,
            "confidence": confidence,
            "tags": tags or [],
            "source": "command line",
            "valid_from": _in_utc(since),
        },
    )
    added = on_services(lambda services: services.memories.add(tenant, user_id, [draft_of(draft)]))
    print_document(added_out(added).model_dump(mode="json"), as_json, lambda: tables.of_added(added))


@memory.command()
def search(
    user_id: str,
    query: str,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    kind: Type = None,
    tag: Tag = None,
    as_of: Annotated[datetime | None, typer.Option(formats=DATE_FORMATS, help="What held then, in UTC.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Find the memories most relevant to a query, best first, with what their scores are made of."""
    asked = {"user_id": user_id, "query": query, "tags": [tag] if tag else None}
    parsed(SearchIn, asked)
    request = SearchRequest(query, limit, [kind] if kind else None, asked["tags"], _in_utc(as_of))
    found = on_services(lambda services: services.ranking.search(tenant, user_id, request))
    print_document(search_out(found).model_dump(mode="json"), as_json, lambda: tables.of_found(found))


@memory.command("list")
def list_memories(
    user_id: str,
    kind: Type = None,
    tag: Tag = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """List the memories that hold now, newest first."""
    held = on_services(lambda services: services.memories.page(tenant, user_id, kind=kind, tag=tag, limit=limit + 1))
    documents = [memory_out(each).model_dump(mode="json") for each in held[:limit]]
    print_document(documents, as_json, lambda: tables.of_memories(held[:limit], has_more=len(held) > limit))


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
