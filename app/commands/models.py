"""`python -m scripts.provision_models`: the models of roles, looked for or brought, from a terminal or a pipeline."""

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Sequence
from typing import Any

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from app.commands.terminal import ENDED_BY_HAND, print_document, progress_bar, tell
from app.domain.errors import DomainError
from app.domain.manifest import Model
from app.logs import configure_logs
from app.ports import Progress
from app.services.models.manager import Provision, RoleReport
from app.settings import Settings, load_settings_or_exit
from app.wiring_models import build_models

UNUSABLE = 2
"""The exit status where the settings, the manifest or the flags cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Provision; the exit status: 0 when every model is there, 1 when one is not, 2 for wrong settings or flags."""
    parser = argparse.ArgumentParser(prog="python -m scripts.provision_models", description="Provision models.")
    parser.add_argument(
        "--roles", nargs="+", metavar="ROLE", help="these roles; all of the active profile where absent"
    )
    parser.add_argument("--force", action="store_true", help="hash or pull again what is there")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    flags = parser.parse_args(arguments)
    settings = load_settings_or_exit()
    configure_logs(settings.log_dir, settings.log_level, to_stdout=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        made = asyncio.run(_provision(settings, flags.roles, flags.force))
    except DomainError as error:
        tell(f"error: {error}")
        return UNUSABLE
    except KeyboardInterrupt:
        tell("stopped: the same command goes on")
        return ENDED_BY_HAND
    print_document(_document(made), flags.json, lambda: _table(made))
    if made.problem:
        tell(f"warning: {made.problem}")
    for report in made.reports:
        if report.action == "failed":
            tell(f"error: {report.role}: {report.detail}")
    return 1 if made.status == "failed" else 0


def _interrupt(*_: object) -> None:
    """Have a request to end do what Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


async def _provision(settings: Settings, roles: Sequence[str] | None, force: bool) -> Provision:
    with progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bar:
        tasks: dict[str, Any] = {}

        def show(model: Model, progress: Progress) -> None:
            if model.name not in tasks:
                tasks[model.name] = bar.add_task(model.name, total=None)
            said = f"{model.name}: {progress.stage}"
            bar.update(tasks[model.name], description=said, completed=progress.done, total=progress.total)

        models = build_models(settings, show)
        async with contextlib.aclosing(models):
            return await models.provision(roles, force=force)


def _document(made: Provision) -> dict[str, Any]:
    return {
        "status": made.status,
        "profile": made.profile,
        "roles": [_report(report) for report in made.reports],
        "problem": made.problem,
    }


def _report(report: RoleReport) -> dict[str, Any]:
    found = report.provisioned
    return {
        "role": report.role,
        "model": report.model,
        "provider": report.provider,
        "action": report.action,
        "detail": report.detail,
        "downloaded_bytes": found.downloaded_bytes if found else 0,
        "seconds": round(report.seconds, 3),
        "place": str(found.place) if found and found.place else None,
        "hashes": dict(found.hashes) if found else {},
    }


def _table(made: Provision) -> Table:
    table = Table("role", "model", "provider", "action", "what was found", title=f"profile {made.profile}")
    for report in made.reports:
        table.add_row(report.role, report.model, report.provider, report.action, report.detail)
    return table
