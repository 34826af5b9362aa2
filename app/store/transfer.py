"""Everything held on a user as lines, and lines as rows again, the same for every table.

A line is `{"table": <name>, ...}` with every stored column but the tenant (the reader's own is used) and
what the database computes. Moments are RFC 3339, ids strings, vectors base64 of little-endian float32.
"""

import base64
import binascii
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any, cast

import numpy as np
from pgvector.sqlalchemy import VECTOR  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    DateTime,
    Float,
    Integer,
    Select,
    Table,
    Text,
    Uuid,
    and_,
    case,
    column,
    func,
    select,
)
from sqlalchemy import cast as cast_as
from sqlalchemy import table as from_table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.decisions import Stakes
from app.domain.errors import InvalidInput
from app.domain.memory import MemoryType
from app.domain.places import conversation_of, place_of
from app.domain.spaces import StoredSpace
from app.store.facet_records import check_evidence, check_facets, check_leanings
from app.store.facets import facets_as_now
from app.store.spaces import Kind, SpaceStore
from app.store.tables import DERIVED, KEPT_BY_DATABASE, USER_TABLES
from app.store.vectors import vector_from_bytes

TABLES: Mapping[str, Table] = {table.name: table for table in reversed(USER_TABLES)}
"""Tables by name, users first."""

VECTORS: Mapping[str, tuple[Kind, str, str]] = {
    "memories": ("memory", "memory_id", "embedding"),
    "hypothesis_sets": ("input", "set_id", "input_vector"),
}
"""What has a vector: as the spaces call it, its key, and the field that its line has the vector in, beside `space`."""

_Chunk = Sequence[tuple[dict[str, Any], dict[str, Any]]]
"""Rows, each beside what of it is written."""

CHUNK = 500
"""Rows of one statement."""

MAX_VALUE_CHARS = 2_000_000
MAX_DEPTH = 32
"""Levels of a stored document; the service's own have four."""


def _stored(table: Table) -> list[Column[Any]]:
    """What a table's rows say: without their tenant, and without what the database makes by itself."""
    left_out = KEPT_BY_DATABASE | DERIVED | {"tenant_id"}
    return [column for column in table.columns if column.name not in left_out and column.computed is None]


def _columns(table: Table) -> list[Column[Any]]:
    """The fields of a table's lines."""
    own = _stored(table)
    if table.name not in VECTORS:
        return own
    return [*own, Column("space", Text), Column(VECTORS[table.name][2], VECTOR)]


async def export_rows(
    connection: AsyncConnection, tenant_id: str, user_id: str, space: StoredSpace
) -> AsyncIterator[dict[str, Any]]:
    """A line for every row of the user, table by table, each table in the order of its keys; with vectors of `space`,
    where there are."""
    for name, table in TABLES.items():
        columns = _columns(table)
        query = (
            _with_vectors(table, space)
            .where(table.c.tenant_id == tenant_id, table.c.user_id == user_id)
            .order_by(*table.primary_key.columns)
        )
        async with connection.stream(query) as rows:
            async for row in rows:
                values = zip(columns, row, strict=True)
                # str: the driver wants plain keys, and names that need quoting are a subclass of it.
                yield {"table": name} | {str(column.name): _encode(column, value) for column, value in values}


def _with_vectors(table: Table, space: StoredSpace) -> Select[Any]:
    """A table's rows in the order of `_columns`."""
    own = _stored(table)
    selected = [func.vector_send(each).label(each.name) if isinstance(each.type, VECTOR) else each for each in own]
    if table.name not in VECTORS:
        return select(*selected)
    kind, key, field = VECTORS[table.name]
    held = from_table(
        space.memory_table if kind == "memory" else space.input_table,
        column("tenant_id"),
        column("user_id"),
        column(key),
        column("embedding", VECTOR),
    )
    is_same = and_(*(held.c[name] == table.c[name] for name in ("tenant_id", "user_id", key)))
    sent = func.vector_send(cast_as(held.c.embedding, VECTOR)).label(field)
    return select(*selected, case((held.c.embedding.is_not(None), space.id)).label("space"), sent).select_from(
        table.outerjoin(held, is_same)
    )


def _encode(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, VECTOR):
        return base64.b64encode(vector_from_bytes(value).astype("<f4").tobytes()).decode()
    if isinstance(value, list) and isinstance(column.type, ARRAY):
        return [_plain(item) for item in cast(list[Any], value)]
    return _plain(value)


def _plain(value: Any) -> Any:
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
    row = {column.name: _decode(column, line.get(column.name)) for column in columns}
    if table is TABLES["users"]:
        row["facets"] = facets_as_now(row["facets"] or {}, row["updated_at"])
    return table.name, row


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
        return _moments if isinstance(cast(Any, column.type).item_type, DateTime) else _texts
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


