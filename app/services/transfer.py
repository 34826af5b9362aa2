"""Everything held on a user: out as a stream, in again, or gone."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson
import structlog
from sqlalchemy.exc import DBAPIError

from app.domain.errors import InvalidInput, NotFound
from app.domain.memory import MemoryType
from app.ports import Embedder
from app.services.training.erasure import Erasure, TrainingErasure
from app.store.engine import Database
from app.store.transfer import TABLES, export_rows, import_rows, parse_row
from app.store.users import UserStore

log = structlog.get_logger(__name__)

EMBED_CHUNK = 256
_USER_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")
_NO_SUCH_USER = "23503"  # the SQLSTATE of a foreign key violation


@dataclass(frozen=True)
class TransferService:
    """Export, import and erasure of one user."""

    database: Database
    embedder: Embedder
    training: TrainingErasure
    users: UserStore

    async def check_user(self, tenant_id: str, user_id: str) -> None:
        """Raise NotFound unless the tenant knows this user."""
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.exists(connection, tenant_id, user_id):
                raise NotFound("no such user")

    async def export(self, tenant_id: str, user_id: str) -> AsyncIterator[bytes]:
        """One JSON line per row held on the user, in a fixed order: equal data gives equal bytes."""
        lines = 0
        async with self.database.begin(tenant_id) as connection:
            async for row in export_rows(connection, tenant_id, user_id):
                lines += 1
                yield orjson.dumps(row, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
        log.info("user_exported", lines=lines)

    async def import_(self, tenant_id: str, lines: Iterable[bytes]) -> Mapping[str, int]:
        """Write an export in one transaction; rows that exist already are left alone.

        Memories from another embedding space are embedded anew. Raises InvalidInput naming the first line
        that cannot be read; nothing is written then.
        """
        rows = await asyncio.to_thread(parse_lines, lines)
        self._check_dimensions(rows["hypothesis_sets"])
        await self._embed_foreign(rows["memories"])
        try:
            async with self.database.begin(tenant_id) as connection:
                written = await import_rows(connection, tenant_id, rows)
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

    def _check_dimensions(self, sets: list[dict[str, Any]]) -> None:
        """Raise InvalidInput for an input vector that could not be compared with others of its space."""
        space = self.embedder.space
        for row in sets:
            if row["space"] == space.id and (
                row["input_vector"] is None or len(row["input_vector"]) != space.dimension
            ):
                raise InvalidInput(f"input_vector has to have the {space.dimension} dimensions of its space")

    async def _embed_foreign(self, memories: list[dict[str, Any]]) -> None:
        space = self.embedder.space
        foreign = [row for row in memories if row["space"] != space.id or len(row["embedding"]) != space.dimension]
        for start in range(0, len(foreign), EMBED_CHUNK):
            chunk = foreign[start : start + EMBED_CHUNK]
            vectors = await self.embedder.embed([row["content"] for row in chunk])
            for row, vector in zip(chunk, vectors, strict=True):
                row["embedding"] = vector
                row["space"] = space.id


def parse_lines(lines: Iterable[bytes]) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind. Raises InvalidInput naming the first bad line."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TABLES}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
            if not isinstance(document, dict):
                raise InvalidInput("not a JSON object")
            kind, row = parse_row(cast(dict[str, Any], document))
            if not _USER_ID.fullmatch(row["user_id"]):
                raise InvalidInput("user_id has 1 to 256 characters and no control characters")
            if kind == "memories" and row["type"] not in MemoryType.__members__:
                raise InvalidInput(f"type has to be one of {', '.join(MemoryType)}")
        except orjson.JSONDecodeError:
            raise InvalidInput(f"line {number}: not JSON") from None
        except InvalidInput as error:
            raise InvalidInput(f"line {number}: {error}") from None
        rows[kind].append(row)
    return rows
