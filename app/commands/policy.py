"""`embed-service policy`: how searches weigh what they know of a memory, learned from recalls that were judged; and
when users are asked, judged by what came of earlier decisions."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from app.commands.terminal import Json, T, Tenant, opened, print_document
from app.domain.errors import InvalidInput
from app.services.keys import DEFAULT_TENANT
from app.services.question_policy import Change, Evaluation
from app.services.search_policy import Learned, SearchPolicy
from app.wiring import open_question_policy, open_search_policy

policy = typer.Typer(no_args_is_help=True, help="How searches weigh and when users are asked, by what came of it.")


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


@policy.command()
def evaluate(
    question_cost: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="What a question would cost, in right acts.")
    ] = None,
    auto_advance_confidence: Annotated[
        float | None, typer.Option(min=0.5, max=1.0, help="From which confidence on the service would go ahead.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Do so, where the interval lies above 0.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Estimate what asking more or less would have gained on the decisions of the last 90 days."""
    if question_cost is None and auto_advance_confidence is None:
        raise InvalidInput("say what would be otherwise: --question-cost, --auto-advance-confidence, or both")
    change = Change(question_cost, auto_advance_confidence)
    made = opened(
        open_question_policy,
        tenant,
        lambda service: service.promote(tenant, change) if promote else service.evaluate(tenant, change),
    )
    document = {**asdict(made), "reason": made.reason, "is_gain": made.is_gain}
    print_document(document, as_json, lambda: _evaluation_table(made))


@policy.command()
def replay(set_id: UUID, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Make the decision of a hypothesis set again from its record."""
    again, record = opened(open_question_policy, tenant, lambda service: service.replay(tenant, set_id))
    document = {"decision": record["decision"], "again": again.decision, "record": record}
    print_document(document, as_json, lambda: f"{record['decision']}, and again {again.decision}")


def _on_policy(tenant: str, work: Callable[[SearchPolicy], Awaitable[T]]) -> T:
    """Run `work` on the policy, without loading a model. Raises as `opened`."""
    return opened(open_search_policy, tenant, work)


def _evaluation_table(made: Evaluation) -> Table:
    table = Table("what", "right acts", title=made.reason)
    table.add_row("as decided", f"{made.held:.4f}")
    table.add_row("otherwise", f"{made.held + made.gain.value:.4f}")
    table.caption = f"{made.decisions} decisions of {made.gain.users} users; {made.agreement:.0%} the same both ways"
    return table


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
