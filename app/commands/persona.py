"""`embed-service persona`: how a user likes to be answered."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from app.api.persona import history_out, persona_out
from app.api.schemas import PersonaChangeIn
from app.commands.terminal import Json, Tenant, on_user, parsed, print_document, shown
from app.domain.errors import InvalidInput
from app.domain.persona import Facet, Persona
from app.services.keys import DEFAULT_TENANT

persona = typer.Typer(no_args_is_help=True, help="How a user likes to be answered.")


@persona.command()
def show(user_id: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show a user's facets with their uncertainty."""
    _print(on_user(tenant, user_id, lambda services: services.personas.get(tenant, user_id)), as_json)


@persona.command("set")
def set_facets(
    user_id: str,
    facets: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="E.g. concise=0.9; 0.5 is neutral.")],
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Set facets outright, as the user says."""
    _change(user_id, dict(map(_facet, facets)), {}, tenant, as_json)


@persona.command()
def pin(
    user_id: str,
    facets: Annotated[list[str], typer.Argument(metavar="NAME[=VALUE]...", help="Without a value: as it is now.")],
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Let nothing but the user move facets from now on."""
    values = dict(_facet(each) for each in facets if "=" in each)
    _change(user_id, values, dict.fromkeys([each.partition("=")[0] for each in facets], True), tenant, as_json)


@persona.command()
def unpin(
    user_id: str,
    facets: Annotated[list[str], typer.Argument(metavar="NAME...")],
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Let facets be learned again."""
    _change(user_id, {}, dict.fromkeys(facets, False), tenant, as_json)


@persona.command()
def delete(user_id: str, facet: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Delete what is known of a facet, what speaks of it, and its history."""
    _print(on_user(tenant, user_id, lambda services: services.personas.forget(tenant, user_id, facet)), as_json)


@persona.command()
def history(user_id: str, tenant: Tenant = DEFAULT_TENANT, as_json: Json = False) -> None:
    """Show every move of a facet, and why, oldest first."""
    changes = history_out(on_user(tenant, user_id, lambda services: services.personas.history(tenant, user_id)))

    def table() -> Table:
        made = Table("when", "facet", "from", "to", Column("why", ratio=1))
        for change in changes.changes:
            when = change.changed_at.strftime("%Y-%m-%d %H:%M")
            made.add_row(when, change.facet, f"{change.before:.2f}", f"{change.after:.2f}", shown(change.reason))
        return made

    print_document(changes.model_dump(mode="json"), as_json, table)


def _change(user_id: str, values: Mapping[str, float], pins: Mapping[str, bool], tenant: str, as_json: bool) -> None:
    body = parsed(PersonaChangeIn, {"facets": values, "pinned": pins})
    _print(
        on_user(
            tenant, user_id, lambda services: services.personas.correct(tenant, user_id, body.facets, pins=body.pinned)
        ),
        as_json,
    )


def _facet(given: str) -> tuple[str, float]:
    name, _, value = given.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InvalidInput(f"{given!r} is not NAME=VALUE with a number from 0 to 1, e.g. concise=0.9") from None


def _origin(facet: Facet) -> str:
    """What a facet comes of."""
    if facet.is_pinned:
        return "pinned"
    learned = f"{facet.evidence} learned" if facet.evidence else ""
    return ", ".join(["told", learned] if facet.told_at and learned else ["told"] if facet.told_at else [learned])


def _print(held: Persona, as_json: bool) -> None:
    def table() -> Table:
        made = Table("facet", "value", "", "uncertainty", "from", "latest", "shapes prompts")
        for facet in held.facets.values():
            bar = ProgressBar(total=1.0, completed=facet.value, width=20)
            expressed = "yes" if facet.is_expressed else "no"
            latest = facet.told_at or facet.evidence_at
            made.add_row(
                facet.name,
                f"{facet.value:.2f}",
                bar,
                f"{facet.uncertainty:.2f}",
                _origin(facet),
                latest.strftime("%Y-%m-%d") if latest else "",
                expressed,
            )
        return made

    document = persona_out(held).model_dump(mode="json", exclude={"vector"})
    print_document(document, as_json, table)
