"""Path and query parameters that several routes share."""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query

from app.api.paths import user_in_segment
from app.api.schemas import FACET_NAME
from app.domain.memory import Memory
from app.domain.users import MAX_USER_ID, NO_CONTROL, check_user_id

_SCHEMA: dict[str, Any] = {"minLength": 1, "maxLength": MAX_USER_ID, "pattern": NO_CONTROL}
_ABOUT = "The tenant's own name for a user."


def _from_path(user_id: Annotated[str, Path(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_in_segment(user_id))


def _from_query(user_id: Annotated[str, Query(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_id)


PathUserId = Annotated[str, Depends(_from_path)]
QueryUserId = Annotated[str, Depends(_from_query)]
QueryCursor = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9_-]{32}$", description="Where the page before ended: its `cursor`.")
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PLACE = struct.Struct(">q16s")


def cursor_of(memory: Memory) -> str:
    """A memory's place in a list by time."""
    return cursor_at(memory.valid_from, memory.memory_id)


def cursor_at(moment: datetime, item_id: UUID) -> str:
    """A place in a list by time: 24 bytes in 32 characters."""
    return urlsafe_b64encode(_PLACE.pack((moment - _EPOCH) // _MICROSECOND, item_id.bytes)).decode()


def place_of(cursor: str | None) -> tuple[datetime, UUID] | None:
    """The moment and the id of a place in a list; every cursor of the right form is one."""
    if cursor is None:
        return None
    moment, memory_id = _PLACE.unpack(urlsafe_b64decode(cursor))
    within = min(max(moment, (_FIRST - _EPOCH) // _MICROSECOND), (_LAST - _EPOCH) // _MICROSECOND)
    return _EPOCH + within * _MICROSECOND, UUID(bytes=memory_id)


MemoryId = Annotated[UUID, Path(description="A memory's id.")]
"""In a path as `{memory_id:uuid}`: what is no id is no path either."""

PathFacet = Annotated[str, Path(pattern=FACET_NAME, description="A facet's name.")]

StatementId = Annotated[UUID, Path(description="The id of a statement that was set apart.")]
"""In a path as `{item_id:uuid}`."""

RecallId = Annotated[UUID, Path(description="A recall's id.")]
"""In a path as `{recall_id:uuid}`."""

JobId = Annotated[UUID, Path(description="A job's id.")]
"""In a path as `{job_id:uuid}`."""
