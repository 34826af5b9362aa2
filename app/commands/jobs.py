"""`embed-service jobs`: what waits, what runs, what failed for good, and trying that again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.terminal import Json, T, check_tenant_option, opened, print_document
from app.domain.errors import InvalidInput
from app.domain.jobs import JobState, JobView
from app.services.jobs.queue import JobQueue
from app.wiring_jobs import open_jobs

jobs = typer.Typer(no_args_is_help=True, help="Background jobs.")

Kind = Annotated[str | None, typer.Option(help="Only jobs of this kind.")]
OneTenant = Annotated[
    str | None, typer.Option("--tenant", help="Only jobs of this tenant.", callback=check_tenant_option)
]
Limit = Annotated[int, typer.Option(min=1, help="Most jobs shown, the oldest first.")]
Ids = Annotated[list[int] | None, typer.Argument(help="Dead jobs, by number.")]
All = Annotated[bool, typer.Option("--all", help="All dead jobs.")]


@jobs.command("list")
def list_jobs(kind: Kind = None, tenant: OneTenant = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List the jobs that wait, run or are dead."""
    _show(("waiting", "running", "dead"), kind, tenant, limit, as_json)


@jobs.command()
def dead(kind: Kind = None, tenant: OneTenant = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List the jobs that failed for good, with what went wrong the last time."""
    _show(("dead",), kind, tenant, limit, as_json)


@jobs.command()
def count(as_json: Json = False) -> None:
    """Count the jobs by kind and state."""
    counts = _on_jobs(None, lambda queue: queue.counts())
    documents = [{"kind": kind, "state": state, "jobs": jobs} for (kind, state), jobs in sorted(counts.items())]

    def table() -> Table:
        made = Table("kind", "state", "jobs")
        for item in documents:
            made.add_row(*(str(value) for value in item.values()))
        return made

    print_document(documents, as_json, table)


@jobs.command()
def retry(job_ids: Ids = None, is_all: All = False, as_json: Json = False) -> None:
    """Put dead jobs back into the queue, with all their tries."""
    chosen = _chosen(job_ids, is_all)
    back = _on_jobs(None, lambda queue: queue.put_back(chosen))
    print_document({"put_back": back}, as_json, lambda: f"put back {len(back)}")


@jobs.command()
def drop(job_ids: Ids = None, is_all: All = False, as_json: Json = False) -> None:
    """Delete dead jobs."""
    chosen = _chosen(job_ids, is_all)
    dropped = _on_jobs(None, lambda queue: queue.drop(chosen))
    print_document({"dropped": dropped}, as_json, lambda: f"dropped {len(dropped)}")


def _chosen(job_ids: Sequence[int] | None, is_all: bool) -> Sequence[int] | None:
    if bool(job_ids) == is_all:
        raise InvalidInput("name the jobs by number, or say --all")
    return None if is_all else job_ids


def _on_jobs(tenant: str | None, work: Callable[[JobQueue], Awaitable[T]]) -> T:
    """Run `work` on the queue, without loading a model. Raises as `opened`."""
    return opened(open_jobs, tenant, work)


def _show(states: Sequence[JobState], kind: str | None, tenant: str | None, limit: int, as_json: bool) -> None:
    found = _on_jobs(tenant, lambda queue: queue.find(states=states, kind=kind, tenant_id=tenant, limit=limit))
    print_document([asdict(job) for job in found], as_json, lambda: _table(found))


def _table(found: Sequence[JobView]) -> Table:
    table = Table("job", "kind", "state", "about", "tries", "not before", "last error", "failed")
    for job in found:
        table.add_row(
            str(job.job_id),
            job.kind,
            job.state,
            _about(job.payload),
            str(job.attempts),
            _moment(job.run_at),
            job.error or "",
            _moment(job.failed_at),
        )
    return table


def _about(payload: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in payload.items())


def _moment(moment: Any) -> str:
    return moment.isoformat(" ", "seconds") if moment else ""
