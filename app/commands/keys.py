"""`embed-service keys`: API keys."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from app.commands.terminal import Json, T, Tenant, opened, print_document
from app.services.keys import DEFAULT_TENANT, KeyService
from app.wiring import open_keys

keys = typer.Typer(no_args_is_help=True, help="API keys: made once, shown once.")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    tenant: Tenant = DEFAULT_TENANT,
    scope: Annotated[list[str] | None, typer.Option(help="`user` or `admin`; give it twice for both.")] = None,
    user: Annotated[str | None, typer.Option(help="The only user it opens; all of the tenant's where absent.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown now and never again."""
    made = _on_keys(None, lambda service: service.create(tenant, name, scope or ["user"], user))
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
    rows = _on_keys(tenant, lambda service: service.list(tenant))
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
    _on_keys(tenant, lambda service: service.revoke(tenant, key_id))
    print_document({"revoked": key_id}, as_json, lambda: f"revoked {key_id}")


def _on_keys(tenant: str | None, work: Callable[[KeyService], Awaitable[T]]) -> T:
    """Run `work` on the API keys, without loading what only the other commands need. Raises as `opened`."""
    return opened(open_keys, tenant, work)
