"""The `embed-service` command."""

import json
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from rich.console import Console

from app.api.protocol import ProblemProtocol
from app.commands.completion import NAME, completion
from app.commands.failures import told
from app.commands.jobs import jobs
from app.commands.keys import keys
from app.commands.mcp import mcp
from app.commands.memory import memory
from app.commands.pairs import pairs
from app.commands.persona import persona
from app.commands.policy_report import policy
from app.commands.shards import shards
from app.commands.space import space
from app.commands.terminal import ENDED_BY_HAND, Json, console, print_document
from app.commands.training import train
from app.commands.users import users
from app.commands.worker import worker
from app.domain.errors import DomainError
from app.logs import configure_logs
from app.settings import Settings, load_settings_or_exit

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(keys, name="keys")
cli.add_typer(users, name="users")
cli.add_typer(memory, name="memory")
cli.add_typer(persona, name="persona")
cli.add_typer(policy, name="policy")
cli.add_typer(jobs, name="jobs")
cli.command()(worker)
cli.command()(completion)
cli.command()(mcp)
cli.add_typer(pairs, name="pairs")
cli.add_typer(shards, name="shards")
cli.add_typer(space, name="space")
cli.add_typer(train, name="train")


def main() -> int:
    """Run the command line; a failure that was foreseen is one line on stderr and status 1, a command that was not
    understood one and status 2."""
    try:
        return cli(prog_name=NAME, standalone_mode=False) or 0
    except typer.TyperException as error:
        _explain(error)
        return error.exit_code
    except (DomainError, OSError) as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 1
    except typer.Abort:
        print("stopped", file=sys.stderr)
        return ENDED_BY_HAND


def _explain(error: typer.TyperException) -> None:
    """What is wrong with a command, and where its help is; a group without a command has shown its help already."""
    said = " ".join(error.format_message().split())
    if said:
        context: typer.Context | None = getattr(error, "ctx", None)
        asked = f"; see {context.command_path} --help" if context else ""
        print(f"error: {said.removesuffix('.')}{asked}", file=sys.stderr)


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


if __name__ == "__main__":
    raise SystemExit(main())
