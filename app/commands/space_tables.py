"""What `embed-service space` prints: documents and tables."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from app.commands.terminal import shown
from app.services.space_check import Drift, Verified
from app.services.space_switch import SpacePlan, SpaceStatus


def plan_document(found: SpacePlan) -> dict[str, Any]:
    """A plan as JSON."""
    return {**asdict(found), "serving": found.serving.id, "to": found.to.id}


def plan_table(found: SpacePlan) -> Table:
    """A plan for people."""
    table = Table("from", found.serving.id)
    rows: dict[str, str | Text] = {
        "to": found.to.id,
        **({"prefix": shown(repr(found.to.prefix))} if found.to.prefix else {}),
        "memories": f"{found.memories:,}",
        "inputs": f"{found.inputs:,}",
        "the endpoint embeds": f"{found.texts_per_s:,.0f} texts a second",
        "filling takes about": f"{found.seconds / 60:,.0f} minutes",
        "disk": f"{found.bytes / 2**20:,.0f} MiB",
        "then": "space create, fill, verify, switch; drop when nobody wants to go back",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def status_document(one: SpaceStatus) -> dict[str, Any]:
    """A space of a tenant as JSON; `rate` in items a second."""
    return {
        "number": one.space.number,
        "space": one.space.id,
        "revision": one.space.space.revision,
        "pooling": one.space.space.pooling,
        "prefix": one.space.space.prefix,
        "role": one.role,
        "endpoint": one.space.endpoint,
        "storage": one.space.column_type,
        "items": one.items,
        "lacking": one.lacking,
        "rate": one.rate,
        "seconds_left": one.seconds_left,
    }


def status_table(found: Sequence[SpaceStatus]) -> Table:
    """The spaces of a tenant for people."""
    table = Table("role", "space", "prefix", "vectors", "lacking", "rate", "time left", "endpoint")
    for one in found:
        table.add_row(
            one.role,
            one.space.id,
            shown(repr(one.space.space.prefix)) if one.space.space.prefix else "",
            f"{one.items - one.lacking:,} of {one.items:,}",
            f"{one.lacking:,}",
            "" if one.rate is None else f"{one.rate:,.0f}/s",
            "" if one.seconds_left is None else _duration(one.seconds_left),
            one.space.endpoint or "built in",
        )
    return table


def verified_document(found: Verified) -> dict[str, Any]:
    """What was found about a new space as JSON."""
    return {
        "missing": found.missing,
        "queries": found.queries,
        "recall": found.new.recall,
        "serving_recall": found.serving.recall,
        "overlap": found.overlap,
        "cosine": found.new.cosine,
        "serving_cosine": found.serving.cosine,
        "sampled": found.new_drift.sampled,
        "changed": found.new_drift.changed,
        "lowest_cosine": found.new_drift.lowest_cosine,
        "serving_changed": found.serving_drift.changed,
        "serving_lowest_cosine": found.serving_drift.lowest_cosine,
    }


def verified_table(found: Verified) -> Table:
    """What was found about a new space for people."""

    def share(value: float | None) -> str:
        return "no query to try" if value is None else f"{value:.3f}"

    table = Table(f"{found.queries} queries", "new space", "serving space")
    table.add_row("without a vector", f"{found.missing:,}", "")
    table.add_row("recall@10", share(found.new.recall), share(found.serving.recall))
    table.add_row("mean cosine of the ten found", share(found.new.cosine), share(found.serving.cosine))
    table.add_row("of the serving space's ten, found", share(found.overlap), "")
    rows: dict[str, Callable[[Drift], str]] = {
        "embedded again": lambda drift: f"{drift.sampled}",
        "of these, another vector now": lambda drift: f"{drift.changed}",
        "lowest cosine to the stored one": lambda drift: f"{drift.lowest_cosine:.4f}",
    }
    for name, of in rows.items():
        table.add_row(name, of(found.new_drift), of(found.serving_drift))
    return table


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}"
