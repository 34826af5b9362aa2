"""Everything held on a user as lines, and lines as rows again, the same for every table.

A line is `{"table": <name>, ...}` with every stored column but the tenant (the reader's own is used) and
what the database computes. Moments are RFC 3339, ids strings, vectors base64 of little-endian float32.
"""

import base64
import binascii
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
from pgvector.sqlalchemy import VECTOR  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import ARRAY, Boolean, Column, DateTime, Float, Integer, Table, Uuid, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput
from app.store.memories import vector_from_bytes
from app.store.tables import USER_TABLES

TABLES: Mapping[str, Table] = {table.name: table for table in reversed(USER_TABLES)}
"""Tables by name, users first."""

MAX_VALUE_CHARS = 2_000_000
MAX_DEPTH = 32
"""Levels of a stored document; the service's own have four."""


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name != "tenant_id" and column.computed is None]


async def export_rows(connection: AsyncConnection, tenant_id: str, user_id: str) -> AsyncIterator[dict[str, Any]]:
    """A line for every row of the user, table by table, each table in the order of its keys."""
    for name, table in TABLES.items():
        columns = _columns(table)
        query = (
            select(
                *(
                    func.vector_send(column).label(column.name) if isinstance(column.type, VECTOR) else column
                    for column in columns
                )
            )
            .where(table.c.tenant_id == tenant_id, table.c.user_id == user_id)
            .order_by(*table.primary_key.columns)
        )
        async with connection.stream(query) as rows:
            async for row in rows:
                values = zip(columns, row, strict=True)
                # str: the driver wants plain keys, and names that need quoting are a subclass of it.
                yield {"table": name} | {str(column.name): _encode(column, value) for column, value in values}


def _encode(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, VECTOR):
        return base64.b64encode(vector_from_bytes(value).astype("<f4").tobytes()).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, uuid.UUID) else value


def parse_row(line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(table, column values) of a line. Raises InvalidInput saying what is wrong with it."""
    table = TABLES.get(str(line.get("table")))
    if table is None:
        raise InvalidInput(f"table has to be one of {', '.join(TABLES)}")
    columns = _columns(table)
    unknown = sorted(set(line) - {column.name for column in columns} - {"table"})
    if unknown:
        raise InvalidInput(f"{table.name} has no field {', '.join(unknown)}")
    return table.name, {column.name: _decode(column, line.get(column.name)) for column in columns}


def _decode(column: Column[Any], value: Any) -> Any:
    if value is None:
        if column.nullable or column.server_default is not None:
            return None
        raise InvalidInput(f"{column.name} is missing")
    try:
        decoded = _decoder(column)(value)
    except (ValueError, TypeError, binascii.Error, OverflowError):
        raise InvalidInput(f"{column.name} is not a {_type_name(column)}") from None
    return decoded


def _decoder(column: Column[Any]) -> Callable[[Any], Any]:
    if isinstance(column.type, VECTOR):
        return _vector
    if isinstance(column.type, ARRAY):
        return _texts
    for kind, decoder in (
        (Uuid, _uuid),
        (DateTime, _moment),
        (Boolean, _boolean),
        (Float, _number),
        (Integer, _integer),
        (JSONB, _DOCUMENTS.get(column.name, _document)),
    ):
        if isinstance(column.type, kind):
            return decoder
    return _text


def _type_name(column: Column[Any]) -> str:
    return _decoder(column).__name__.strip("_").replace("_", " ")


def _vector(value: Any) -> Any:
    vector = np.frombuffer(base64.b64decode(_text(value), validate=True), dtype="<f4").astype(np.float32)
    if not 1 <= len(vector) <= 16000 or not np.isfinite(vector).all():
        raise ValueError
    return vector


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(item) for item in cast(list[Any], value)]


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > MAX_VALUE_CHARS:
        raise TypeError
    value.encode("utf-8")
    return value


def _uuid(value: Any) -> uuid.UUID:
    return uuid.UUID(_text(value))


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise TypeError
    return value


def _document(value: Any) -> Any:
    """A JSON object or array without NUL characters anywhere, nested no deeper than MAX_DEPTH."""
    if not isinstance(value, dict | list):
        raise TypeError
    _check_document(cast(Any, value), MAX_DEPTH)
    return cast(Any, value)


def _check_document(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, dict):
        for key, item in cast(dict[Any, Any], value).items():
            _text(key)
            _check_document(item, depth - 1)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            _check_document(item, depth - 1)


def _record_of_facets(value: Any) -> Any:
    """Facet name -> value and strength."""
    for facet in _record(value).values():
        belief = _record(facet)
        if not 0.0 <= _number(belief.get("value")) <= 1.0 or _number(belief.get("strength")) <= 0.0:
            raise ValueError
    return value


def _list_of_hypotheses(value: Any) -> Any:
    """Hypotheses as `app.services.hypotheses.as_document` makes them."""
    if not isinstance(value, list):
        raise TypeError
    for item in cast(list[Any], _document(value)):
        shown = _record(item)
        for name in ("id", "question", "request", "rationale"):
            _text(shown.get(name))
        for name in ("confidence", "score"):
            _number(shown.get(name))
        _record_of_slots(shown.get("slots"))
        for memory_id in _texts(shown.get("evidence")):
            _uuid(memory_id)
    return cast(Any, value)


def _record_of_slots(value: Any) -> Any:
    """Slot name -> value."""
    _texts(list(_record(value).values()))
    return value


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return cast(dict[str, Any], _document(value))


_DOCUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "facets": _record_of_facets,
    "hypotheses": _list_of_hypotheses,
    "chosen_slots": _record_of_slots,
}
"""What is read back as more than a document has to have its shape."""


async def import_rows(
    connection: AsyncConnection, tenant_id: str, rows: Mapping[str, list[dict[str, Any]]]
) -> dict[str, int]:
    """Write rows by table; rows that exist already stay as they are. Rows written, by table."""
    written: dict[str, int] = {}
    for name, table in TABLES.items():
        written[name] = 0
        for row in rows.get(name, ()):
            present = {name: value for name, value in row.items() if value is not None}
            query = upsert(table).values(tenant_id=tenant_id, **present).on_conflict_do_nothing()
            written[name] += (await connection.execute(query)).rowcount
    return written
