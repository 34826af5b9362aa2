"""A change of embedding space as Alembic revisions, for people who drive migrations themselves.

`embed-service space plan --revisions` writes the revisions; they call the functions here, on all tenants at once.

    expand    the new space's tables; from now on what is written is noted (down: drop them)
    switch    the new space serves where nothing is lacking               (down: the old one serves again)
    contract  the old space's tables go                                   (down: made again, to be filled)

Between `expand` and `switch` the space has to be filled (`embed-service space fill`); `switch` says so, and nothing is
changed by it then.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypedDict

from sqlalchemy import Connection, text

from app.domain.embeddings import EmbeddingSpace
from app.domain.errors import NotFilled, NotReady
from app.store.space_fills import missing_query
from app.store.space_tables import create_statements
from app.store.spaces import LOCK_ROLES


class SpaceRow(TypedDict):
    """A space as a revision names it."""

    model: str
    revision: str
    dimension: int
    pooling: str
    is_normalised: bool
    prefix: str
    storage: str
    endpoint: str | None


def row_of(space: EmbeddingSpace, storage: str, endpoint: str | None) -> SpaceRow:
    """A space as a revision names it."""
    return SpaceRow(**asdict(space), storage=storage, endpoint=endpoint)


def expand(connection: Connection, row: SpaceRow) -> None:
    """Make the space for every tenant that another one serves. What is there is noted by whoever fills it."""
    number = _registered(connection, row)
    for tenant_id in _each_tenant(connection):
        own = {"tenant_id": tenant_id, "number": number}
        _lock(connection, tenant_id)
        connection.execute(
            text(
                "INSERT INTO tenant_spaces (tenant_id, number, role) SELECT tenant_id, :number, 'filling' "
                "FROM tenant_spaces WHERE tenant_id = :tenant_id AND role = 'serving' AND number <> :number "
                "ON CONFLICT DO NOTHING"
            ),
            own,
        )


def switch(connection: Connection, row: SpaceRow) -> None:
    """Have the space serve every tenant that it was filled for. Raises NotFilled where it lacks something."""
    number = _number(connection, row)
    for tenant_id in _each_tenant(connection):
        own = {"tenant_id": tenant_id, "number": number}
        _lock(connection, tenant_id)
        role = _role(connection, tenant_id, number)
        if role not in {"filling", "filled", "kept"}:
            continue
        lacking = connection.execute(
            text("SELECT count(*) FROM space_backlog WHERE tenant_id = :tenant_id AND number = :number"), own
        ).scalar_one()
        if not lacking and role == "filling":  # not all of it may be noted
            lacking = connection.execute(text(missing_query(number)), own).scalar_one()
        if lacking:
            raise NotFilled(
                f"{lacking} items of {tenant_id} have no vector in {space_id(row)} yet: "
                f"embed-service space fill --tenant {tenant_id}, then again"
            )
        for role, where in (("kept", "role = 'serving' AND number <> :number"), ("serving", "number = :number")):
            connection.execute(
                text(
                    f"UPDATE tenant_spaces SET role = '{role}', since = now() WHERE tenant_id = :tenant_id AND {where}"
                ),
                own,
            )


def drop(connection: Connection, row: SpaceRow) -> None:
    """Give a space up for all tenants. Raises NotReady where it serves somebody."""
    number = _number(connection, row)
    for tenant_id in _each_tenant(connection):
        _lock(connection, tenant_id)
        if (role := _role(connection, tenant_id, number)) in {"serving", "trial"}:
            raise NotReady(f"{space_id(row)} is {role} for {tenant_id}: end that first.")
        connection.execute(
            text("DELETE FROM tenant_spaces WHERE tenant_id = :tenant_id AND number = :number"),
            {"tenant_id": tenant_id, "number": number},
        )
    connection.execute(text("DELETE FROM embedding_spaces WHERE number = :number"), {"number": number})
    for kind in ("memory", "input"):
        connection.execute(text(f"DROP TABLE {kind}_vectors_{number}"))


def _registered(connection: Connection, row: SpaceRow) -> int:
    found = connection.execute(
        text("SELECT number FROM embedding_spaces WHERE space_id = :space_id"), {"space_id": space_id(row)}
    ).scalar_one_or_none()
    if found is not None:
        return found
    columns = ("space_id", *row)
    number: int = connection.execute(
        text(
            f"INSERT INTO embedding_spaces ({', '.join(columns)}) "
            f"VALUES ({', '.join(f':{name}' for name in columns)}) RETURNING number"
        ),
        {"space_id": space_id(row), **row},
    ).scalar_one()
    for statement in create_statements(
        number, row["dimension"], "halfvec" if row["storage"] == "halfvec" else "vector"
    ):
        connection.execute(text(statement))
    return number


def _number(connection: Connection, row: SpaceRow) -> int:
    found: Any = connection.execute(
        text("SELECT number FROM embedding_spaces WHERE space_id = :space_id"), {"space_id": space_id(row)}
    ).scalar_one_or_none()
    if found is None:
        raise NotReady(f"There is no embedding space {space_id(row)}.")
    return found


def _each_tenant(connection: Connection) -> Iterator[str]:
    """Every tenant, whose rows the connection sees until the next one."""
    connection.execute(text("SELECT set_config('app.purpose', 'operate', true)"))
    for tenant_id in list(connection.execute(text("SELECT tenant_id FROM tenants ORDER BY tenant_id")).scalars()):
        connection.execute(text("SELECT set_config('app.tenant_id', :tenant_id, true)"), {"tenant_id": tenant_id})
        yield tenant_id


def _role(connection: Connection, tenant_id: str, number: int) -> str | None:
    query = "SELECT role FROM tenant_spaces WHERE tenant_id = :tenant_id AND number = :number"
    return connection.execute(text(query), {"tenant_id": tenant_id, "number": number}).scalar_one_or_none()


def _lock(connection: Connection, tenant_id: str) -> None:
    connection.execute(text(LOCK_ROLES), {"tenant_id": tenant_id})


def space_id(row: SpaceRow) -> str:
    """The space's name."""
    own: dict[str, Any] = {name: value for name, value in row.items() if name not in {"storage", "endpoint"}}
    return EmbeddingSpace(**own).id
