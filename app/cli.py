"""The `embed-service` command."""

import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from app.api.deps import Services
from app.api.protocol import ProblemProtocol
from app.commands.jobs import jobs
from app.commands.pairs import pairs
from app.commands.shards import shards
from app.commands.space import space
from app.commands.terminal import Json, T, Tenant, console, opened, print_document
from app.commands.training import train
from app.commands.worker import worker
from app.domain.errors import DomainError
from app.logs import configure_logs
from app.services.keys import DEFAULT_TENANT, KeyService
from app.services.training.erasure import Erasure
from app.services.training.run_files import DATASETS_FOLDER
from app.settings import Settings, load_settings_or_exit
from app.wiring import open_keys, open_services

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="API keys: made once, shown once.")
users = typer.Typer(no_args_is_help=True, help="Users.")
memory = typer.Typer(no_args_is_help=True, help="What is held on a user.")
persona = typer.Typer(no_args_is_help=True, help="How a user likes to be answered.")
cli.add_typer(keys, name="keys")
cli.add_typer(users, name="users")
cli.add_typer(memory, name="memory")
cli.add_typer(persona, name="persona")
cli.add_typer(jobs, name="jobs")
cli.command()(worker)
cli.add_typer(pairs, name="pairs")
cli.add_typer(shards, name="shards")
cli.add_typer(space, name="space")
cli.add_typer(train, name="train")


