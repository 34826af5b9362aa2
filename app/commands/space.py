"""`embed-service space`: another embedding space for a tenant, while people use the old one."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.failures import told
from app.commands.space_bar import vectors_bar
from app.commands.space_tables import (
    plan_document,
    plan_table,
    status_document,
    status_table,
    verified_document,
    verified_table,
)
from app.commands.space_trial import trial
from app.commands.terminal import Json, T, Tenant, console, opened, print_document, tell
from app.domain.embeddings import Labels
from app.domain.errors import DomainError, InvalidInput
from app.domain.spaces import StoredSpace
from app.services.keys import DEFAULT_TENANT
from app.services.space_switch import SpaceStatus, SpaceSwitch
from app.wiring import open_switch
from app.wiring_jobs import fill_in_background

space = typer.Typer(no_args_is_help=True, help="Embedding spaces.")
space.add_typer(trial, name="trial")

Endpoint = Annotated[str, typer.Option(help="An embedding server, as EMBED_ENDPOINT takes it.")]
Revision = Annotated[
    str | None, typer.Option(help="The model's revision, where its server does not tell: another one is another space.")
]
Pooling = Annotated[str | None, typer.Option(help="How the server pools tokens: a name, it changes nothing there.")]
Prefix = Annotated[str, typer.Option(help="Put before each text that is embedded in the space, e.g. 'query: '.")]
All = Annotated[bool, typer.Option("--all", help="Every tenant, one after the other.")]


@space.command()
def plan(
    endpoint: Annotated[str | None, typer.Option(help="An embedding server, as EMBED_ENDPOINT takes it.")] = None,
    revisions: Annotated[bool, typer.Option("--revisions", help="Write the change as Alembic revisions.")] = False,
    contract: Annotated[
        bool, typer.Option("--contract", help="Of these, the one that gives up the old space.")
    ] = False,
    revision: Revision = None,
    pooling: Pooling = None,
    prefix: Prefix = "",
    tenant: Tenant = DEFAULT_TENANT,
    is_all: All = False,
    as_json: Json = False,
) -> None:
    """Say what a change to the space of an embedding server takes; change nothing."""
    labels = Labels(revision, pooling, prefix)
    if revisions:
        if is_all:
            raise InvalidInput("revisions change every tenant: leave --all out (--tenant: the one whose space is kept)")
        _write_revisions(tenant, endpoint, labels, is_contract=contract, as_json=as_json)
        return
    if endpoint is None or contract:
        raise InvalidInput("a plan needs --endpoint; --contract goes with --revisions")
    address = endpoint
    _on_each(
        tenant, is_all, as_json, lambda service, name: service.plan(name, address, labels), plan_document, plan_table
    )


@space.command()
def create(
    endpoint: Endpoint,
    revision: Revision = None,
    pooling: Pooling = None,
    prefix: Prefix = "",
    tenant: Tenant = DEFAULT_TENANT,
    is_all: All = False,
    as_json: Json = False,
) -> None:
    """Make the new space's tables; from now on what is written is noted for it. Searches stay as they are."""
    labels = Labels(revision, pooling, prefix)
    _on_status(tenant, is_all, as_json, lambda service, name: service.create(name, endpoint, labels))


def _check_slowdown(value: float) -> float:
    if 0.0 < value < 1.0 or value < 0.0:
        raise typer.BadParameter("1 or more times as long, or 0")
    return value


@space.command()
def fill(
    slowdown: Annotated[
        float,
        typer.Option(
            help="Wait while searches take longer than before by more than this; 0: wait for nobody.",
            callback=_check_slowdown,
        ),
    ] = 2.0,
    background: Annotated[bool, typer.Option("--background", help="Have the workers do it.")] = False,
    jobs: Annotated[int, typer.Option(help="With --background: most workers at a time.", min=1)] = 4,
    tenant: Tenant = DEFAULT_TENANT,
    is_all: All = False,
    as_json: Json = False,
) -> None:
    """Embed what the new space lacks. Several of these share the work; broken off, the same command goes on."""
    if background:
        _on_each(
            tenant,
            is_all,
            as_json,
            lambda service, name: fill_in_background(service, name, jobs, slowdown),
            lambda found: {"space": found.id, "jobs": jobs},
            lambda found: f"{found.id} is filled by the workers: embed-service space status",
        )
        return

    async def filled(service: SpaceSwitch, name: str) -> SpaceStatus:
        with vectors_bar(name if is_all else "filling") as show:
            return await service.fill_gently(name, show, slowdown)

    _on_status(tenant, is_all, as_json, filled)


