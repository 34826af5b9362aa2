"""`embed-service policy`: how searches weigh what they know of a memory, learned from recalls that were judged; and
when users are asked, which readings come first and which adapter makes them, judged by what came of earlier decisions.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from app.commands.terminal import Json, T, Tenant, opened, print_document
from app.domain.errors import InvalidInput, NotReady
from app.domain.off_policy import Evaluation, Method
from app.services.keys import DEFAULT_TENANT
from app.services.question_policy import Change
from app.services.search_policy import Learned, SearchPolicy
from app.wiring import open_adapter_policy, open_question_policy, open_ranker_policy, open_search_policy
from app.wiring_training import open_training

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
def rollback(
    ranker: Annotated[bool, typer.Option("--ranker", help="The weights of readings, not those of searches.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Go back to the weights that held before."""
    if ranker:
        held = opened(open_ranker_policy, tenant, lambda service: service.rollback(tenant))
        print_document({"weights": dict(held)}, as_json, lambda: _weights_table(held, held, "taken back"))
        return
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
    ranker: Annotated[bool, typer.Option("--ranker", help="Readings weighed by their origin, as is learned.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="Everybody answered by the adapter on trial.")] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Do so, where the interval lies above 0.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Estimate what another way would have gained on the decisions of the last 90 days: asking more or less, another
    order of the readings, or the adapter that is tried."""
    change = Change(question_cost, auto_advance_confidence)
    if (change != Change()) + ranker + adapter != 1:
        raise InvalidInput(
            "say one thing that would be otherwise: --question-cost or --auto-advance-confidence or both, --ranker, "
            "or --adapter"
        )
    if ranker:
        found = opened(
            open_ranker_policy,
            tenant,
            lambda service: service.promote(tenant) if promote else service.evaluate(tenant),
        )
        said = {"held": dict(found.held), "learned": dict(found.learned), "drawn": found.drawn}
        made = found.evaluation
    elif adapter:
        candidate, made = opened(open_adapter_policy, tenant, lambda service: service.evaluate(tenant))
        said = {"adapter": candidate}
        if promote:
            _promote_adapter(tenant, candidate, made)
    else:
        made = opened(
            open_question_policy,
            tenant,
            lambda service: service.promote(tenant, change) if promote else service.evaluate(tenant, change),
        )
        said = {"change": asdict(change)}
    document = {**said, **_evaluation_document(made)}
    print_document(document, as_json, lambda: _evaluation_table(made, said))


@policy.command()
def replay(set_id: UUID, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Make the decision of a hypothesis set, and the order of its options, again from its record."""
    again = opened(open_question_policy, tenant, lambda service: service.replay(tenant, set_id))
    held = again.record["decision"]
    document = {
        "decision": held,
        "again": again.decided.decision,
        "ranks": list(again.order.ranks) if again.order else None,
        "is_same": again.is_same,
        "record": again.record,
    }
    print_document(document, as_json, lambda: f"{held}, and again {again.decided.decision}")
    if not again.is_same:
        raise typer.Exit(1)


def _promote_adapter(tenant: str, candidate: str, made: Evaluation) -> None:
    """Have everybody answered by the adapter on trial. Raises NotReady where the interval of the gain is not above
    0."""
    if not made.is_gain:
        raise NotReady(f"not promoted: {made.reason}")
    opened(open_training, tenant, lambda training: training.deployments.promote(tenant, candidate, 1.0))


def _on_policy(tenant: str, work: Callable[[SearchPolicy], Awaitable[T]]) -> T:
    """Run `work` on the policy, without loading a model. Raises as `opened`."""
    return opened(open_search_policy, tenant, work)


_NAMES: Mapping[Method, str] = {"ips": "IPS", "snips": "SNIPS", "doubly_robust": "doubly robust"}


def _evaluation_table(made: Evaluation, said: Mapping[str, Any]) -> Table:
    table = Table("estimator", "gain", "95 % interval", title=made.reason)
    for method, found in made.gains.items():
        table.add_row(_NAMES[method], f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}")
    parts = [
        f"{made.decisions} decisions of {made.gain.users} users, worth {made.held:.4f}",
        f"{made.agreement:.0%} the same both ways",
        "the doubly robust interval decides",
    ]
    if "change" in said:
        parts.append("nobody is asked by chance: IPS and SNIPS see only what is the same")
    if "learned" in said:
        parts.append("weights " + ", ".join(f"{name} {weight:+.2f}" for name, weight in said["learned"].items()))
    table.caption = "; ".join(parts)
    return table


def _evaluation_document(made: Evaluation) -> dict[str, Any]:
    """With null for an interval without end, which JSON cannot say."""
    gains = {
        method: {name: _finite(value) for name, value in asdict(one).items()} for method, one in made.gains.items()
    }
    return {
        "decisions": made.decisions,
        "agreement": made.agreement,
        "held": made.held,
        "gain": gains["doubly_robust"],
        "gains": gains,
        "reason": made.reason,
        "is_gain": made.is_gain,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _document(learned: Learned) -> dict[str, Any]:
    return {**asdict(learned), "reason": learned.reason, "is_gain": learned.estimate.is_gain}


def _status_table(found: Mapping[str, Any]) -> Table:
    title = f"{found['reason']}; {found['judged_recalls']} recalls judged"
    table = Table("arm", "weight", title=title)
    for name, weight in found["weights"].items():
        table.add_row(name, f"{weight:g}")
    return table


def _learned_table(learned: Learned) -> Table:
    return _weights_table(learned.held, learned.learned, learned.reason)


def _weights_table(held: Mapping[str, float], learned: Mapping[str, float], title: str) -> Table:
    table = Table("arm", "held", "learned", title=title)
    for name, weight in held.items():
        table.add_row(name, f"{weight:g}", f"{learned[name]:g}")
    return table