def _moments(value: Any) -> list[datetime | None]:
    if not isinstance(value, list):
        raise TypeError
    return [None if item is None else _moment(item) for item in cast(list[Any], value)]


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
    """Facet name -> what is believed of it."""
    check_facets(_record(value))
    return value


def _record_of_evidence(value: Any) -> Any:
    """What speaks of facets."""
    check_evidence(_record(value))
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
        if not 1 <= _integer(shown.get("rank", 1)) <= len(cast(list[Any], value)):
            raise ValueError
        for number in _record(shown.get("features", {})).values():
            _number(number)
        _record_of_slots(shown.get("slots"))
        check_leanings(shown.get("leanings", {}))
        for memory_id in _texts(shown.get("evidence")):
            _uuid(memory_id)
    return cast(Any, value)


def _record_of_policy(value: Any) -> Any:
    """What a decision was made of: what was at stake, and the order of what was shown."""
    policy = _record(value)
    if "stakes" in policy:
        stakes = _record(policy["stakes"])
        if stakes.keys() != {each.name for each in fields(Stakes)}:
            raise ValueError
        for number in (policy.get("specificity"), *stakes.values()):
            _number(number)
    if policy.get("order") is not None:
        order = _record(policy["order"])
        _boolean(order.get("is_drawn"))
        _number(order.get("shuffle"))
        _integer(order.get("version"))
    return policy


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
    "evidence": _record_of_evidence,
    "hypotheses": _list_of_hypotheses,
    "chosen_slots": _record_of_slots,
    "policy": _record_of_policy,
}
"""What is read back as more than a document has to have its shape."""


async def import_rows(
    connection: AsyncConnection, tenant_id: str, rows: Mapping[str, list[dict[str, Any]]], space: StoredSpace
) -> dict[str, int]:
    """Write rows by table, with the vectors that are of `space`; rows that exist already stay as they are. Rows
    written, by table."""
    spaces = SpaceStore()
    written: dict[str, int] = {}
    for name, table in TABLES.items():
        written[name] = 0
        kind, key, field = VECTORS.get(name, ("memory", "", ""))
        for read in _chunks(table, rows.get(name, ())):
            chunk = await _own_memories(connection, tenant_id, read) if name == "memories" else read
            values = [{"tenant_id": tenant_id, **present} for present, _ in chunk]
            if not values:
                continue
            if name == "memories":
                values = [{**value, "place": _place(value)} for value in values]
            query = upsert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key.columns)
            new = {tuple(row) for row in await connection.execute(query)}
            written[name] += len(new)
            if not field:
                continue
            keys = [column.name for column in table.primary_key.columns]
            with_vector = [
                row
                for value, (_, row) in zip(values, chunk, strict=True)
                if tuple(value[each] for each in keys) in new and row[field] is not None and row["space"] == space.id
            ]
            if with_vector:
                items = [(row["user_id"], row[key]) for row in with_vector]
                vectors = np.stack([row[field] for row in with_vector])
                await spaces.write(connection, tenant_id, space, kind, items, vectors, "serving")
    return written


async def _own_memories(connection: AsyncConnection, tenant_id: str, chunk: _Chunk) -> _Chunk:
    """Those of memories whose ids no other user has. An id stands for one memory of the tenant: it belongs to the user
    who has it, else to the first one who brings it."""
    memories = TABLES["memories"]
    query = select(memories.c.memory_id, memories.c.user_id).where(
        memories.c.tenant_id == tenant_id, memories.c.memory_id.in_([row["memory_id"] for _, row in chunk])
    )
    owners = {row.memory_id: row.user_id for row in await connection.execute(query)}
    return [pair for pair in chunk if owners.setdefault(pair[1]["memory_id"], pair[1]["user_id"]) == pair[1]["user_id"]]


def _place(row: Mapping[str, Any]) -> int | None:
    """Where a memory lies in its conversation, which is not part of an export."""
    try:
        kind = MemoryType(row["type"])
    except ValueError:
        raise InvalidInput(f"type has to be one of {', '.join(MemoryType)}") from None
    conversation = conversation_of(kind, row["session"], row["source"], row["valid_from"])
    return None if conversation is None or row["turn"] is None else place_of(conversation, row["turn"])


def _chunks(table: Table, rows: Iterable[dict[str, Any]]) -> Iterator[_Chunk]:
    """Rows, each with what of it is written, in parts that one statement takes: those of a part have the same columns.
    A value that is missing is the database's to give."""
    own = {column.name: column for column in _stored(table)}
    given = {
        name for name, column in own.items() if column.server_default is not None or isinstance(column.type, JSONB)
    }

    def present(row: dict[str, Any]) -> dict[str, Any]:
        return {name: row[name] for name in own if row[name] is not None or name not in given}

    pairs = ((present(row), row) for row in rows)
    for _, alike in groupby(pairs, lambda pair: tuple(pair[0])):
        while chunk := list(islice(alike, CHUNK)):
            yield chunk