@space.command()
def verify(
    queries: Annotated[int, typer.Option(help="How many of the latest inputs to try.", min=1)] = 50,
    tenant: Tenant = DEFAULT_TENANT,
    is_all: All = False,
    as_json: Json = False,
) -> None:
    """Look whether the new space is whole, what it finds, and whether its model is still the same, beside the space
    that serves. Status 1 where it lacks something or its model has changed."""
    found = _on_each(
        tenant, is_all, as_json, lambda service, name: service.verify(name, queries), verified_document, verified_table
    )
    if not all(one.is_good for one in found):
        raise typer.Exit(1)


@space.command()
def switch(tenant: Tenant = DEFAULT_TENANT, is_all: All = False, as_json: Json = False) -> None:
    """Have the filled space serve, in one transaction; once more, and the one before serves again."""
    _on_status(tenant, is_all, as_json, lambda service, name: service.switch(name))


@space.command()
def drop(tenant: Tenant = DEFAULT_TENANT, is_all: All = False, as_json: Json = False) -> None:
    """Delete the vectors of the space that does not serve; broken off, the same command goes on."""

    async def dropped(service: SpaceSwitch, name: str) -> StoredSpace:
        with vectors_bar(name if is_all else "dropping") as show:
            return await service.drop(name, show)

    _on_each(
        tenant,
        is_all,
        as_json,
        dropped,
        lambda gone: {"space": gone.id},
        lambda gone: f"{gone.id} is dropped",
    )


@space.command()
def status(
    watch: Annotated[
        float, typer.Option(help="Seconds to watch what is being filled, for the rate; 0: do not.", min=0.0)
    ] = 2.0,
    tenant: Tenant = DEFAULT_TENANT,
    is_all: All = False,
    as_json: Json = False,
) -> None:
    """Show the tenant's spaces, what each is for, what it lacks, how quickly it is filled and how long that takes."""
    _on_each(
        tenant,
        is_all,
        as_json,
        lambda service, name: service.watched_status(name, watch),
        lambda found: [status_document(one) for one in found],
        status_table,
    )


def _on_status(
    tenant: str, is_all: bool, as_json: bool, work: Callable[[SpaceSwitch, str], Awaitable[SpaceStatus]]
) -> None:
    """As `_on_each`, for what tells a space's status."""
    _on_each(tenant, is_all, as_json, work, status_document, lambda one: status_table([one]))


def _on_each(
    tenant: str,
    is_all: bool,
    as_json: bool,
    work: Callable[[SpaceSwitch, str], Awaitable[T]],
    document: Callable[[T], Any],
    table: Callable[[T], Table | str],
) -> list[T]:
    """Do something on the spaces of a tenant, or of all, and print what came of it; no model is loaded unless it is
    needed. With --all one tenant's failure is a line, status 1 at the end, and the others are done all the same."""

    async def each(service: SpaceSwitch) -> dict[str, T | DomainError]:
        if not is_all:
            return {tenant: await work(service, tenant)}
        done: dict[str, T | DomainError] = {}
        for name in await service.tenants():
            try:
                done[name] = await work(service, name)
            except DomainError as error:
                done[name] = error
        return done

    done = opened(open_switch, None if is_all else tenant, each)
    good = {name: one for name, one in done.items() if not isinstance(one, DomainError)}
    if not is_all:
        print_document(document(good[tenant]), as_json, lambda: table(good[tenant]))
        return list(good.values())
    failed = {name: told(one) for name, one in done.items() if isinstance(one, DomainError)}
    if as_json:
        print_document({**{name: document(one) for name, one in good.items()}, **_errors(failed)}, True, str)
    for name, one in good.items() if not as_json else ():
        console.print(f"[bold]{name}[/]")
        console.print(table(one))
    for name, reason in failed.items():
        tell(f"{name}: {reason}")
    if failed:
        raise typer.Exit(1)
    return list(good.values())


def _errors(failed: dict[str, str]) -> dict[str, Any]:
    return {name: {"error": reason} for name, reason in failed.items()}


def _write_revisions(tenant: str, endpoint: str | None, labels: Labels, *, is_contract: bool, as_json: bool) -> None:
    paths = opened(
        open_switch, tenant, lambda service: service.revisions(tenant, endpoint, labels, is_contract=is_contract)
    )
    documents = [str(path) for path in paths]
    print_document({"revisions": documents}, as_json, lambda: "\n".join([*documents, "then: alembic upgrade heads"]))
