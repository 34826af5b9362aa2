"""`embed-service policy`: how searches weigh what they know of a memory, learned from recalls that were judged."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table

from app.commands.terminal import Json, T, Tenant, opened, print_document
from app.services.keys import DEFAULT_TENANT
from app.services.search_policy import Learned, SearchPolicy
from app.wiring import open_search_policy

policy = typer.Typer(no_args_is_help=True, help="How searches weigh, learned from recalls that were judged.")


@policy.command()
def status(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show the weights that hold, and how many recalls were judged."""
    found = _on_policy(tenant, lambda service: service.status(tenant))
    print_document(found, as_json, lambda: _status_table(found))


@policy.command()
def fit(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Learn weights from judged recalls and estimate what they would gain; nothing is changed."""
    learned = _on_policy(tenant, lambda service: service.fit(tenant))
    print_document(_document(learned), as_json, lambda: _learned_table(learned))


@policy.command()
def promote(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Learn weights and use them, where the interval of the estimated gain lies above 0."""
    learned = _on_policy(tenant, lambda service: service.promote(tenant))
    print_document(_document(learned), as_json, lambda: _learned_table(learned))


@policy.command()
def rollback(tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Go back to the weights that held before."""
    found = _on_policy(tenant, lambda service: service.rollback(tenant))
    print_document(found, as_json, lambda: _status_table(found))


def _on_policy(tenant: str, work: Callable[[SearchPolicy], Awaitable[T]]) -> T:
    """Run `work` on the policy, without loading a model. Raises as `opened`."""
    return opened(open_search_policy, tenant, work)


def _document(learned: Learned) -> dict[str, Any]:
    return {**asdict(learned), "reason": learned.reason, "is_gain": learned.estimate.is_gain}


def _status_table(found: Mapping[str, Any]) -> Table:
    title = f"{found['reason']}; {found['judged_recalls']} recalls judged"
    table = Table("arm", "weight", title=title)
    for name, weight in found["weights"].items():
        table.add_row(name, f"{weight:g}")
    return table


def _learned_table(learned: Learned) -> Table:
    table = Table("arm", "held", "learned", title=learned.reason)
    for name, weight in learned.held.items():
        table.add_row(name, f"{weight:g}", f"{learned.learned[name]:g}")
    return table
