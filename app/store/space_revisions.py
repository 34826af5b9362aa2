"""A change of embedding space as Alembic revisions, for people who drive migrations themselves.

`embed-service space plan --revisions` writes the revisions; they call the functions here, on all tenants at once.

    expand    the new space's tables; from now on what is written is noted (down: drop them)
    switch    the new space serves where nothing is lacking               (down: the old one serves again)
    contract  the old space's tables go                                   (down: made again, to be filled)

Between `expand` and `switch` the space has to be filled (`embed-service space fill`); `switch` says so, and nothing is
changed by it then. `expand` and `drop` commit on their way, so that people who write wait for moments only; one that is
broken off goes on when it is run again.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypedDict

from alembic import op
from sqlalchemy import Connection, text

from app.domain.embeddings import EmbeddingSpace
from app.domain.errors import NotFilled, NotReady
from app.store.brief import briefly_on
from app.store.space_drops import FORGET_NOTES, NOTES
from app.store.space_fills import missing_query
from app.store.space_tables import (
    create_statements,
    partition_statements,
    retired_name,
    table_statements,
    tie_statements,
)
from app.store.spaces import KINDS, LOCK_ROLES, LOCK_SPACES, TIES


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
    """Make the space for every tenant that another one serves. What is there is noted by whoever fills it. Raises
    NotReady where what a tenant had in it is still being deleted."""
    number = _registered(connection, row)
    _commit()
    for statement in _untied(connection, number):
        briefly_on(connection, partial(connection.execute, text(statement)))
        _commit()
    for tenant_id in _tenants(connection):
        briefly_on(connection, partial(_begin_filling, connection, tenant_id, number, row))
        _commit()


def _begin_filling(connection: Connection, tenant_id: str, number: int, row: SpaceRow) -> None:
    own = {"tenant_id": tenant_id, "number": number}
    _act_for(connection, tenant_id)
    _lock(connection, tenant_id)
    if _role(connection, tenant_id, number) == "dropped":
        raise NotReady(
            f"What {tenant_id} had in {space_id(row)} is still being deleted: "
            f"embed-service space drop --tenant {tenant_id}, then again"
        )
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
    for tenant_id in _tenants(connection):
        own = {"tenant_id": tenant_id, "number": number}
        _act_for(connection, tenant_id)
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
    """Give a space up for all tenants. Raises NotReady where it serves somebody: then it is given up for nobody."""
    number = _number(connection, row, or_retired=True)
    tenants = _tenants(connection)
    for tenant_id in tenants:
        _act_for(connection, tenant_id)
        if (role := _role(connection, tenant_id, number)) in {"serving", "trial"}:
            raise NotReady(f"{space_id(row)} is {role} for {tenant_id}: end that first.")
    for tenant_id in tenants:
        briefly_on(connection, partial(_end_use, connection, tenant_id, number, row))
        _commit()
        while _forget_notes(connection, tenant_id, number):
            _commit()
    connection.execute(
        text("UPDATE embedding_spaces SET space_id = :retired WHERE number = :number"),
        {"retired": retired_name(space_id(row), number), "number": number},
    )
    _commit()
    for kind in KINDS:
        _run(connection, partition_statements(kind, number))
        _commit()
        briefly_on(connection, partial(_run, connection, table_statements(kind, number)))
        _commit()
    _forget(connection, number)


def _end_use(connection: Connection, tenant_id: str, number: int, row: SpaceRow) -> None:
    _act_for(connection, tenant_id)
    _lock(connection, tenant_id)
    if (role := _role(connection, tenant_id, number)) in {"serving", "trial"}:
        raise NotReady(f"{space_id(row)} is {role} for {tenant_id} by now: end that first.")
    connection.execute(
        text("UPDATE tenant_spaces SET role = 'dropped' WHERE tenant_id = :tenant_id AND number = :number"),
        {"tenant_id": tenant_id, "number": number},
    )


def _forget_notes(connection: Connection, tenant_id: str, number: int) -> int:
    _act_for(connection, tenant_id)
    return connection.execute(FORGET_NOTES, {"tenant_id": tenant_id, "number": number, "count": NOTES}).rowcount


def _run(connection: Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(text(statement))


def _forget(connection: Connection, number: int) -> None:
    for tenant_id in _tenants(connection):
        _act_for(connection, tenant_id)
        connection.execute(
            text("DELETE FROM tenant_spaces WHERE tenant_id = :tenant_id AND number = :number"),
            {"tenant_id": tenant_id, "number": number},
        )
    connection.execute(text("DELETE FROM embedding_spaces WHERE number = :number"), {"number": number})


def _registered(connection: Connection, row: SpaceRow) -> int:
    """The number of the space with its tables, which are not tied yet."""
    connection.execute(LOCK_SPACES)
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
    storage = "halfvec" if row["storage"] == "halfvec" else "vector"
    _run(connection, create_statements(number, row["dimension"], storage))
    return number


def _number(connection: Connection, row: SpaceRow, *, or_retired: bool = False) -> int:
    """The space's number; `or_retired`: also of one whose tables somebody began to drop. Raises NotReady."""
    query = "SELECT number FROM embedding_spaces WHERE space_id = :space_id"
    if or_retired:
        query += " OR space_id = :space_id || '#' || number ORDER BY space_id LIMIT 1"
    found: Any = connection.execute(text(query), {"space_id": space_id(row)}).scalar_one_or_none()
    if found is None:
        raise NotReady(f"There is no embedding space {space_id(row)}.")
    return found


def _untied(connection: Connection, number: int) -> list[str]:
    tables = {"memory_table": f"memory_vectors_{number}", "input_table": f"input_vectors_{number}"}
    held = set(connection.execute(TIES, tables).scalars())
    return [statement for name, statement in tie_statements(number).items() if name not in held]


def _commit() -> None:
    """End the transaction of the migration and begin another one."""
    with op.get_context().autocommit_block():
        pass


def _tenants(connection: Connection) -> list[str]:
    connection.execute(text("SELECT set_config('app.purpose', 'operate', true)"))
    return list(connection.execute(text("SELECT tenant_id FROM tenants ORDER BY tenant_id")).scalars())


def _act_for(connection: Connection, tenant_id: str) -> None:
    """See the rows of a tenant until the transaction ends, or another tenant's turn comes."""
    connection.execute(text("SELECT set_config('app.tenant_id', :tenant_id, true)"), {"tenant_id": tenant_id})


def _role(connection: Connection, tenant_id: str, number: int) -> str | None:
    query = "SELECT role FROM tenant_spaces WHERE tenant_id = :tenant_id AND number = :number"
    return connection.execute(text(query), {"tenant_id": tenant_id, "number": number}).scalar_one_or_none()


def _lock(connection: Connection, tenant_id: str) -> None:
    connection.execute(text(LOCK_ROLES), {"tenant_id": tenant_id})


def space_id(row: SpaceRow) -> str:
    """The space's name."""
    own: dict[str, Any] = {name: value for name, value in row.items() if name not in {"storage", "endpoint"}}
    return EmbeddingSpace(**own).id
