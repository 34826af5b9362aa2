"""Memories of other assistants: read item by item, written in batches that may be written again."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

import ijson
import orjson
import structlog

from app.domain.errors import InvalidInput
from app.domain.imports import Brought, Format, read_item
from app.ports import Clock
from app.services.catalogues import CatalogueService
from app.services.transfer import TransferService
from app.store.engine import Database
from app.store.users import UserStore

log = structlog.get_logger(__name__)

BATCH = 200
"""Memories of one transaction."""

NAMED = 20
"""Malformed items that a report names; all are counted."""


@dataclass
class Report:
    """What a file held and what became of it. `written` were new; `malformed` names items by their place."""

    items: int = 0
    by_type: Counter[str] = field(default_factory=Counter[str])
    left_out: Counter[str] = field(default_factory=Counter[str])
    malformed_items: int = 0
    malformed: list[str] = field(default_factory=list[str])
    written: int = 0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "items": self.items,
            "memories": self.by_type.total(),
            "by_type": dict(self.by_type),
            "written": self.written,
            "left_out": dict(self.left_out),
            "malformed_items": self.malformed_items,
            "malformed": self.malformed,
        }


@dataclass(frozen=True)
class ImportService:
    """The use case."""

    database: Database
    transfer: TransferService
    catalogues: CatalogueService
    users: UserStore
    clock: Clock

    async def bring(
        self, tenant_id: str, user_id: str, form: Format, file: BinaryIO, progress: Callable[[Report], None]
    ) -> Report:
        """Write what a file holds; what was written before stays as it is. Raises InvalidInput where it is no such
        file, and where it ends in the middle, after what came before was written."""
        now = self.clock.now()
        async with self.database.begin(tenant_id) as connection:
            await self.users.ensure(connection, tenant_id, user_id, now)
        report = Report()
        batches = read_batches(file, form, user_id, now, report)
        while batch := await asyncio.to_thread(next, batches, None):
            report.written += await self._write(tenant_id, user_id, batch, now)
            progress(report)
        log.info("memories_imported", written=report.written, items=report.items, malformed=report.malformed_items)
        return report

    async def _write(self, tenant_id: str, user_id: str, batch: Sequence[Brought], now: datetime) -> int:
        """One transaction; how many were new."""
        slots = await self.catalogues.slots_in(tenant_id, [each.draft.content for each in batch])
        lines = [orjson.dumps(_row(user_id, each, found, now)) for each, found in zip(batch, slots, strict=True)]
        return (await self.transfer.import_(tenant_id, lines))["memories"]


def read_batches(
    file: BinaryIO, form: Format, user_id: str, now: datetime, report: Report
) -> Iterator[Sequence[Brought]]:
    """The memories in a file, some at a time; `report` is kept up to date. No more than one item and one batch is held
    in memory. Raises as `ImportService.bring`."""
    batch: list[Brought] = []
    for item in _items(file, form):
        report.items += 1
        try:
            found = read_item(form, user_id, item, now)
        except InvalidInput as error:
            report.malformed_items += 1
            if len(report.malformed) < NAMED:
                report.malformed.append(f"item {report.items}: {error}")
            continue
        report.left_out.update(found.left_out)
        for each in found.brought:
            report.by_type[each.draft.type.value] += 1
            batch.append(each)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _items(file: BinaryIO, form: Format) -> Iterator[Any]:
    """The items of a file, one after the other."""
    first = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    file.seek(0)
    if first not in (b"[", b"{"):
        raise InvalidInput("this is no JSON: neither a list nor an object")
    places = ["item"] if first == b"[" else _PLACES[form]
    seen = 0
    try:
        for prefix in places:
            file.seek(0)
            for item in ijson.items(file, prefix, use_float=True):
                seen += 1
                yield item
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the file is broken after item {seen}: {type(error).__name__}") from None
    if not seen and first == b"{":
        raise InvalidInput(f"there is no list at {' or '.join(each.removesuffix('.item') for each in places)}")


_PLACES: Mapping[Format, Sequence[str]] = {
    Format.MEM0: ("results.item", "memories.item"),
    Format.CHATGPT: ("conversations.item",),
    Format.CLAUDE: ("conversations.item",),
}
"""Where the items are in a file that is an object."""


def _row(user_id: str, brought: Brought, slots: Sequence[str], now: datetime) -> dict[str, Any]:
    draft = brought.draft
    return {
        "table": "memories",
        "memory_id": brought.memory_id,
        "user_id": user_id,
        "type": draft.type.value,
        "content": draft.content,
        "confidence": draft.confidence,
        "tags": draft.tags,
        "source": draft.source,
        "slots": list(slots),
        "created_at": now,
        "updated_at": now,
        "valid_from": draft.valid_from,
    }
