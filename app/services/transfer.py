"""Everything held on a user: out as a stream, in again, or gone."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson
import structlog
from sqlalchemy.exc import DBAPIError

from app.domain.errors import Forbidden, InvalidInput, NotFound
from app.domain.memory import MemoryType
from app.domain.spaces import StoredSpace
from app.domain.users import check_user_id
from app.services.ingest import IngestService
from app.services.jobs.graphs import GraphService
from app.services.spaces import Spaces
from app.services.training.erasure import Erasure, TrainingErasure
from app.store.engine import Database
from app.store.transfer import TABLES, export_rows, import_rows, parse_row
from app.store.users import UserStore

log = structlog.get_logger(__name__)

EMBED_CHUNK = 256
_NO_SUCH_USER = "23503"  # the SQLSTATE of a foreign key violation


@dataclass(frozen=True)
class TransferService:
    """Export, import and erasure of one user."""

    database: Database
    spaces: Spaces
    training: TrainingErasure
    users: UserStore
    graphs: GraphService
    ingest: IngestService

    async def check_user(self, tenant_id: str, user_id: str) -> None:
        """Raise NotFound unless the tenant knows this user."""
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")

    async def export(self, tenant_id: str, user_id: str) -> AsyncIterator[bytes]:
        """One JSON line per row held on the user, in a fixed order: equal data gives equal bytes."""
        lines = 0
        space = (await self.spaces.of(tenant_id)).serving
        async with self.database.begin(tenant_id) as connection:
            async for row in export_rows(connection, tenant_id, user_id, space):
                lines += 1
                yield orjson.dumps(row, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
        log.info("user_exported", lines=lines)

    async def import_(self, tenant_id: str, lines: Iterable[bytes], only: str | None = None) -> Mapping[str, int]:
        """Write an export in one transaction; rows that exist already are left alone.

        Memories from another embedding space are embedded anew. Raises InvalidInput naming the first line
        that cannot be read, and Forbidden the first one of another user than `only`; nothing is written then.
        """
        rows = await asyncio.to_thread(parse_lines, lines, only)
        space = (await self.spaces.of(tenant_id)).serving
        _check_dimensions(rows["hypothesis_sets"], space)
        await self._embed_foreign(space, rows["memories"], "content", "embedding")
        await self._embed_foreign(space, rows["hypothesis_sets"], "input_text", "input_vector")
        try:
            async with self.database.begin(tenant_id) as connection:
                await self.spaces.hold(connection, tenant_id, space)
                written = await import_rows(connection, tenant_id, rows, space)
                await self.graphs.want(connection, tenant_id, *{row["user_id"] for row in rows["memories"]})
                await self.ingest.resume(connection, tenant_id, sorted({row["user_id"] for row in rows["ingests"]}))
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", "")
            if state == _NO_SUCH_USER:
                raise InvalidInput("the stream contradicts itself: a row refers to a user that is not in it") from None
            if state.startswith(("22", "23", "54")):
                raise InvalidInput("the stream holds a value out of its range") from None
            raise
        log.info("user_imported", rows=sum(written.values()))
        return written

    async def erase(self, tenant_id: str, user_id: str) -> Erasure:
        """Erase the user from every table, training file and dataset; rows and lines removed, by place, and the
        adapters that were trained on them.

        Whoever writes about the user holds them, and so comes before or finds them gone. If the files cannot
        be rewritten nothing is erased from the tables, and the call can be repeated. Raises NotFound for an
        unknown user.
        """
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.hold_alone(connection, tenant_id, user_id):
                raise NotFound("no such user")
            left = await self.training.erase_user(connection, tenant_id, user_id)
            erased = await self.users.erase(connection, tenant_id, user_id)
        lines = sum(left.erased.values())
        log.info("user_erased", rows=sum(erased.values()), training_lines=lines, adapters=left.trained_adapters)
        return replace(left, erased={**erased, **left.erased})

    async def _embed_foreign(self, space: StoredSpace, rows: list[dict[str, Any]], text: str, field: str) -> None:
        """Give rows without a vector in the space one."""
        foreign = [
            row
            for row in rows
            if row["space"] != space.id or row[field] is None or len(row[field]) != space.space.dimension
        ]
        for start in range(0, len(foreign), EMBED_CHUNK):
            chunk = foreign[start : start + EMBED_CHUNK]
            embedded = await self.spaces.embed_in(space, [row[text] for row in chunk])
            for row, vector in zip(chunk, embedded.vectors, strict=True):
                row[field], row["space"] = vector, space.id


def _check_dimensions(sets: list[dict[str, Any]], space: StoredSpace) -> None:
    """Raise InvalidInput for an input vector that could not be compared with others of its space."""
    dimension = space.space.dimension
    for row in sets:
        if row["space"] == space.id and (row["input_vector"] is None or len(row["input_vector"]) != dimension):
            raise InvalidInput(f"input_vector has to have the {dimension} dimensions of its space")


def parse_lines(lines: Iterable[bytes], only: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind. Raises InvalidInput naming the first bad line, Forbidden the first of another user than `only`."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TABLES}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
            if not isinstance(document, dict):
                raise InvalidInput("not a JSON object")
            line_of = cast(dict[str, Any], document)
            if only is not None and line_of.get("user_id") != only:
                raise Forbidden(f"this key is bound to another user than line {number} names")
            kind, row = parse_row(line_of)
            check_user_id(row["user_id"])
            if kind == "memories" and row["type"] not in MemoryType.__members__:
                raise InvalidInput(f"type has to be one of {', '.join(MemoryType)}")
        except orjson.JSONDecodeError:
            raise InvalidInput(f"line {number}: not JSON") from None
        except InvalidInput as error:
            raise InvalidInput(f"line {number}: {error}") from None
        rows[kind].append(row)
    return rows
