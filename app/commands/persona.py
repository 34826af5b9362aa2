"""`embed-service persona`: how a user likes to be answered."""

from typing import Annotated

import typer
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from app.api.persona import history_out, persona_out
from app.api.schemas import PersonaChangeIn
from app.commands.terminal import Json, Tenant, on_user, parsed, print_document, shown
from app.domain.errors import InvalidInput
from app.domain.persona import Persona
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
    values = parsed(PersonaChangeIn, {"facets": dict(map(_facet, facets))}).facets
    _print(on_user(tenant, user_id, lambda services: services.personas.correct(tenant, user_id, values)), as_json)


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


def _facet(given: str) -> tuple[str, float]:
    name, _, value = given.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InvalidInput(f"{given!r} is not NAME=VALUE with a number from 0 to 1, e.g. concise=0.9") from None


def _print(held: Persona, as_json: bool) -> None:
    def table() -> Table:
        made = Table("facet", "value", "", "uncertainty", "shapes prompts")
        for facet in held.facets.values():
            bar = ProgressBar(total=1.0, completed=facet.value, width=20)
            expressed = "yes" if facet.is_expressed else "no"
            made.add_row(facet.name, f"{facet.value:.2f}", bar, f"{facet.uncertainty:.2f}", expressed)
        return made

    document = persona_out(held).model_dump(mode="json", exclude={"vector"})
    print_document(document, as_json, table)
