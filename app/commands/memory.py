"""`embed-service memory`: what is remembered of a user."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, TimeRemainingColumn

from app.api.memories import added_out, draft_of, memory_out, search_out
from app.api.memory_schemas import OneMemoryIn, SearchIn
from app.commands import memory_tables as tables
from app.commands.terminal import Json, Tenant, on_user, parsed, print_document, progress_bar
from app.commands.users import export_user, import_user
from app.domain.errors import InvalidInput
from app.domain.imports import Format
from app.domain.memory import MemoryType
from app.ports import SystemClock
from app.services.imports import Report, read_batches
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from app.wiring import build_imports

memory = typer.Typer(no_args_is_help=True, help="What is remembered of a user.")
memory.command("export")(export_user)

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
    added = on_user(tenant, user_id, lambda services: services.memories.add(tenant, user_id, [draft_of(draft)]))
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
    found = on_user(tenant, user_id, lambda services: services.ranking.search(tenant, user_id, request))
    print_document(search_out(found).model_dump(mode="json"), as_json, lambda: tables.of_found(found))


@memory.command("import")
def import_memories(
    source: Path,
    form: Annotated[Format | None, typer.Option("--from", help="Whose file it is; an export of ours without.")] = None,
    user_id: Annotated[str | None, typer.Option("--user", help="With --from: whose memories these are.")] = None,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="With --from: only count.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Take in an export, or with --from what mem0, ChatGPT or Claude exported; a second time changes nothing."""
    if form is None:
        import_user(source, tenant, as_json)
        return
    if user_id is None:
        raise InvalidInput("say whose memories these are: --user NAME")
    whose = parsed(OneMemoryIn, {"user_id": user_id, "type": MemoryType.HISTORY, "content": "x"}).user_id
    with source.open("rb") as file, progress_bar(DownloadColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("importing", total=os.fstat(file.fileno()).st_size)

        def show(_: Report) -> None:
            bar.update(task, completed=file.tell())

        if is_dry:
            report = Report()
            for _ in read_batches(file, form, whose, SystemClock().now(), report):
                show(report)
        else:
            report = on_user(
                tenant, whose, lambda services: build_imports(services).bring(tenant, whose, form, file, show)
            )
    print_document(report.document(), as_json, lambda: tables.of_import(report, is_dry=is_dry))


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
    held = on_user(
        tenant,
        user_id,
        lambda services: services.memories.page(tenant, user_id, kind=kind, tag=tag, limit=limit + 1),
    )
    documents = [memory_out(each).model_dump(mode="json") for each in held[:limit]]
    print_document(documents, as_json, lambda: tables.of_memories(held[:limit], has_more=len(held) > limit))


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