def main() -> int:
    """Run the command line; a failure that was foreseen is one line on stderr and status 1."""
    try:
        cli()
    except (DomainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _with_services(work: Callable[[Services], Awaitable[T]]) -> T:
    """Run `work` on the services, beside a running server or on a database started for it."""
    return opened(open_services, work)


def _with_keys(work: Callable[[KeyService], Awaitable[T]]) -> T:
    """Run `work` on the API keys, without loading what only the other commands need."""
    return opened(open_keys, work)


@cli.command()
def run() -> None:
    """Start the service on HOST and PORT, with its own database where DATABASE_URL is unset."""
    settings = load_settings_or_exit()
    config = uvicorn.Config(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http=ProblemProtocol,
        log_config=None,
        server_header=False,
    )
    server = _AnnouncingServer(config, settings)
    server.run()
    if not server.started:
        raise typer.Exit(3)


class _AnnouncingServer(uvicorn.Server):
    """A server that says where it is once it is there."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell the person at the terminal how to try it."""
        await super().startup(sockets=sockets)
        if self.started:
            _announce(self._settings)


def _announce(settings: Settings) -> None:
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 - compared, not bound
    base = f"http://{host}:{settings.port}"
    body = json.dumps({"user_id": "ada", "input_text": "build api"})
    print(f"Embed Service on {base}  (docs: {base}/docs)", file=sys.stderr)
    print("Try it:", file=sys.stderr)
    print(f"  curl -s {base}/v1/hypothesize -H 'Content-Type: application/json' -d '{body}'", file=sys.stderr)


@cli.command()
def demo(
    source: Annotated[Path | None, typer.Option("--from", help="A conversation in LoCoMo's layout.")] = None,
) -> None:
    """Play a whole session in the terminal: remember, ask, execute, learn."""
    from app.demo import play  # noqa: PLC0415 - only the demo needs it

    play(source, console)


@cli.command()
def doctor(as_json: Json = False) -> None:
    """Check every part and say what mends what is wrong; the exit status is 1 when something is."""
    from app.doctor import examine_visibly, silence_logs  # noqa: PLC0415 - only the doctor needs it
    from app.doctor.check import document, is_sound, table  # noqa: PLC0415

    settings = load_settings_or_exit()
    try:
        configure_logs(settings.log_dir, "WARNING", to_stdout=False)
    except OSError:  # one of its findings
        silence_logs()
    checks = examine_visibly(settings, Console(stderr=True) if as_json else console)
    print_document(document(checks), as_json, lambda: table(checks, encoding=console.encoding))
    if not is_sound(checks):
        raise typer.Exit(1)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    tenant: Tenant = DEFAULT_TENANT,
    scope: Annotated[list[str] | None, typer.Option(help="`user` or `admin`; give it twice for both.")] = None,
    user: Annotated[str | None, typer.Option(help="The only user it opens; all of the tenant's where absent.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown now and never again."""
    made = _with_keys(lambda service: service.create(tenant, name, scope or ["user"], user))
    document = {
        "key_id": made.key_id,
        "key": made.secret,
        "tenant": made.tenant_id,
        "scopes": list(made.scopes),
        "user_id": made.user_id,
    }
    print_document(document, as_json, lambda: f"{made.secret}\n(id {made.key_id}; keep it now, it is shown only once)")


@keys.command("list")
def list_keys(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """List a tenant's keys, without their secrets."""
    rows = _with_keys(lambda service: service.list(tenant))
    documents: list[dict[str, Any]] = [
        {
            "key_id": row.key_id,
            "name": row.name,
            "scopes": row.scopes,
            "user_id": row.user_id,
            "created_at": row.created_at.isoformat(),
            "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
        }
        for row in rows
    ]

    def table() -> Table:
        made = Table("id", "name", "scopes", "user", "created", "revoked")
        for item in documents:
            scopes, user, revoked = ", ".join(item["scopes"]), item["user_id"] or "all", item["revoked_at"] or ""
            made.add_row(item["key_id"], item["name"], scopes, user, item["created_at"], revoked)
        return made

    print_document(documents, as_json, table)


@keys.command("revoke")
def revoke_key(key_id: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Make a key useless at once."""
    _with_keys(lambda service: service.revoke(tenant, key_id))
    print_document({"revoked": key_id}, as_json, lambda: f"revoked {key_id}")


@users.command("erase")
def erase_user(
    user_id: str,
    tenant: Tenant = DEFAULT_TENANT,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a user from every table, training file and dataset. There is no undo."""
    if not yes:
        typer.confirm(f"Erase everything held on {user_id!r}?", abort=True)
    left = _with_services(lambda services: services.transfer.erase(tenant, user_id))

    def table() -> Table:
        made = Table("from", "erased")
        for place, count in left.erased.items():
            if count or not place.startswith(DATASETS_FOLDER):
                made.add_row(place, str(count))
        return made

    document = {
        "erased": dict(left.erased),
        "trained_adapters": list(left.trained_adapters),
        "unsure_adapters": list(left.unsure_adapters),
        "deleted_datasets": left.has_deleted_datasets,
    }
    print_document(document, as_json, table)
    if not as_json:
        _print_left(left)


def _print_left(left: Erasure) -> None:
    """What an erasure could not undo, and what to do about it."""
    if left.has_deleted_datasets:
        line = "The split.key of the prepared datasets is lost, so they were deleted whole: prepare them again."
        console.print(line, soft_wrap=True)
    named = [(name, "was trained on the user's samples") for name in left.trained_adapters]
    named += [(name, "may have been trained on them: its split.key is lost") for name in left.unsure_adapters]
    for name, how in named:
        console.print(f"{name} {how}.", soft_wrap=True)
    if named:
        line = "Train again without them: embed-service train datasets, then embed-service train run."
        console.print(line, soft_wrap=True)
        console.print("Until then: embed-service train rollback RUN, where it answers users.", soft_wrap=True)


@memory.command("export")
def export_memory(
    user_id: str,
    out: Annotated[Path | None, typer.Option(help="A file; standard output where absent.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """Write everything held on a user as JSON lines."""

    async def work(services: Services) -> None:
        await services.transfer.check_user(tenant, user_id)
        target = out.open("wb") if out else sys.stdout.buffer
        async for line in services.transfer.export(tenant, user_id):
            target.write(line)
        target.flush()

    _with_services(work)


@memory.command("import")
def import_memory(source: Path, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Take in an export."""

    async def work(services: Services) -> dict[str, int]:
        with source.open("rb") as lines:
            return dict(await services.transfer.import_(tenant, lines))

    imported = _with_services(work)
    print_document({"imported": imported}, as_json, lambda: f"imported {sum(imported.values())} rows")


@persona.command("show")
def show_persona(user_id: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show a user's facets with their uncertainty."""
    held = _with_services(lambda services: services.personas.get(tenant, user_id))

    def table() -> Table:
        made = Table("facet", "value", "uncertainty", "shapes prompts")
        for facet in held.facets.values():
            made.add_row(
                facet.name, f"{facet.value:.2f}", f"{facet.uncertainty:.2f}", "yes" if facet.is_expressed else "no"
            )
        return made

    document = {
        "user_id": user_id,
        "version": held.version,
        "facets": {f.name: {"value": f.value, "uncertainty": f.uncertainty} for f in held.facets.values()},
    }
    print_document(document, as_json, table)


if __name__ == "__main__":
    raise SystemExit(main())
