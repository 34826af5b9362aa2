"""Path and query parameters that several routes share."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query

from app.api.paths import user_in_segment
from app.domain.users import MAX_USER_ID, NO_CONTROL, check_user_id

_SCHEMA: dict[str, Any] = {"minLength": 1, "maxLength": MAX_USER_ID, "pattern": NO_CONTROL}
_ABOUT = "The tenant's own name for a user."


def _from_path(user_id: Annotated[str, Path(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_in_segment(user_id))


def _from_query(user_id: Annotated[str, Query(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_id)


PathUserId = Annotated[str, Depends(_from_path)]
QueryUserId = Annotated[str, Depends(_from_query)]
MemoryId = Annotated[UUID, Path(description="A memory's id.")]
"""In a path as `{memory_id:uuid}`: what is no id is no path either."""
